"""The search on Ray Tune with Optuna: its trials, its study, its winner."""
