"""How well a network classifies images without noise, by what is done to them before it: a hint."""

# Shapes: N images, C channels.
from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from rsray.core.independence import as_images_for
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.models.normalise import Normalisation

IMAGES, AT_ONCE, MOST_SECONDS = 300, 20, 10.0


@torch.inference_mode()
def clean_accuracies(
    network: nn.Module, candidates: Mapping[str, Normalisation], split: ImageSplit
) -> tuple[dict[str, float], int]:
    """Return the fraction of right answers behind each candidate layer, and of how many images.

    It looks at up to 300 images spread over the split, at the same ones for all candidates, for
    some seconds. A network that raises is wrong: some insist on images in [0, 1].
    """
    spread = np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(np.int64)
    order = np.random.default_rng(0).permutation(spread)
    channels, started, seen = split.image_shape[0], time.perf_counter(), 0
    # A factory may have put its network on a GPU.
    device = as_images_for(network, torch.zeros(0)).device
    layers = {
        name: each.before(network, channels).to(device).eval() for name, each in candidates.items()
    }
    right = dict.fromkeys(candidates, 0)
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        try:
            images_NCHW = torch.from_numpy(split.images(chosen)).to(device).float() / 255
        except UserError:
            # Images that cannot be read fail later, each by itself.
            continue
        for name, model in layers.items():
            # A user's forward may raise anything at all.
            with contextlib.suppress(Exception):
                answers_N = model(images_NCHW.clone()).argmax(1).cpu().numpy()
                right[name] += int((answers_N == split.labels[chosen]).sum())
        seen += len(chosen)
        if time.perf_counter() - started > MOST_SECONDS:
            break
    return {name: count / max(seen, 1) for name, count in right.items()}, seen
