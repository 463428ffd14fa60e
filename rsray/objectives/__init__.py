"""Training objectives, one paper per file. Each is usable in a training loop of one's own.

The class of a member is an attribute of this package (`rsray.objectives.Macer`) and is loaded when
it is first used: importing the package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsray.family import Family, lazy_names

if TYPE_CHECKING:
    from rsray.objectives._base import Network, Objective, Step, Terms

OBJECTIVES: Family[type[Objective]] = Family(
    "objective",
    {
        "gaussian": "rsray.objectives.gaussian:Gaussian",
        "macer": "rsray.objectives.macer:Macer",
        "smoothadv": "rsray.objectives.smoothadv:SmoothAdv",
        "adre": "rsray.objectives.adre:Adre",
        "adre-adv": "rsray.objectives.adre:AdreAdv",
        "sodm": "rsray.objectives.sodm:Sodm",
        "stability": "rsray.objectives.stability:Stability",
        "consistency": "rsray.objectives.consistency:Consistency",
        "smoothmix": "rsray.objectives.smoothmix:SmoothMix",
        "smoothadv+consistency": "rsray.objectives.smoothadv_consistency:SmoothAdvConsistency",
        "catrs": "rsray.objectives.catrs:CatRs",
        "catrs-self": "rsray.objectives.catrs:CatRsSelf",
        "easy": "rsray.objectives.easy:Easy",
        "denoise": "rsray.objectives.denoise:Denoise",
    },
)

__all__ = ["OBJECTIVES", "Network", "Objective", "Step", "Terms"]
__all__ += OBJECTIVES.attributes()

_BASE = dict.fromkeys(("Network", "Objective", "Step", "Terms"), "rsray.objectives._base")
_of_the_base = lazy_names(_BASE)


def __getattr__(name: str) -> Any:
    """Return the class of a member, or a type that all members share, loaded on first use."""
    return _of_the_base(name) if name in _BASE else OBJECTIVES.attribute(name)
