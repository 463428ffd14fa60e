"""A user's own network, `package.module:factory`: imported only because the user named it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from rsray.errors import UserError


def from_factory(name: str, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the module that the factory `package.module:attribute` makes.

    The factory is called with whichever of the keyword arguments image_shape and num_classes it
    takes. Raises UserError when it cannot be imported, raises, or returns something else.
    """
    factory = _find(name)
    arguments = _accepted(factory, {"image_shape": image_shape, "num_classes": num_classes})
    try:
        model = factory(**arguments)
    except Exception as error:  # whatever a stranger's code raises is theirs to put right
        raise UserError(f"model {name!r} raised {type(error).__name__}: {_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name!r} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _find(name: str) -> Callable[..., Any]:
    """Import `package.module:attribute` and return the attribute, dots in it allowed."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(f"model {name!r} must be of the form package.module:factory")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"model {name!r}: module {module_name!r} cannot be imported: "
            f"{type(error).__name__}: {_line(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(
                f"model {name!r}: module {module_name!r} has no attribute {attribute!r}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"model {name!r} must be callable, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _accepted(factory: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return those of `arguments` that the factory takes by keyword."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return arguments
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {key for key, p in parameters.items() if p.kind in by_keyword}
    return {key: value for key, value in arguments.items() if key in taken}


def _line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).splitlines()), "no message")
