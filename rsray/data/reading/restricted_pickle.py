"""Read a pickle of numpy arrays and plain containers, and refuse one that could run code."""

import io
import pickle
from typing import Any

import numpy as np

from rsray.errors import UserError
from rsray.storage import Place, one_line


def _encode(text: str, encoding: str) -> bytes:
    """Do what `_codecs.encode` does for bytes in old pickles, and nothing else."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes | str) -> Any:
    """Do what numpy's `_reconstruct` does for an empty array that the pickle then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("not a numpy array")
    return np.ndarray(shape, np.uint8)


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


def load_arrays(file: Place) -> Any:
    """Return the content of a pickle of numpy arrays, text, numbers and plain containers.

    Text of Python 2 is read as latin1. Raises UserError, naming the file, when the pickle asks for
    anything else (nothing of it has run then) or is damaged.
    """
    data = file.read_bytes()
    try:
        return _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{file}: refused or damaged pickle: {one_line(error)}") from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{file}: damaged pickle: {one_line(error)}") from error
