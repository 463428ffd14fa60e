"""The packages of the wheel, found in the tree; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# `cli/` is installed as rsray_cli, and the cluster definitions lie within the room that reads them.
setup(
    packages=[
        *find_packages(include=["rsray", "rsray.*"]),
        "rsray_cli",
        *(f"rsray_cli.{package}" for package in find_packages("cli")),
        "rsray.cluster.definitions",
    ],
)
