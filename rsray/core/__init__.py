"""The mathematics of randomized smoothing: torch, numpy and scipy only."""
