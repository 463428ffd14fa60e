"""Training objectives, one paper per file. Each is usable in a training loop of one's own."""

from rsray.errors import UserError
from rsray.objectives._base import Network, Objective, Step, Terms
from rsray.objectives.adre import Adre, AdreAdv
from rsray.objectives.consistency import Consistency
from rsray.objectives.gaussian import Gaussian
from rsray.objectives.macer import Macer
from rsray.objectives.smoothadv import SmoothAdv
from rsray.objectives.smoothmix import SmoothMix
from rsray.objectives.sodm import Sodm
from rsray.objectives.stability import Stability

OBJECTIVES: dict[str, type[Objective]] = {
    "gaussian": Gaussian,
    "macer": Macer,
    "smoothadv": SmoothAdv,
    "adre": Adre,
    "adre-adv": AdreAdv,
    "sodm": Sodm,
    "stability": Stability,
    "consistency": Consistency,
    "smoothmix": SmoothMix,
}

__all__ = [
    "OBJECTIVES",
    "Adre",
    "AdreAdv",
    "Consistency",
    "Gaussian",
    "Macer",
    "Network",
    "Objective",
    "SmoothAdv",
    "SmoothMix",
    "Sodm",
    "Stability",
    "Step",
    "Terms",
    "by_name",
]


def by_name(name: str) -> type[Objective]:
    """Return the objective class of that name; raises UserError that lists the names."""
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise UserError(f"objective {name!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
