"""A network's weights as a file."""

from pathlib import Path

from rsray.models import weights_bytes


def save_weights(model, path, metadata=None):
    Path(path).write_bytes(weights_bytes(model, metadata))
