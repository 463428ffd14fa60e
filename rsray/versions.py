"""The versions that a result was made with, for run.yaml, certify.yaml and table metadata."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as read_version

PACKAGES = ("rsray", "torch", "torchvision", "ray", "optuna", "numpy", "scipy", "pyarrow")

# A package's version is read from a file, and does not change in a process.
version = cache(read_version)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def arithmetic() -> str:
    """Return what decides the last bits of a certificate: libraries, and the system's functions.

    numpy has some functions more than once, and takes the one for the processor at hand.
    """
    from numpy.lib import introspect

    found = introspect.opt_func_info(func_name="^log$", signature="float64")
    chosen = [kind["current"] for kinds in found.values() for kind in kinds.values()]
    system = (platform.system(), platform.machine(), *platform.libc_ver(), platform.mac_ver()[0])
    libraries = ("numpy", version("numpy"), *chosen, "scipy", version("scipy"))
    return " ".join(part for part in (*libraries, *system) if part)
