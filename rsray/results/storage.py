"""Whole small files on any filesystem that pyarrow or fsspec knows, complete or absent."""

import os
import uuid
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pyarrow.fs import (
    FileSelector,
    FileSystem,
    FileType,
    FSSpecHandler,
    LocalFileSystem,
    PyFileSystem,
)

from rsray.errors import UserError

PathLike = str | Path
Kind = Literal["file", "folder", "missing"]


def locate(path: PathLike) -> tuple[FileSystem, str]:
    """Return the filesystem of a path or URI and the path inside it; UserError if unknown."""
    text = os.fspath(path)
    if "://" not in text:
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    try:
        return FileSystem.from_uri(text)
    except pa.ArrowInvalid:
        return _locate_with_fsspec(text)


def _locate_with_fsspec(uri: str) -> tuple[FileSystem, str]:
    import fsspec  # type: ignore[import-untyped]

    try:
        filesystem, inside = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"cannot open {uri}: {_one_line(error)}") from error
    handler = FSSpecHandler(filesystem)  # type: ignore[abstract]  # the stubs are wrong here
    return PyFileSystem(handler), str(inside)


def join(folder: PathLike, *parts: str) -> str:
    """Return the path of something inside a folder, which may be a URI."""
    return "/".join([os.fspath(folder).rstrip("/") or "/", *parts])


def kind(path: PathLike) -> Kind:
    """Return what a path leads to; raises UserError when the filesystem does not answer."""
    filesystem, inside = locate(path)
    try:
        found = filesystem.get_file_info(inside).type
    except OSError as error:
        raise UserError(f"cannot look at {path}: {_one_line(error)}") from error
    return {FileType.NotFound: "missing", FileType.Directory: "folder"}.get(found, "file")  # type: ignore[return-value]


def names(folder: PathLike) -> list[str]:
    """Return the sorted names of what lies directly in a folder; empty where there is none."""
    filesystem, inside = locate(folder)
    entries = filesystem.get_file_info(FileSelector(inside, allow_not_found=True))
    return sorted(entry.base_name for entry in entries)


def read_bytes(path: PathLike) -> bytes:
    """Return the content of a file; raises UserError that names a file that cannot be read."""
    filesystem, inside = locate(path)
    try:
        with filesystem.open_input_stream(inside, compression=None) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {_one_line(error)}") from error


def write_bytes(path: PathLike, content: bytes) -> None:
    """Write a file that is either complete or as it was before, making its folder if needed.

    The content goes to a temporary name beside it, then is renamed. Raises UserError where nothing
    can be written.
    """
    filesystem, inside = locate(path)
    folder, _, name = inside.rpartition("/")
    # Unlike a fixed name, this keeps two writers of one file from renaming each other's halves.
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        filesystem.create_dir(folder or "/", recursive=True)
        _write_then_move(filesystem, temporary, inside, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {_one_line(error)}") from error


def _write_then_move(filesystem: FileSystem, temporary: str, final: str, content: bytes) -> None:
    try:
        with filesystem.open_output_stream(temporary, compression=None) as stream:
            stream.write(content)
        filesystem.move(temporary, final)
    except OSError:
        if filesystem.get_file_info(temporary).type == FileType.File:
            filesystem.delete_file(temporary)
        raise


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
