"""What travels to a cluster with a command: the package, the user's model code, input files.

Only what the command needs travels: of a RUN or CERT the files that rsray wrote there, of a user's
package its Python and data files. Links out of a folder, version control, environments, caches and
what looks like a secret stay here. Sizes are counted before anything is copied.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from platform import node

from rsray.cluster.safety import find_secrets
from rsray.cluster.safety.reach import SECRET_NAMES
from rsray.errors import UserError, printable
from rsray.storage.address import ENSEMBLE, address_in, config_beside, is_ensemble

# They travel as they are installed here, so that the cluster runs the same.
PACKAGES = ("rsray", "rsray_cli")
# Ray uploads no more.
MOST_BYTES = 500 * 2**20
INPUTS_FOLDER = "inputs"
# What a command reads of a RUN, CERT or TUNE folder.
RESULT_FILES = re.compile(
    r"(run|certify|tune|best)\.yaml|model\.safetensors|certificates\.parquet|summary\.json"
    r"|at_radius\.json|counts/[\w.-]+\.parquet"
)
CODE_AND_DATA = (
    *".py .pyi .typed .js .css .json .yaml .yml .toml .txt .csv .tsv".split(),
    *".npy .npz .safetensors .pt .pth".split(),
)
NO_CODE_FOLDERS = ("__pycache__", "node_modules", "site-packages")
SECRET_WORDS = re.compile(r"(?i)secret|credential|passw|token|private|service[-_]?account")
SECRET_FOLDERS = re.compile(r"(?i)\.?(secrets?|credentials?|private|keys?|tokens?|passwords?)")
NAMES_SHOWN = 20
# Bytes of a file that is looked into for keys.
MOST_TEXT = 2**20


@dataclass(frozen=True)
class SentFile:
    """A file of this machine, and its path in the folder that travels."""

    here: Path
    there: str
    num_bytes: int


@dataclass(frozen=True)
class CommandLine:
    """A command line for a cluster: its words, and the local files that some of them name."""

    words: tuple[str, ...]
    # The position of a word, and the local files or folders that it names: several in an ensemble.
    inputs: Mapping[int, Sequence[Path]] = field(default_factory=dict)
    # The user's own, of --model package.module:factory.
    modules: tuple[str, ...] = ()
    # What stands before the file in a word of `inputs`: the key of --set KEY=FILE.
    prefixes: Mapping[int, str] = field(default_factory=dict)

    def there(self) -> list[str]:
        """Return the words as the cluster is to run them, in the folder of the shipment."""
        words = list(self.words)
        for at, paths in self.inputs.items():
            prefix = ENSEMBLE if is_ensemble(words[at]) else self.prefixes.get(at, "")
            words[at] = prefix + ",".join(map(_name_there, paths))
        return words


def _name_there(path: Path) -> str:
    whole = path.absolute()
    return f"{INPUTS_FOLDER}/{sha256(str(whole).encode()).hexdigest()[:8]}/{whole.name}"


def copy_all(line: CommandLine, folder: Path, say: Callable[[str], None]) -> Path:
    """Copy everything that travels into a folder and return it; UserError when it is too much.

    What travels of a user's package is said before it is copied.
    """
    for file in files_to_send(line, say):
        target = folder / file.there
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.here, target)
    return folder


def files_to_send(
    line: CommandLine, say: Callable[[str], None] = lambda text: None
) -> list[SentFile]:
    """Return everything that travels; UserError for what cannot, or is too much."""
    inputs = [path for paths in line.inputs.values() for path in paths]
    files = [file for path in inputs for file in _input_files(path)]
    _check_size(files)
    for name in line.modules:
        if not _is_installed_there(name):
            sent, left_out = _package_files(name)
            size = sum(file.num_bytes for file in sent) / 1024
            say(f"sending {name}: {_listed([file.there for file in sent])} ({size:,.0f} KiB)")
            if left_out:
                say(f"left out of {name}: {_listed(left_out)}")
            files += sent
    for name in PACKAGES:
        files += _package_files(name)[0]
    _check_size(files)
    return files


def _check_size(files: Sequence[SentFile]) -> None:
    size = sum(file.num_bytes for file in files)
    if size > MOST_BYTES:
        largest = max(files, key=lambda file: file.num_bytes)
        raise UserError(
            f"{size / 2**20:.0f} MiB would travel, {largest.here} among it; {MOST_BYTES // 2**20} "
            "may: put it in storage that the cluster sees and give its address"
        )


def _input_files(path: Path) -> list[SentFile]:
    """Return what travels of a file or a results folder that the user named."""
    there = _name_there(path)
    if not path.is_dir():
        config = Path(config_beside(str(path)) or path)
        files = {path}
        if config.is_file():
            # Two links into one folder lie beside each other, as in Hugging Face's cache.
            if not _is_below(config, Path(os.path.realpath(path)).parent):
                raise UserError(_leads_out(config, path.parent))
            files.add(config)
        return [_sent(file, str(Path(there).with_name(file.name))) for file in sorted(files)]
    _inside(path, "counts")
    names = [name for name in _walk(path, depth=2) if RESULT_FILES.fullmatch(name)]
    if not names:
        raise UserError(f"{path} holds no results of rsray: nothing of it is sent")
    return [_sent(_inside(path, name), f"{there}/{name}") for name in names]


def _inside(folder: Path, name: str) -> Path:
    """Return a file of a folder; UserError for a link that leads out of it."""
    found = folder / name
    if not _is_below(found, folder):
        raise UserError(_leads_out(found, folder))
    return found


def _leads_out(file: Path, folder: Path) -> str:
    return f"{file} is a link out of {folder}, which is not followed: copy the file"


def _is_below(path: Path, folder: Path) -> bool:
    """Tell whether a path is in a folder when links are followed; Path.resolve fails at a loop."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _sent(here: Path, there: str) -> SentFile:
    try:
        found = here.stat()
    except OSError as problem:
        raise UserError(f"cannot send {here}: {problem.strerror}") from problem
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"cannot send {here}: it is no file")
    return SentFile(here, there, found.st_size)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return printable(", ".join(names[:NAMES_SHOWN])) + more


