"""What training starts from on somebody's own pictures, of which no paper has a setting.

One rule of few numbers, measured on four small sets of real pictures (tests/bench/README.md and
bench_defaults.py). Whatever the user gives wins over it, and run.yaml records what came of it.
"""

from __future__ import annotations

import math
from typing import Any

from rsray.objectives import OBJECTIVES

# A few hundred pictures teach ResNet-8 as much as ResNet-20, in a third of the time. LeNet, with
# most of its weights in one layer, learns them by heart: it ends with two thirds of the radius.
MOST_IMAGES_OF_RESNET8 = 5_000
# CIFAR's networks keep a picture's full size in their first third; ResNet-50 shrinks it at once.
MOST_PIXELS_OF_RESNET20 = 64 * 64
BATCH_SIZE = 64
LEAST_EPOCHS, LEAST_STEPS = 15, 300
LEARNING_RATE = 0.05
# Parts of the run after which the learning rate falls to a tenth. Until the first drop MACER trains
# with cross entropy alone: its robust term widens what is right already, and of a network that
# knows nothing it makes one that always names the same class.
DROPS_AFTER = (0.6, 0.9)
MACER = {"trade_off": 1.0, "deferred": True}
# The papers' 8 or 16 draws of each picture cost as many times the work: so short a run learns more
# from more steps.
MOST_DRAWS = 2


def own_picture_settings(
    objective: str, image_shape: tuple[int, int, int], num_images: int
) -> dict[str, Any]:
    """Return flat training settings for so many pictures of a shape (C, H, W), by objective."""
    steps_per_epoch = math.ceil(num_images / BATCH_SIZE)
    epochs = max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps_per_epoch))
    return {
        "objective": objective,
        "model": _network(image_shape, num_images),
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LEARNING_RATE,
        "lr_drops": tuple(round(part * epochs) for part in DROPS_AFTER),
        "num_draws": min(MOST_DRAWS, OBJECTIVES[objective](sigma=1.0).num_draws),
        **(MACER if objective == "macer" else {}),
        **OBJECTIVES[objective].training,
    }


def _network(image_shape: tuple[int, int, int], num_images: int) -> str:
    if num_images <= MOST_IMAGES_OF_RESNET8:
        return "resnet8"
    is_small = image_shape[1] * image_shape[2] <= MOST_PIXELS_OF_RESNET20
    return "resnet20" if is_small else "resnet50"
