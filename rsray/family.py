"""A family of interchangeable members by name: objectives, bounds, data sets, networks.

Its members are named in one dict and imported when they are asked for, so that the names can be
listed (in `--help`, in an error) without loading torch or numpy.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from rsray.errors import UserError

Member = TypeVar("Member")


class Family(Mapping[str, Member], Generic[Member]):
    """The members of a family by name; each is written as "module:attribute"."""

    def __init__(self, kind: str, members: dict[str, str]) -> None:
        """Keep where the members are. `kind` names the family in errors ("objective", ...)."""
        self.kind, self._members = kind, members

    def __getitem__(self, name: str) -> Member:
        """Return a member; UserError, which lists the names, for one that there is not."""
        module, _, attribute = self._members[choose(name, self._members, self.kind)].partition(":")
        return cast(Member, getattr(import_module(module), attribute))

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order of the dict."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a member of this name."""
        return name in self._members

    def attributes(self) -> list[str]:
        """Return what the members are called where they are defined: names of classes, ..."""
        return [member.partition(":")[2] for member in self._members.values()]

    def attribute(self, name: str) -> Any:
        """Return the member whose attribute name this is, for the `__getattr__` of a package."""
        for member in self._members.values():
            module, _, attribute = member.partition(":")
            if attribute == name:
                return getattr(import_module(module), name)
        raise AttributeError(f"there is no {self.kind} {name!r}")


def lazy_names(modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that imports each public name when it is first used.

    `modules` tells the module of each name.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return get


def choose(value: object, allowed: Iterable[str], what: str) -> str:
    """Return `value` if it is allowed; UserError that lists what is and guesses what was meant."""
    names = list(allowed)
    if isinstance(value, str) and value in names:
        return value
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UserError(f"{what} {value!r} is unknown{hint}; choose one of {', '.join(names)}")
