"""The options of a command, made from the fields of the settings in rsray/config.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, Signature
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.models import ArgumentInfo

from rsray.config import Config, Option
from rsray.errors import UserError
from rsray.progress import Watch
from rsray.screen import show

# What is recorded, and what the user states
NORMALISE = {"normalisation": "normalise"}
# What stands for a value in the help: a number, nothing for a flag, else a word.
METAVARS: dict[Any, str | None] = {int: "NUMBER", float: "NUMBER", bool: None}
AFTER_DRY_RUN = "next: the same command without --dry-run"


def options_of(
    settings: type[Config],
    *names: str,
    without: tuple[str, ...] = (),
    rename: Mapping[str, str] | None = None,
) -> list[Parameter]:
    """Return the options for these fields, or for all but some; one that is not given is None."""
    called, shown = rename or {}, names or shown_fields(settings)
    chosen = [(name, settings.model_fields[name]) for name in shown if name not in without]
    return [_parameter(called.get(name, name), field) for name, field in chosen]


def shown_fields(settings: type[Config]) -> list[str]:
    """Return the names of the fields that are options, in their order."""
    return [name for name, field in settings.model_fields.items() if _option(field)[0]]


def command(*groups: list[Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function that takes `**given` the parameters of these groups.

    It gets what the user gave and nothing else; the settings' own defaults stand for the rest. With
    --cluster the command that was typed runs there instead, but for --dry-run.
    """
    parameters = sorted(chain.from_iterable(groups), key=lambda each: not _is_argument(each))

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

        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
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


def _is_argument(parameter: Parameter) -> bool:
    return isinstance(get_args(parameter.annotation)[1], ArgumentInfo)


def _parameter(name: str, field: FieldInfo) -> Parameter:
    option, help_text = _option(field)
    assert option is not None, f"{name} is no option"
    kind = _type_but_none(field.annotation)
    choices = [*option.choices] or (get_args(kind) if get_origin(kind) is Literal else [])
    # Texts are read by the settings.
    kind = kind if kind in (int, float, bool, list[str]) else str
    default = _default(field, option)
    shown: dict[str, Any] = {
        "help": help_text
        + (f" One of {', '.join(choices)}." if choices else "")
        + (f" (default: {default})" if default else ""),
        "metavar": option.metavar or METAVARS.get(kind, "NAME"),
        "rich_help_panel": option.panel,
        "show_default": False,
    }
    if choices:
        shown["autocompletion"] = lambda incomplete: [
            c for c in choices if c.startswith(incomplete)
        ]
    kind = list[str] if option.repeated else str if option.is_text else kind
    is_argument = option.name is not None and not option.name.startswith("--")
    is_required = is_argument and field.is_required()
    flags = [option.name] if option.name else []
    return Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if is_required else None,
        annotation=Annotated[
            kind if is_required else kind | None,
            typer.Argument(**shown) if is_argument else typer.Option(*flags, **shown),
        ],
    )


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


def _type_but_none(annotation: Any) -> Any:
    """Return the type that a value has where it is not None."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        annotation = next(each for each in get_args(annotation) if each is not NoneType)
    return annotation


def _default(field: FieldInfo, option: Option) -> str:
    """Return the default in words; empty where there is none to tell."""
    if option.words is not None:
        return option.words
    if isinstance(field.default, bool):
        return "yes" if field.default else ""
    return str(field.default) if isinstance(field.default, str | int | float) else ""
