"""What a checkpoint file of another code base holds, read without running anything in it."""

from __future__ import annotations

import argparse
import codecs
import datetime
import io
import json
import pathlib
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from rsray.errors import UserError

# PyTorch's own format
PUBLISHED = (".pth", ".tar", ".pt", ".th", ".ckpt", ".bin")
# What torch.load was seen to raise for files of which some bytes had been changed.
DAMAGE: tuple[type[Exception], ...] = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    TypeError,
)


class _Settings(dict[str, Any]):
    """Stands for the dictionaries with attributes in which training codes keep their settings."""


class _Array:
    """Stands for a NumPy array: `texts` are its texts, and numbers in it are left."""

    texts: Sequence[str] = ()

    def __init__(self, *of: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        *_, dtype, _, content = state
        if isinstance(dtype, np.dtype) and dtype.kind == "U" and isinstance(content, bytes):
            self.texts = np.frombuffer(content, dtype).tolist()


def _numpy_scalar(dtype: Any, content: Any = b"") -> Any:
    """Return a NumPy number; only numbers and texts are made, whatever the file asks for."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(content, bytes):
        raise ValueError("a NumPy scalar that is no number")
    return np.frombuffer(content, dtype)[0]


def _bytes_of(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that protocol 2 pickles as text."""
    if encoding != "latin1":
        raise ValueError(f"bytes pickled as {encoding}")
    return codecs.latin_1_encode(text)[0]


# NumPy 1 and NumPy 2
_NUMPY = ("numpy.core", "numpy._core")
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
# Names that files of training codes hold beside their weights, and what stands for them here.
HARMLESS: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": argparse.Namespace,
    # The unpickler fills plain dictionaries and lists alone.
    "collections.defaultdict": lambda *factory: {},
    "collections.deque": lambda *options: [],
    "datetime.datetime": datetime.datetime,
    "datetime.timedelta": datetime.timedelta,
    **{f"builtins.{kind.__name__}": kind for kind in (list, dict, int, float, str, slice)},
    **{f"__builtin__.{kind.__name__}": kind for kind in (list, dict, int, float, str, slice)},
    "_codecs.encode": _bytes_of,
    "numpy.dtype": lambda name, *options: np.dtype(str(name)),
    "numpy.ndarray": _Array,
    **{f"{package}.multiarray.scalar": _numpy_scalar for package in _NUMPY},
    **{f"{package}.multiarray._reconstruct": _Array for package in _NUMPY},
    **{
        f"{module}.{name}": pathlib.PurePosixPath
        for module in ("pathlib", "pathlib._local")
        for name in _PATHS
    },
    **{
        name: _Settings
        for name in (
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "lightning.pytorch.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.fabric.utilities.data.AttributeDict",
            "easydict.EasyDict",
            "robustness.tools.helpers.Parameters",
        )
    },
}
# Their state is set after they are made.
_BUILT = [type(np.dtype(letter)) for letter in "?bhilqBHILQefdSU"]


def read_torch_file(content: bytes, where: str) -> Mapping[str, Any]:
    """Return what a file of torch.save holds: tensors, numbers, texts and containers of them.

    UserError says how to save it again where it holds more than that, and names what.
    """
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        *_BUILT,
        *((standing, name) for name, standing in HARMLESS.items()),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(where, str(error)) from error
    except DAMAGE as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"checkpoint {where} is a TorchScript archive: save its weights with "
                f"torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            ) from error
        raise UserError(f"checkpoint {where} is damaged or not a PyTorch checkpoint") from error
    if not isinstance(found, Mapping):
        raise UserError(f"checkpoint {where} holds a {type(found).__name__}, not a state dict")
    return found


def read_safetensors(content: bytes, where: str) -> Mapping[str, Any]:
    """Return the tensors of a safetensors file; UserError when it is damaged."""
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise UserError(
            f"checkpoint {where} is damaged or not a safetensors file: {error}"
        ) from error


def safetensors_metadata(content: bytes, where: str) -> dict[str, str]:
    """Return the texts that a safetensors file holds beside its tensors; UserError if damaged."""
    read_safetensors(content, where)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__", {}))


def _refused(where: str, reason: str) -> UserError:
    """Return the refusal of a file that holds more than data; it names what is held."""
    named = re.search(r"GLOBAL ([\w.]+)|function (?:<\S+ \S+ )?([\w.]+)", reason)
    if named is None:
        return UserError(
            f"checkpoint {where} is refused: it is damaged, or holds more than tensors and numbers"
        )
    name = named.group(1) or named.group(2)
    return UserError(
        f"checkpoint {where} is refused: it holds {name}, and reading that runs code; where you "
        "trust the file, save its weights alone: c = torch.load(FILE, weights_only=False); "
        "torch.save(getattr(c, 'state_dict', lambda: c['state_dict'])(), 'weights.pth')"
    )
