"""Reads a shell command as far as the safety check needs: its parts, and what each runs with.

What cannot be read this way is for the check to refuse.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
OPERATORS = ";&|()<>\n"


@dataclass(frozen=True)
class SimpleCommand:
    """One command of a line: its words, and its environment as far as the line sets it."""

    words: tuple[str, ...]
    environment: dict[str, str]
    # The operators in front and behind; empty at the ends of the line.
    before: str
    after: str

    def starts_ray(self) -> bool:
        """Tell whether this is `ray start`, whatever stands in front of it."""
        return self.ray_at() is not None

    def ray_at(self, verb: str = "start") -> int | None:
        """Return where `ray VERB` stands in the words; None when it does not."""
        for at, (word, following) in enumerate(zip(self.words, self.words[1:], strict=False)):
            if following == verb and re.search(r"(^|/)ray$|^ray\.scripts\.scripts$", word):
                return at
        return None

    def option(self, name: str) -> str | None:
        """Return the value of an option; of one that is given twice the last, as Ray does."""
        value = None
        for word, following in zip(self.words, [*self.words[1:], ""], strict=True):
            if word == name:
                value = following
            elif word.startswith(f"{name}="):
                value = word.partition("=")[2]
        return value


@dataclass
class _Shell:
    """What a shell remembers from one command of a line to the next."""

    exported: dict[str, str] = field(default_factory=dict)
    plain: dict[str, str] = field(default_factory=dict)
    outer: list[dict[str, str]] = field(default_factory=list)

    def take(self, words: list[str], before: str, after: str) -> SimpleCommand | None:
        """Return the command of these words, or None for assignments alone."""
        given: dict[str, str] = {}
        rest = list(words)
        while rest and (found := ASSIGNMENT.fullmatch(rest[0])):
            given[found[1]] = found[2]
            rest.pop(0)
        # After && or || a command may not run; in a pipe or the background it sets nothing here.
        is_certain = not set("&|") & set(before + after.replace("&&", "").replace("||", ""))
        if not rest:
            self._assign(given, is_certain)
            return None
        if rest[0] == "export":
            self._export(rest[1:], is_certain)
        elif rest[0] == "unset":
            for name in rest[1:]:
                self.exported.pop(name, None)
        return SimpleCommand(tuple(rest), {**self.exported, **given}, before, after)

    def _assign(self, given: dict[str, str], is_certain: bool) -> None:
        for name, value in given.items():
            if name in self.exported:
                self._put(name, value, is_certain)
            else:
                self.plain[name] = value

    def _export(self, words: list[str], is_certain: bool) -> None:
        for word in words:
            found = ASSIGNMENT.fullmatch(word)
            if "-n" in words:
                self.exported.pop(word.partition("=")[0], None)
            elif found:
                self._put(found[1], found[2], is_certain)
            elif word in self.plain:
                self._put(word, self.plain[word], is_certain)

    def _put(self, name: str, value: str, is_certain: bool) -> None:
        """Export a value; one that is not certain to be set may only replace what was known."""
        if is_certain:
            self.exported[name] = value
        elif self.exported.get(name) != value:
            self.exported.pop(name, None)


def read_commands(line: str) -> list[SimpleCommand]:
    """Return the simple commands of a line in their order; ValueError for open quotes."""
    shell, found = _Shell(), []
    for words, before, after in _split_at_operators(line):
        if words and (command := shell.take(words, before, after)) is not None:
            found.append(command)
        for operator in after:
            if operator == "(":
                shell.outer.append(dict(shell.exported))
            elif operator == ")" and shell.outer:
                shell.exported = shell.outer.pop()
    return found


def _split_at_operators(line: str) -> Iterator[tuple[list[str], str, str]]:
    """Yield (words, operator in front, operator behind) of every part of a line."""
    words: list[str] = []
    before, is_comment, is_target = "", False, False
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars=OPERATORS)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    for token in [*lexer, "\n"]:
        if not set(token) <= set(OPERATORS):
            is_comment = is_comment or token.startswith("#")
            if not (is_comment or is_target):
                words.append(token)
            is_target = False
            continue
        if is_comment and "\n" not in token:
            continue
        token = token.replace(">|", ">")
        is_comment = False
        is_target = bool(set("<>") & set(token)) and "(" not in token
        if is_target and not set(";|()\n") & set(token):
            continue
        # Line breaks are semicolons, and those of several that say nothing are left out.
        operator = token.replace("\n", ";").strip("<>").strip(";") or ";"
        yield words, before, operator
        # Of operators in a row each has its say: `&&` holds beyond a line break.
        words, before = [], operator if words else before + operator
