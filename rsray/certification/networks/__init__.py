"""The network that is certified: a RUN or a checkpoint, an ensemble, a denoiser before it."""
