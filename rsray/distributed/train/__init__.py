"""Training on Ray Train: worker groups, and how they are fed."""
