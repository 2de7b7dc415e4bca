"""Which trials there are, and running them: suggestions, schedulers, phases, Ray Tune."""
