"""Names of classes as data give them: their order, and those that cannot be names of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rsray.data.splits import normal
from rsray.errors import UserError


def in_order(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Return different names in the order of their labels: sorted, by value where all are numbers.

    Raises UserError for a negative number, which marks images without a class.
    """
    found = {normal(name) for name in names}
    if all(name.removeprefix("-").isdecimal() for name in found):
        if lowest := next((name for name in found if name.startswith("-")), None):
            raise UserError(
                f"{where}: label {lowest} is no class: leave out images without a label"
            )
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def refuse_doubtful(names: Sequence[str], where: str) -> None:
    """Raise UserError for a class without a name, and for two that may be the same one.

    Names that differ in case or in spaces at their ends are of one class to whoever wrote them;
    single letters are not.
    """
    first: dict[str, str] = {}
    for name in names:
        if not name.strip() or not name.isprintable():
            raise UserError(f"{where} has a class called {name!r}, which is no name")
        plain = name.strip() if len(name.strip()) == 1 else name.strip().casefold()
        other = first.setdefault(plain, name)
        if other != name:
            raise UserError(
                f"{where} has the classes {other!r} and {name!r}: give them one name if they are "
                "one class, or names that differ in more than case and spaces"
            )
