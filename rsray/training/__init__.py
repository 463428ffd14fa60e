"""Training in one process with plain torch; `rsray.distributed.train` runs several together."""
