"""Everything that runs on Ray: the only place that imports ray and optuna."""
