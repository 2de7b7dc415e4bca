"""The search: plan, space, Ray Tune, Optuna, MLflow, and what comes back."""
