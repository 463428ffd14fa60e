"""A place on any file system: a local path or a URI (`s3://`, `gs://`, `file://`) alike.

A file that exists is complete: local writes go to a temporary name and are renamed; object stores
show an object only once it is whole. Nothing is written through a link below the folder that the
user named: a folder that somebody else prepared cannot lead a run to other files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from rsray.errors import UserError
from rsray.storage.address import (
    absolute,
    address_in,
    check_address,
    parent_and_name,
    path_text,
    printable_address,
    split_options,
)
from rsray.storage.lock import hold_folder

TEMPORARY_PREFIX = ".tmp-"
# Opening these asks the network: their addresses are taken as they are.
NETWORK_SCHEMES = ("s3", "gs", "gcs")
PathLike = str | os.PathLike[str]


@lru_cache(maxsize=32)
def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of an absolute path or URI and the path inside it.

    Kept, since s3:// asks the network. Raises UserError for a URI that neither pyarrow nor fsspec
    can open.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        return fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as refused:
        return _locate_with_fsspec(uri, refused)
    except OSError as problem:
        raise UserError(f"cannot reach {printable_address(uri)}: {one_line(problem)}") from problem


def _locate_with_fsspec(uri: str, refused: Exception) -> tuple[fs.FileSystem, str]:
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        filesystem, path = url_to_fs(uri)
    except (ImportError, ValueError) as problem:
        raise UserError(
            f"cannot open {printable_address(uri)}: {one_line(refused)} "
            "(allowed: a local path, file://, s3://, gs://, or a URI that fsspec can open)"
        ) from problem
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(path)  # type: ignore[abstract]


def one_line(problem: BaseException) -> str:
    """Return an exception's message on one line, or its type's name when it has none."""
    return " ".join(str(problem).split()) or type(problem).__name__


def read_file(path: PathLike) -> bytes:
    """Return the content of a file at a path or URI; UserError names one that cannot be read."""
    folder, name = _folder_and_name(path)
    try:
        return folder.read(name)
    except FileNotFoundError as problem:
        raise UserError(f"{printable_address(os.fspath(path))} does not exist") from problem
    except OSError as problem:
        raise UserError(
            f"cannot read {printable_address(os.fspath(path))}: {one_line(problem)}"
        ) from problem


def write_file(path: PathLike, content: bytes) -> None:
    """Write a file at a path or URI, whole or not at all, making its folder if needed.

    Raises UserError where nothing can be written.
    """
    folder, name = _folder_and_name(path)
    try:
        folder.make().write(name, content)
    except OSError as problem:
        raise UserError(
            f"cannot write {printable_address(os.fspath(path))}: {one_line(problem)}"
        ) from problem


def _folder_and_name(path: PathLike) -> tuple[Place, str]:
    place = Place.of(path)
    parent, name = parent_and_name(place.uri)
    return Place(parent, "" if place.root in ("", place.uri) else place.root), name


@dataclass(frozen=True, order=True)
class Place:
    """A file or folder on some file system. Cheap to pickle: only its address travels.

    No connection is opened before something is read or written. What a store refuses is raised as
    UserError that names the place; a local disk's errors keep their number where runs are written.
    """

    # An absolute local path, or a URI.
    uri: str
    # The folder above it that the user named; empty for that folder itself.
    root: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, where: str | os.PathLike[str]) -> Place:
        """Return the place at a local path (made absolute) or URI; UserError for a bad URI."""
        if isinstance(where, Place):
            return where
        text = path_text(where)
        check_address(text)
        if "://" not in text:
            return cls(absolute(text))
        base, options = split_options(text)
        place = cls(base.rstrip("/") + options)
        if base.partition("://")[0] not in NETWORK_SCHEMES:
            open_filesystem(place.uri)
        return place

    def __str__(self) -> str:
        """Return the address for messages: without options and without credentials."""
        return printable_address(self.uri)

    def __fspath__(self) -> str:
        """Return the whole address, which `Place.of` and `read_file` take."""
        return self.uri

    def __truediv__(self, name: str) -> Place:
        """Return the place `name` inside this folder; "" is this one."""
        return Place(address_in(self.uri, name), self.root or self.uri) if name else self

    @property
    def name(self) -> str:
        """The last part of the address."""
        return split_options(self.uri)[0].rpartition("/")[2]

    def below(self, folder: Place) -> str:
        """Return the path of this place inside a folder; empty where it is not in it."""
        mine, theirs = split_options(self.uri)[0], split_options(folder.uri)[0].rstrip("/")
        return mine.removeprefix(theirs).strip("/") if mine.startswith(f"{theirs}/") else ""

    @property
    def is_local(self) -> bool:
        """Whether the place is on a local (or mounted) disk."""
        return "://" not in self.uri or self.uri.startswith("file://")

    @property
    def local_path(self) -> Path:
        """The path of a local place."""
        return Path(open_filesystem(self.uri)[1])

    def exists(self, name: str = "") -> bool:
        """Tell whether this place, or a file or folder `name` in it, exists."""
        return bool(self._info(name).type != fs.FileType.NotFound)

    def is_file(self, name: str = "") -> bool:
        """Tell whether a file is here, or `name` in this folder is one."""
        return bool(self._info(name).type == fs.FileType.File)

    def is_dir(self) -> bool:
        """Tell whether a folder is here."""
        return bool(self._info("").type == fs.FileType.Directory)

    def size_and_time(self) -> tuple[int | None, int | None]:
        """Return the file's size in bytes and its time of change in ns; None where not told."""
        info = self._info("")
        return info.size, info.mtime_ns

    def _info(self, name: str) -> Any:
        with self._reported("read") as (filesystem, path):
            return filesystem.get_file_info(f"{path}/{name}" if name else path)

    def names(self, suffix: str = "") -> list[str]:
        """Return the sorted names in the folder that end in `suffix`; none if it does not exist."""
        with self._reported("read") as (filesystem, path):
            found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(
            info.base_name
            for info in found
            if info.base_name.endswith(suffix) and not info.base_name.startswith(TEMPORARY_PREFIX)
        )

    def folders(self) -> list[str]:
        """Return the sorted names of the folders in this folder, hidden ones left out."""
        return self._visible(fs.FileType.Directory)

    def files(self) -> list[str]:
        """Return the sorted names of the files in this folder, hidden ones left out."""
        return self._visible(fs.FileType.File)

    def _visible(self, kind: fs.FileType) -> list[str]:
        with self._reported("read", wholly=True) as (filesystem, path):
            if self.is_local:
                # scandir knows files from folders without a stat of each: 10x faster on a network
                # disk.
                with os.scandir(path) as entries:
                    is_wanted = kind == fs.FileType.Directory
                    found = [entry.name for entry in entries if entry.is_dir() == is_wanted]
            else:
                infos = filesystem.get_file_info(fs.FileSelector(path))
                found = [info.base_name for info in infos if info.type == kind]
        return sorted(name for name in found if not name.startswith("."))

    def open(self) -> pa.NativeFile:
        """Return the file opened for reading at any position; the caller closes it."""
        with self._reported("read", wholly=True) as (filesystem, path):
            self._refuse_no_file(path)
            return filesystem.open_input_file(path)

    def read_bytes(self) -> bytes:
        """Return the whole file; UserError names one that is absent or cannot be read."""
        with self._reported("read", wholly=True), self.open() as stream:
            return bytes(stream.read())

    def read(self, name: str) -> bytes:
        """Return the bytes of a file in this folder; raises FileNotFoundError."""
        with self._reported("read") as (filesystem, path):
            self._refuse_no_file(f"{path}/{name}")
            with filesystem.open_input_stream(f"{path}/{name}", compression=None) as stream:
                return bytes(stream.read())

    def _refuse_no_file(self, path: str) -> None:
        """Raise UserError for a folder, a pipe whose writer may never come, an endless device."""
        if self.is_local and not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"cannot read {path}: it is no regular file")

    def make(self) -> Place:
        """Create the folder (and its parents) if it is not there; returns it."""
        self._refuse_links()
        filesystem, path = open_filesystem(self.uri)
        try:
            filesystem.create_dir(path, recursive=True)
        except OSError as problem:
            raise UserError(f"cannot create folder {self}: {one_line(problem)}") from problem
        return self

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that it appears whole or not at all, replacing one of that name."""
        with self._reported("write to") as (filesystem, path):
            if self.is_local:
                self._refuse_links()
                _write_and_rename(Path(path), name, data)
            else:
                _run_uninterrupted(lambda: _put_object(filesystem, f"{path}/{name}", data))

    def delete(self, name: str) -> None:
        """Delete a file or folder in the folder, if it is there; of a link only the link."""
        self._refuse_links()
        if self.is_local and (self.local_path / name).is_symlink():
            (self.local_path / name).unlink()
            return
        kind = self._info(name).type
        with self._reported("write to") as (filesystem, path):
            if kind == fs.FileType.Directory:
                filesystem.delete_dir(f"{path}/{name}")
            elif kind == fs.FileType.File:
                filesystem.delete_file(f"{path}/{name}")

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for this process; UserError if another rsray is writing to it.

        A killed run leaves no lock behind: a local one goes with the process, one on an object
        store with the process on this machine, and after a minute on any other.
        """
        if self.is_local:
            return self._locked_here()
        return hold_folder(*open_filesystem(self.uri), str(self))

    @contextmanager
    def _locked_here(self) -> Iterator[None]:
        self._refuse_links()
        file = self._open_lock_file()
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise UserError(
                    f"another rsray is writing to {self}: wait or use another --out"
                ) from problem
            yield
        finally:
            os.close(file)

    def _open_lock_file(self) -> int:
        """Return the lock file opened as it is: no link is followed and nothing is truncated."""
        path = self.local_path / ".lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(path, flags, 0o666)
        except OSError as problem:
            if problem.errno == errno.ELOOP:
                raise UserError(f"{path} is a link, where rsray keeps a file: delete it") from None
            raise

    def refuse_link(self, name: str) -> None:
        """Raise UserError when `name` here is no file of its own; another package writes to it.

        Of a hard link what it is of would be changed; a pipe would not be read to its end.
        """
        self._refuse_links()
        file = self.local_path / name
        if file.is_symlink() or (
            file.exists() and not (file.is_file() and file.stat().st_nlink == 1)
        ):
            raise UserError(f"{file} is a link or no file, where rsray keeps one: delete it")

    def _refuse_links(self) -> None:
        """Raise UserError where a link below the folder that the user named leads elsewhere."""
        if not self.is_local or not self.root:
            return
        here = Path(open_filesystem(self.root)[1])
        for part in self.local_path.relative_to(here).parts:
            here /= part
            if here.is_symlink():
                raise UserError(f"{here} is a link: rsray writes inside {Place(self.root)} only")

    @contextmanager
    def _reported(self, what: str, *, wholly: bool = False) -> Iterator[tuple[fs.FileSystem, str]]:
        """Yield where the place is; what an object store refuses becomes UserError.

        What is absent stays FileNotFoundError, and a local disk's errors keep their number, which
        says more; with `wholly` they are told like the store's.
        """
        try:
            yield open_filesystem(self.uri)
        except OSError as problem:
            if not wholly and (self.is_local or isinstance(problem, FileNotFoundError)):
                raise
            raise UserError(f"cannot {what} {self}: {one_line(problem)}") from problem


def _write_and_rename(folder: Path, name: str, data: bytes) -> None:
    """Write a file; UserError for what is none: root could put one in the place of /dev/null."""
    path = folder / name
    mode = os.lstat(path).st_mode if os.path.lexists(path) else stat.S_IFREG
    is_file = stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)
    if path.parent == Path("/dev") or not is_file:
        raise UserError(f"cannot write {path}: it is no regular file")
    temporary = folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{name}"
    try:
        # "x": a file that is there already, a link for one, is somebody else's.
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _put_object(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(data)


def _run_uninterrupted(work: Callable[[], None]) -> None:
    """Do the work to its end before an interrupt is raised, which only reaches the main thread.

    Closing a stream is what makes an object, so a Ctrl-C within `with` would make a part of one.
    """
    with ThreadPoolExecutor(1) as thread:
        # An executor does not wait for a thread whose start was interrupted: this one runs before.
        thread.submit(int).result()
        thread.submit(work).result()
