"""The words of a command that runs on a cluster: those that stay here, those that name files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsray.cluster.packaging import CommandLine
from rsray.errors import UserError
from rsray.storage import Place, read_file
from rsray.storage.address import ENSEMBLE, addresses_in
from rsray.storage.yaml_files import from_yaml

STAY_HERE = ("--cluster", "--out", "--down")
FILE_OPTIONS = ("--config", "--init", "--reuse", "--reuse-model", "--denoiser")
# --set KEY=RUN
FILE_SETTINGS = ("classifier", "init", "teacher")
FACTORY_OPTIONS = ("--model", "--denoiser")
# model=choice(mine:a,mine:b)
SEARCH_OPTIONS = ("--search", "--grid")
# Their first argument is a RUN, a CERT or a checkpoint.
COMMANDS_WITH_SOURCE = ("certify", "predict", "recertify")


class Piece(NamedTuple):
    """An option with its value, or an argument, as it was typed."""

    words: tuple[str, ...]
    option: str | None
    value: str | None


def line_for_cluster(words: Sequence[str], num_values: Mapping[str, int]) -> CommandLine:
    """Return the line that the cluster runs; what names files is known by option and position.

    `num_values` tells how many values each option of the command takes: one, or none for a flag.
    """
    kept, inputs, named = [words[0]], {}, {}
    settings: list[str] = []
    configs: list[Path] = []
    typed: set[str] = set()
    prefixes: dict[int, str] = {}
    source_is_next = words[0] in COMMANDS_WITH_SOURCE
    for piece in read_pieces(words, num_values):
        if piece.option in STAY_HERE:
            continue
        is_argument = piece.option is None and piece.value is not None
        is_ensemble = piece.option == "--model" and str(piece.value).startswith(ENSEMBLE)
        is_file = piece.option in FILE_OPTIONS or (is_argument and source_is_next) or is_ensemble
        source_is_next = source_is_next and not is_argument
        # The `KEY=` of a setting that names a RUN or CERT.
        key, equals, _ = (piece.value or "").partition("=")
        is_setting = piece.option == "--set" and key.strip() in FILE_SETTINGS
        typed |= {key.strip()} if is_setting else {"init"} if piece.option == "--init" else set()
        prefix = key + equals if is_setting else ""
        is_file = is_file or bool(prefix)
        paths = _local(piece.value.removeprefix(prefix)) if is_file and piece.value else []
        configs += paths if piece.option == "--config" else []
        if not paths:
            kept += piece.words
        else:
            kept += [word for word in (piece.option, str(piece.value)) if word]
            inputs[len(kept) - 1], prefixes[len(kept) - 1] = paths, prefix
        if piece.option in FACTORY_OPTIONS and not is_ensemble:
            named[piece.option] = piece.value or ""
        elif piece.option in SEARCH_OPTIONS and key.strip().rpartition(".")[2] == "model":
            settings += re.split(r"[(),\s]+", (piece.value or "").removeprefix(key + equals))
    _refuse_files_named_in(configs, typed)
    return CommandLine(tuple(kept), inputs, _packages([*named.values(), *settings]), prefixes)


def _refuse_files_named_in(configs: Iterable[Path], typed: set[str]) -> None:
    """Raise UserError where a --config names a RUN or CERT that is here: it would not travel."""
    for file in configs:
        for key, where in _earlier_results(from_yaml(read_file(Place.of(file)), str(file))):
            if key not in typed and "://" not in where and Path(where).expanduser().exists():
                raise UserError(
                    f"{file} names {key} {where}, which is on this machine: give --set "
                    f"{key}={where}, so that it travels, or where the cluster has it"
                )


def _earlier_results(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the RUNs and CERTs that settings name, at whatever depth, under their keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _earlier_results(value)
        elif key in FILE_SETTINGS and isinstance(value, str) and value:
            yield key, value


def _packages(networks: Iterable[str]) -> tuple[str, ...]:
    """Return the packages of the user's own factories among the networks; A+B names two."""
    factories = [part for each in networks for part in each.split("+") if ":" in part]
    found = (each.partition(":")[0].partition(".")[0] for each in factories if "://" not in each)
    return tuple(sorted({package for package in found if package}))


def _local(value: str) -> list[Path]:
    """Return the files or folders of this machine that a word names; none where there are none.

    UserError for an ensemble of which only some members are here.
    """
    addresses = addresses_in(value)
    paths = [Path(each).expanduser() for each in addresses if "://" not in each]
    here = [path for path in paths if path.exists()]
    if here and len(here) < len(addresses):
        raise UserError(
            f"{value}: {len(here)} of {len(addresses)} members are on this machine: they travel "
            "together, or all lie where the cluster sees them"
        )
    return here


def read_pieces(words: Sequence[str], num_values: Mapping[str, int]) -> list[Piece]:
    """Return the options and arguments after the command's name, read as the command reads them."""
    found, rest, only_arguments = [], list(words[1:]), False
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if only_arguments or not word.startswith("-") or word == "-":
            found.append(Piece((word,), None, word))
        elif word == "--":
            only_arguments = True
            found.append(Piece((word,), None, None))
        elif equals and word.startswith("--"):
            found.append(Piece((word,), name, value))
        elif num_values.get(word) and rest:
            found.append(Piece((word, rest[0]), word, rest.pop(0)))
        else:
            found.append(Piece((word,), word, None))
    return found
