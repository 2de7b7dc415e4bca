"""The search: plan, space, Ray Tune, Optuna, MLflow, and what comes back."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # where nobody listens, warnings would go to a terminal