def _is_installed_there(module: str) -> bool:
    """Tell whether every environment of rsray has a module: Python's own, and rsray's needs."""
    if module in sys.stdlib_module_names or module in PACKAGES:
        return True
    needs = {re.split(r"[^\w.-]", line)[0].lower() for line in requires("rsray") or []}
    owners = packages_distributions().get(module, [])
    return any(owner.lower() in needs for owner in owners)


def _package_files(module: str) -> tuple[list[SentFile], list[str]]:
    """Return the files that travel of a module or package, and the names of those left out."""
    origin = _origin_of(module)
    if origin.is_file():
        return [_sent(origin, origin.name)], []
    sent, left_out, num_bytes = [], [], 0
    for name in _walk(origin):
        path = origin / name
        # rsray's own travels whole.
        is_wanted = path.suffix != ".pyc" if module in PACKAGES else path.suffix in CODE_AND_DATA
        is_ours = is_wanted and path.is_file() and _is_below(path, origin)
        if is_ours and (module in PACKAGES or not _looks_secret(name, path)):
            sent.append(_sent(path, f"{module}/{name}"))
            num_bytes += sent[-1].num_bytes
        elif path.suffix != ".pyc":
            left_out.append(name)
        if num_bytes > MOST_BYTES:
            _check_size(sent)
    return sent, left_out


def _looks_secret(name: str, path: Path) -> bool:
    """Tell whether a file of a package is a key or the like: by its path in it, or its content."""
    *folders, own = name.split("/")
    if SECRET_NAMES.fullmatch(own):
        return True
    if path.suffix in (".py", ".pyi"):
        return False
    # Texts are small.
    text = path.read_text(errors="replace") if path.stat().st_size <= MOST_TEXT else ""
    return bool(
        SECRET_WORDS.search(own)
        or any(map(SECRET_FOLDERS.fullmatch, folders))
        or find_secrets(text)
    )


def _origin_of(module: str) -> Path:
    """Return the folder of a package or the file of a module, also of one in the current folder."""
    if os.getcwd() not in sys.path:
        # As a factory is found: after all that is installed.
        sys.path.append(os.getcwd())
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(f"module {module!r} is not found from here, so it cannot be sent along")
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


def _walk(folder: Path, depth: int = 100) -> Iterator[str]:
    """Yield the paths of the files in a folder, in order; links to folders are not entered."""
    for here, folders, files in os.walk(folder):
        inside = os.path.relpath(here, folder)
        level = 0 if inside == "." else inside.count(os.sep) + 1
        # Neither hidden folders nor environments and caches hold code.
        folders[:] = sorted(
            name
            for name in folders
            if not (name.startswith(".") or name in NO_CODE_FOLDERS)
            and not Path(here, name, "pyvenv.cfg").exists()
        )
        if level + 1 >= depth:
            folders.clear()
        for name in sorted(files):
            if not name.startswith("."):
                yield name if inside == "." else f"{inside}/{name}"


def remote_out(out: str, base: str) -> str:
    """Return where the cluster writes what is to end in the local folder `out`.

    The same folder of the same machine gives the same answer, so that a run continues.
    """
    whole = Path(out).expanduser().absolute()
    mark = sha256(f"{node()}:{whole}".encode()).hexdigest()[:8]
    return address_in(base, f"{whole.name}-{mark}")
