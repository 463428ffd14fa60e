"""The packages of the wheel: found, so that a new folder needs no entry. All else: pyproject.toml."""

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
