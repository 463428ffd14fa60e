"""What travels to a cluster with a command: the package, the user's model code, input files."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from platform import node

from rsray.errors import UserError

# They travel as they are installed here, so that the cluster runs the same.
PACKAGES = ("rsray", "rsray_cli")
# Ray uploads no more.
MOST_BYTES = 500 * 2**20
LEFT_OUT = ("__pycache__", "*.pyc", "checkpoints", ".lock", ".tmp-*")
INPUTS_FOLDER = "inputs"


@dataclass(frozen=True)
class CommandLine:
    """A command line for a cluster: its words, and the local files that they name."""

    words: tuple[str, ...]
    # A word, and the local file or folder that it names.
    inputs: dict[str, Path]
    # The user's own, of --model package.module:factory.
    modules: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, words: list[str], *, inputs: Sequence[str | None], model: str | None
    ) -> CommandLine:
        """Return the command line; of `inputs` those travel that exist on this machine."""
        here = {word: Path(word).expanduser() for word in inputs if word and "://" not in word}
        modules = (model.partition(":")[0].partition(".")[0],) if model and ":" in model else ()
        return cls(
            tuple(words), {word: path for word, path in here.items() if path.exists()}, modules
        )

    def there(self) -> list[str]:
        """Return the words as the cluster is to run them, in the folder of the shipment."""
        places = {
            word: f"{INPUTS_FOLDER}/{_name_there(path)}" for word, path in self.inputs.items()
        }
        words = []
        for word in self.words:
            option, equals, value = word.partition("=")
            if word in places:
                words.append(places[word])
            elif equals and option.startswith("--") and value in places:
                words.append(f"{option}={places[value]}")
            else:
                words.append(word)
        return words


def _name_there(path: Path) -> str:
    whole = path.absolute()
    return f"{sha256(str(whole).encode()).hexdigest()[:8]}/{whole.name}"


def copy_all(line: CommandLine, folder: Path) -> Path:
    """Copy everything that travels into a folder and return it; UserError when it is too much."""
    for name in (*PACKAGES, *line.modules):
        _copy_one(_files_of_module(name), folder / name)
    for path in line.inputs.values():
        _copy_one(path, folder / INPUTS_FOLDER / _name_there(path))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        raise UserError(
            f"{', '.join(map(str, line.inputs.values()))} is {size / 2**20:.0f} MiB; 500 travel: "
            "put it in storage that the cluster sees and give its address"
        )
    return folder


def _files_of_module(module: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(f"module {module!r} is not found from here, so it cannot be sent along")
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


def _copy_one(here: Path, target: Path) -> None:
    if here.is_dir():
        shutil.copytree(here, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
        return
    target = target.with_suffix(here.suffix) if not target.suffix else target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(here, target)


def remote_out(out: str, base: str) -> str:
    """Return where the cluster writes what is to end in the local folder `out`.

    The same folder of the same machine gives the same answer, so that a run continues.
    """
    whole = Path(out).expanduser().absolute()
    mark = sha256(f"{node()}:{whole}".encode()).hexdigest()[:8]
    return f"{base.rstrip('/')}/{whole.name}-{mark}"
