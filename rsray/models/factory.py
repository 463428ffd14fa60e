"""A user's own network, `package.module:factory`: imported only because the user named it."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from rsray.core.independence import logits_of
from rsray.errors import UserError

# Their networks take images that were normalised before, and have no layer that does it.
LIBRARIES = ("torchvision", "timm", "transformers", "torchxrayvision", "pretrainedmodels")
# A factory may fetch weights; one that waits for something else is stopped.
MOST_SECONDS = 300
# package.module:factory, dots allowed on both sides.
NAME = re.compile(r"[\w-]+(\.[\w-]+)*:\w+(\.\w+)*")


class _TooLong(BaseException):
    """Raised within a stranger's code, which may go on after any Exception."""


def from_factory(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    arguments: Mapping[str, Any],
) -> nn.Module:
    """Return the module that the factory `package.module:attribute` makes, in float32.

    The factory is called with `arguments`, and with image_shape and num_classes if it takes them.
    The module returns logits where the factory's own returns more, and gets a copy of its images,
    which it may change in place: members of an ensemble and losses use them again. Raises UserError
    when the factory cannot be imported, raises, takes minutes, or returns something else.
    """
    ours = {"image_shape": image_shape, "num_classes": num_classes}
    limit = _time_limit(f"model {name!r} has not returned in {MOST_SECONDS} seconds")
    try:
        with limit, _process_goes_on():
            model = _called(_find(name), ours, arguments)
    except (UserError, KeyboardInterrupt):
        raise
    except _TooLong as error:
        raise UserError(str(error)) from None
    except BaseException as error:  # whatever a stranger's code raises is theirs
        raise UserError(
            f"model {name!r} raised {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name!r} must return a torch.nn.Module, got {type(model).__name__}")
    model = _copied(model)
    model.float().register_forward_hook(_logits_alone)
    model.register_forward_pre_hook(_on_a_copy)
    return model


@contextlib.contextmanager
def _time_limit(words: str) -> Iterator[None]:
    """Raise _TooLong with these words when the block lasts too long; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _TooLong(words)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _process_goes_on() -> Iterator[None]:
    """Let a stranger's call that would end this process at once raise SystemExit in the block.

    Its children, and rsray itself, end as ever.
    """
    mine, ends = os.getpid(), {name: getattr(os, name) for name in ("_exit", "abort")}

    def stand_in(name: str) -> Callable[..., None]:
        def end(*status: int) -> None:
            caller = str(sys._getframe(1).f_globals.get("__name__")).partition(".")[0]
            if os.getpid() != mine or caller in ("rsray", "rsray_cli"):
                ends[name](*status)
            raise SystemExit("it would end rsray")

        end.__module__ = os.__name__
        return end

    for name in ends:
        setattr(os, name, stand_in(name))
    try:
        yield
    finally:
        for name, end in ends.items():
            setattr(os, name, end)


def is_factory(name: str) -> bool:
    """Tell whether it has the form package.module:factory, and is no address."""
    return ":" in name and "://" not in name


def is_of_a_library(name: str) -> bool:
    """Tell whether a factory is of a library whose networks never normalise images themselves."""
    return is_factory(name) and name.partition(":")[0].partition(".")[0] in LIBRARIES


def refuse_factory_of_a_file(
    model: object, where: str, named: object, option: str = "--model"
) -> None:
    """Raise UserError for a factory that a file names and the user does not."""
    if isinstance(model, str) and is_factory(model) and named is None:
        raise UserError(
            f"{where} names the network {model!r}, which is code: if you trust it, name it too "
            f"({option} {model})"
        )


def _called(factory: Callable[..., Any], ours: dict[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Call the factory with the user's arguments and those of ours that it takes.

    A factory of **kwargs hands them on to a network that may not know them: what it does not know
    is left out.
    """
    taken, is_open = _accepted(factory, ours)
    given = {**taken, **arguments}
    while True:
        try:
            return factory(**given)
        except TypeError as error:
            unknown = [k for k in ours if f"'{k}'" in str(error) and k not in arguments]
            if not is_open or not unknown or unknown[0] not in given:
                raise
            del given[unknown[0]]


def _copied(model: nn.Module) -> nn.Module:
    """Return a module of our own: a factory may keep the one that it made, and return it again.

    Two members of an ensemble would have one's weights, and a training would begin with another's.
    What cannot be copied (old weight norm before its first pass) is returned itself.
    """
    try:
        return copy.deepcopy(model)
    except Exception:  # a user's module may raise anything at all
        return model


def _on_a_copy(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images_NCHW, *others = inputs
    return images_NCHW.clone(), *others


def _logits_alone(module: nn.Module, inputs: Any, output: Any) -> Any:
    return logits_of(output, is_training=module.training)


def _find(name: str) -> Callable[..., Any]:
    """Import `package.module:attribute` and return the attribute, dots in it allowed."""
    if not NAME.fullmatch(name):
        raise UserError(f"model {name!r} must be of the form package.module:factory")
    module_name, _, attribute = name.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(f"model {name!r}: {module_name!r} is a part of Python, not of yours")
    if os.getcwd() not in sys.path:
        # last: it hides nothing that is installed
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"model {name!r}: module {module_name!r} cannot be imported: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(
                f"model {name!r}: module {module_name!r} has no attribute {attribute!r}"
            )
        found = getattr(found, part)
    if _is_of_python(found):
        raise UserError(f"model {name!r} is a part of Python, not of yours")
    if not callable(found):
        raise UserError(f"model {name!r} must be callable, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _is_of_python(found: Any) -> bool:
    """Tell whether a function or class is of Python itself, by whatever way it was reached."""
    owner = str(getattr(found, "__module__", None) or "").partition(".")[0]
    is_defined = inspect.isroutine(found) or inspect.isclass(found)
    return is_defined and owner in sys.stdlib_module_names


def _accepted(
    factory: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Return those of `arguments` that the factory takes by keyword, and whether it takes any."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}, False
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return arguments, True
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {key for key, p in parameters.items() if p.kind in by_keyword}
    return {key: value for key, value in arguments.items() if key in taken}, False


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).splitlines()), "no message")
