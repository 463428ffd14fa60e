"""Tiny data sets on disk, and the real ones where they are."""

import numpy as np
import pytest
from PIL import Image
from shared_files import SHARED


@pytest.fixture
def shared_data():
    root = SHARED / "data"
    if not root.is_dir():
        pytest.skip(f"no real data at {root}")
    return str(root)


@pytest.fixture
def save_picture():
    """Return a function that writes a random picture and returns its pixels [H, W(, 3)]."""
    rng = np.random.default_rng(0)

    def save(path, height=6, width=6, mode="RGB"):
        shape = (height, width) if mode == "L" else (height, width, len(mode))
        pixels = rng.integers(0, 256, shape, np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    return save
