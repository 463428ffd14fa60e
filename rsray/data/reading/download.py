"""Download a data set into its folder, whole or not at all."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rsray.errors import UserError
from rsray.storage import Place, one_line

# Of torchvision's data sets, those whose splits are not all downloaded by their class at once.
OWN_SPLITS = {"SVHN": ({"split": "train"}, {"split": "test"})}
# Unpacked beside themselves: not kept
ARCHIVES = (".gz", ".tar", ".zip")


def fetch_with_torchvision(name: str, folder: str) -> None:
    """Download the train and test splits of torchvision's data set of this name into a folder."""
    from torchvision import datasets  # type: ignore[import-untyped]

    for split in OWN_SPLITS.get(name, ({},)):
        getattr(datasets, name)(folder, download=True, **split)


def download(name: str, fetch: Callable[[str], None], root: Place) -> None:
    """Let `fetch` fill a temporary folder and move its files to <root>/<name> once it is done.

    Raises UserError, with the reason, when the root is not local or the download fails.
    """
    if not root.is_local:
        raise UserError(f"{name}: --download needs a local data root, {root} is remote")
    target = Path(root.local_path) / name
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".downloading-", dir=target) as folder:
            # Torchvision prints its progress
            with contextlib.redirect_stdout(sys.stderr):
                fetch(folder)
            _move_files(Path(folder), target)
    except (OSError, RuntimeError, ImportError, ValueError, EOFError) as error:
        raise UserError(f"{name}: the download failed: {one_line(error)}") from error


def _move_files(source: Path, target: Path) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        if file.suffix not in ARCHIVES:
            destination = target / file.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, destination)
