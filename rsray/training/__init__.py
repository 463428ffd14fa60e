"""Training in one process with plain torch; the fleet layer runs several of these together."""
