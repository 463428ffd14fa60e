"""The options of a command, made from the fields of the settings in rsray/config.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from rsray.config import Config, Option
from rsray.errors import UserError
from rsray.progress import Watch
from rsray.screen import show

# What is recorded, and what the user states
NORMALISE = {"normalisation": "normalise"}
# What stands for a value in the help: a number, nothing for a flag, else a word.
METAVARS: dict[Any, str | None] = {int: "NUMBER", float: "NUMBER", bool: None}
AFTER_DRY_RUN = "next: the same command without --dry-run"


class Typed(NamedTuple):
    """One parameter of a command: its name and what typer is told of it."""

    name: str
    annotation: Any
    is_argument: bool
    is_required: bool = False


def options_of(
    settings: type[Config], *names: str, rename: Mapping[str, str] | None = None
) -> list[Typed]:
    """Return the options for these fields; one that is not given is None."""
    called = rename or {}
    return [_typed(called.get(name, name), settings.model_fields[name]) for name in names]


def shown_fields(settings: type[Config], *, without: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the fields that are options, in their order."""
    fields = settings.model_fields.items()
    return [name for name, field in fields if _option(field)[0] and name not in without]


def command(*groups: list[Typed]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function that takes `**given` the parameters of these groups.

    It gets what the user gave and nothing else; the settings' own defaults stand for the rest. With
    --cluster the command that was typed runs there instead, but for --dry-run.
    """
    typed = [each for group in groups for each in group]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(**values: Any) -> None:
            given = {key: value for key, value in values.items() if value is not None}
            target, down = given.pop("cluster", None), given.pop("down", False)
            if down and target is None:
                raise UserError("--down takes the cluster of --cluster away: give --cluster")
            if target is None:
                function(**given)
                return
            from rsray_cli.cluster import check_target, run_there

            if given.get("dry_run"):
                check_target(target)
                function(**{**given, "address": target})
                return
            run_there(target, down=down, address=given.get("address"), out=given.get("out"))

        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_parameter(each) for each in sorted(typed, key=lambda each: not each.is_argument)]
        )
        run.__annotations__ = {each.name: each.annotation for each in typed}
        return run

    return decorate


def told(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the api tells what --dry-run asks for: on stdout, as the command's answer."""
    return {"progress": Watch(say=show)} if "dry_run" in given else {}


def check_words(words: Sequence[str]) -> None:
    """Raise UserError for a word that no option takes: an empty one, or an address of nothing.

    So nothing begins with a value that would be left out, or taken for something else.
    """
    before = ""
    for word in words:
        option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        name = option if option.startswith("--") else "an argument"
        if word.startswith("--") and "=" not in word:
            before = word
            continue
        if not value.strip():
            raise UserError(f"{name} is {value!r}: leave it out, or give a value")
        if re.search("[\ud800-\udfff]", value):
            raise UserError(f"{name} is {value!r}, which is no text in UTF-8")
        if "://" in value or value.startswith("~"):
            from rsray.storage.address import addresses_in, check_address

            for address in addresses_in(value):
                check_address(address)
        before = ""


def _parameter(typed: Typed) -> inspect.Parameter:
    default = inspect.Parameter.empty if typed.is_required else None
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(typed.name, kind, default=default, annotation=typed.annotation)


def _typed(name: str, field: FieldInfo) -> Typed:
    option, help_text = _option(field)
    assert option is not None, f"{name} is no option"
    choices = [*option.choices] or _literals(field.annotation)
    default = _default(field, option)
    shown: dict[str, Any] = {
        "help": help_text
        + (f" One of {', '.join(choices)}." if choices else "")
        + (f" (default: {default})" if default else ""),
        "metavar": option.metavar or METAVARS.get(_plain(field.annotation), "NAME"),
        "rich_help_panel": option.panel,
        "show_default": False,
    }
    if choices:
        shown["autocompletion"] = lambda incomplete: [
            c for c in choices if c.startswith(incomplete)
        ]
    kind = list[str] if option.repeated else str if option.is_text else _plain(field.annotation)
    if option.name is not None and not option.name.startswith("--"):
        argument = kind if field.is_required() else kind | None
        return Typed(name, Annotated[argument, typer.Argument(**shown)], True, field.is_required())
    flags = [option.name] if option.name else []
    return Typed(name, Annotated[kind | None, typer.Option(*flags, **shown)], False)


def _option(field: FieldInfo) -> tuple[Option | None, str]:
    """Return how a field is given and its help text; None where it is no option."""
    for found in (field, *_inside(field.annotation)):
        extra = found.json_schema_extra
        if isinstance(extra, dict) and "option" in extra:
            option: Any = extra["option"]
            return option, found.description or ""
    return None, ""


def _inside(annotation: Any) -> list[FieldInfo]:
    """Return the fields in the parts of a union such as `Alpha | None`."""
    parts = [part for member in get_args(annotation) for part in get_args(member)]
    return [part for part in parts if isinstance(part, FieldInfo)]


def _members(annotation: Any) -> list[Any]:
    """Return the types that a value may have beside None."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [m for each in get_args(annotation) if each is not NoneType for m in _members(each)]
    return [annotation]


def _literals(annotation: Any) -> list[str]:
    """Return the texts that a Literal allows; none for another type."""
    (kind,) = _members(annotation)
    return list(get_args(kind)) if get_origin(kind) is Literal else []


def _plain(annotation: Any) -> Any:
    """Return the type of what is typed: a number or a flag; texts are read by the settings."""
    (kind,) = _members(annotation)
    if kind == list[str]:
        return kind
    return kind if kind in (int, float, bool) else str


def _default(field: FieldInfo, option: Option) -> str:
    """Return the default in words; empty where there is none to tell."""
    if option.words is not None:
        return option.words
    if isinstance(field.default, bool):
        return "yes" if field.default else ""
    return str(field.default) if isinstance(field.default, str | int | float) else ""
