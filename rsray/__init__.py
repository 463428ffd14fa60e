"""rsray: provably robust image classifiers by randomized smoothing, at cluster scale.

The names below load what they need on first use: `import rsray` imports neither torch nor ray.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Torch's threads read it when torch is imported. They otherwise wait for one another by spinning:
# on a machine that does anything else, training on CPUs then took several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from rsray import models, objectives
    from rsray.api import (
        audit,
        certify,
        export,
        plan,
        plan_search,
        plan_training,
        predict,
        recertify,
        report,
        show,
        train,
        tune,
        verify,
    )
    from rsray.core import bounds
    from rsray.core.smoothed import SmoothedClassifier
    from rsray.errors import UserError
    from rsray.outcomes import Certification, Run
    from rsray.progress import Watch

# Where what is no function of rsray.api comes from.
_WHERE = {
    "Certification": "rsray.outcomes:Certification",
    "Run": "rsray.outcomes:Run",
    "Watch": "rsray.progress:Watch",
    "SmoothedClassifier": "rsray.core.smoothed:SmoothedClassifier",
    "UserError": "rsray.errors:UserError",
    "bounds": "rsray.core.bounds",
    "models": "rsray.models",
    "objectives": "rsray.objectives",
}

__all__ = [
    "Certification", "Run", "SmoothedClassifier", "UserError", "Watch", "audit", "bounds",
    "certify", "export", "models", "objectives", "plan", "plan_search", "plan_training",
    "predict", "recertify", "report", "show", "train", "tune", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'rsray' has no attribute {name!r}")
    module, _, attribute = _WHERE.get(name, f"rsray.api:{name}").partition(":")
    loaded = import_module(module)
    return getattr(loaded, attribute) if attribute else loaded
