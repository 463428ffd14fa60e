"""SmoothAdv's images with consistency regularisation (Jeong & Shin, NeurIPS 2020, table 1)."""

from __future__ import annotations

from dataclasses import dataclass

from rsray.objectives._base import setting
from rsray.objectives.consistency import Consistency
from rsray.objectives.smoothadv import SmoothAdv


@dataclass(frozen=True, kw_only=True)
class SmoothAdvConsistency(Consistency, SmoothAdv):
    """The loss of Consistency on noisy copies of the images that SmoothAdv's attack finds.

    The attack and its warm-up are SmoothAdv's, the terms are Consistency's: Python's order of base
    classes composes them.
    """

    search_space = {"trade_off": "log(0.2,10)", "epsilon": "log(0.1,4)"}

    num_draws: int = setting(
        "Noisy copies of each image, in the attack and in the step (m).", 4, least=2
    )
    trade_off: float = setting(
        "Weight of the copies' agreement with their mean (lambda).", 1.0, least=0
    )
