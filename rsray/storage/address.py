"""Addresses of files and folders: local paths, and URIs that may end in options.

In `s3://bucket/run?endpoint_override=localhost:9000&scheme=http` the options are the file system's;
they stay at the end when the address is extended.
"""

from __future__ import annotations

import os
import re
from typing import Any

from rsray.errors import UserError

# Several RUNs or checkpoints as one classifier: ensemble:RUN,RUN,...
ENSEMBLE = "ensemble:"
# What Hugging Face's libraries call the weights of a network
HUGGING_FACES_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_ensemble(text: str) -> bool:
    """Tell whether what stands for a classifier names several."""
    return text.startswith(ENSEMBLE)


def addresses_in(text: str) -> list[str]:
    """Return the addresses in what stands for a classifier: the members', or itself."""
    if not is_ensemble(text):
        return [text]
    return [part for part in text.removeprefix(ENSEMBLE).split(",") if part]


def path_text(where: Any) -> str:
    """Return a path or URI as text; UserError for what is neither."""
    try:
        text = os.fspath(where)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise UserError(f"{where!r} is no path or URI: give text, or a pathlib.Path")
    return text


def absolute(where: str) -> str:
    """Return a local path whole, so that it names the same from any folder; a URI as it is."""
    return where if "://" in where else os.path.abspath(os.path.expanduser(where))


def check_address(text: str) -> None:
    """Raise UserError for a path or URI that names no place: nothing is read or asked for it."""
    if not text.strip():
        raise UserError(f"{text!r} names no file or folder")
    scheme, separator, rest = text.partition("://")
    if separator and re.fullmatch("[a-z][a-z0-9+.-]*", scheme) and not rest.strip("/"):
        raise UserError(f"{text} names nothing: give a bucket or folder too")
    if text.startswith("ftp://"):
        raise UserError(f"{text} cannot be opened (allowed: a local path, file://, s3://, gs://)")
    if re.match("~[^/~ ]+", text) and os.path.expanduser(text) == text:
        raise UserError(f"{text}: there is no user {text[1:].partition('/')[0]!r}")


def check_suffix(address: str | os.PathLike[str], suffixes: tuple[str, ...]) -> str:
    """Return how the name of a file to write ends; UserError unless it is one of these."""
    name = printable_address(path_text(address))
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in suffixes:
        raise UserError(f"{name}: the name must end in {', '.join(suffixes)}")
    return suffix


def address_in(uri: str, name: str) -> str:
    """Return the address of `name` inside a folder; options stay at the end of a URI."""
    base, options = split_options(uri)
    return f"{base.rstrip('/')}/{name}{options}"


def address_beside(uri: str, suffix: str) -> str:
    """Return the address of a folder with something added to its name."""
    base, options = split_options(uri)
    return f"{base.rstrip('/')}{suffix}{options}"


def parent_and_name(uri: str) -> tuple[str, str]:
    """Return the address of the folder that a file is in, and the file's name."""
    base, options = split_options(uri)
    parent, _, name = base.rpartition("/")
    return f"{parent or '/'}{options}", name


def config_beside(weights: str) -> str | None:
    """Return where Hugging Face's libraries name the classes of the network with these weights.

    None for weights of another name. Nobody has looked whether the file exists.
    """
    folder, name = parent_and_name(weights)
    return address_in(folder, "config.json") if name in HUGGING_FACES_WEIGHTS else None


def printable_address(uri: str) -> str:
    """Return an address for messages: without options and without credentials."""
    return re.sub(r"//[^/@]*:[^/@]*@", "//", split_options(uri)[0])


def split_options(uri: str) -> tuple[str, str]:
    """Return a URI without its options, and the options with their question mark."""
    if "://" not in uri:
        # A question mark is part of a local path.
        return uri, ""
    base, mark, options = uri.partition("?")
    return base, mark + options
