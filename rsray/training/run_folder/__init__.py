"""A RUN folder: claimed by one configuration; its records, checkpoints and metrics."""
