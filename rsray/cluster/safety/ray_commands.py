"""What a definition's shell commands would do to Ray: with which token, on which addresses."""

from __future__ import annotations

import re
from itertools import takewhile

from rsray.cluster.safety.shell import SimpleCommand, read_commands

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
CLIENT_SERVER_PORT = "10001"
# Ray starts its client server on the node's address and has no switch against it: its process is
# ended by a pattern that must match this command line.
CLIENT_SERVER = (
    "python -m ray.util.client.server --address=10.0.0.1:{gcs} --host=0.0.0.0 --port={port} "
    "--mode=proxy"
)
# A program in front of `ray start` may change its environment; these do not.
HARMLESS_WRAPPERS = ("env", "srun", "nohup", "exec")
LOOKS_LIKE_RAY = r"\bray(?:\.scripts\.scripts)?[\"'\\]*\s+[\"'\\]*{verb}\b"
# What a shell replaces; a program in a folder that a variable names keeps its own name.
MADE_UP = re.compile(r"[$`{*?]")
PATH_BELOW_VARIABLE = re.compile(r"\$\{?\w+\}?(/[\w.-]+)+")
# Names of the token's own variables, however a shell would come to them.
TOKEN_ITSELF = re.compile(r"RAY_AUTH_TOKEN(?!_PATH)")
TOKEN_PATH = re.compile(r"RAY_AUTH_TOKEN_PATH(?!=)")
# In front of `ray start` these change what the line says, and how is not seen in it.
REWRITERS = frozenset(
    "eval source . alias trap hash enable function coproc declare typeset readonly local read "
    "mapfile readarray printf getopts".split()
)
# What may stand between `ray start` and the end of its client server.
HARMLESS_BETWEEN = ("pkill", "sleep", "echo", "true", ":")
# What Ray itself gives a worker, and what cannot become several words.
KNOWN_VARIABLE = re.compile(r"\$\{?(RAY_HEAD_IP|HOME)\b\}?")
ASSIGNED_KNOWN = re.compile(r"\b(RAY_HEAD_IP|HOME)=")
TOKEN_MODE = re.compile(r"RAY_AUTH_MODE(?!=([\"']?)token\1(?:[\s;&|)\"']|$))")


def find_start_problems(line: str, root: str | None = None) -> list[str]:
    """Return what is unsafe in a shell command that may start Ray, as a shell would run it.

    With the folder `root` of the token on the nodes it is a definition's line, of which more is
    known: where the token is, and that nothing in it need be made up by the shell.
    """
    try:
        commands = read_commands(line)
    except ValueError as problem:
        return [f"cannot be read as a shell command: {problem}"]
    found = _general_problems(line, commands)
    starts = [command for command in commands if command.starts_ray()]
    if _mentions(line, commands, "start"):
        found.append("`ray start` inside another command cannot be checked")
    if root is not None:
        found += _hidden_problems(line, commands)
    for command in starts:
        found += _environment_problems(command, root)
        if root is not None:
            found += _word_problems(command)
        if "--head" in command.words:
            found += _head_problems(command, commands)
    return found


def _hidden_problems(line: str, commands: list[SimpleCommand]) -> list[str]:
    """Return what may change the line's other commands in ways that are not read here."""
    found = [
        f"`{command.words[0]}` in front of `ray start` cannot be checked"
        for command in commands
        if command.words[0] in REWRITERS
    ]
    if any("()" in command.after for command in commands):
        found.append("a function of the shell cannot be checked")
    names = [
        word.partition("=")[0]
        for command in commands
        if command.words[0] in ("export", "unset")
        for word in command.words[1:]
    ]
    if any(MADE_UP.search(name) for name in names):
        found.append("a variable whose name the shell makes up cannot be checked")
    if TOKEN_PATH.search(line) or ASSIGNED_KNOWN.search(line):
        found.append("RAY_AUTH_TOKEN_PATH may only be assigned, RAY_HEAD_IP and HOME only read")
    return found


def _word_problems(command: SimpleCommand) -> list[str]:
    """Return what is unsafe in the words of a `ray start`, which the shell may make more of."""
    found = []
    for word in command.words[(command.ray_at() or 0) + 2 :]:
        name, _, value = KNOWN_VARIABLE.sub("", word).partition("=")
        if MADE_UP.search(name) or set("$`") & set(value):
            found.append(f"{word!r} is made up by the shell, and cannot be checked")
        if name in ("--ray-debugger-external", "--system-config"):
            found.append(f"{name} may open Ray to strangers")
    return found


def find_command_problems(line: str) -> list[str]:
    """Return what is unsafe in a command that prepares a node: it must leave Ray alone."""
    try:
        commands = read_commands(line)
    except ValueError as problem:
        return [f"cannot be read as a shell command: {problem}"]
    found = _general_problems(line, commands)
    if _mentions(line, commands, "start") or any(command.starts_ray() for command in commands):
        found.append("`ray start` belongs into the commands that start Ray, where it is checked")
    return found


def _general_problems(line: str, commands: list[SimpleCommand]) -> list[str]:
    found = []
    stops = any(command.ray_at("stop") is not None for command in commands)
    if stops or _mentions(line, commands, "stop"):
        found.append("`ray stop` kills every Ray on the host")
    words = [word for command in commands for word in command.words]
    words += [f"{k}={v}" for command in commands for k, v in command.environment.items()]
    modes = [word for word in words if word.startswith("RAY_AUTH_MODE")]
    if any(_is_hidden(command) for command in commands):
        found.append("a command whose name the shell makes up cannot be checked")
    if TOKEN_ITSELF.search(line) or any(word.startswith("RAY_AUTH_TOKEN=") for word in words):
        found.append("RAY_AUTH_TOKEN takes the place of the cluster's own token")
    if TOKEN_MODE.search(line) or any(mode != "RAY_AUTH_MODE=token" for mode in modes):
        found.append(
            "RAY_AUTH_MODE is something else than token: `ray start` without RAY_AUTH_MODE=token"
        )
    return found


def _is_hidden(command: SimpleCommand) -> bool:
    """Tell whether a word that may be `ray` comes out of a variable, braces or a pattern."""
    words = command.words
    named = [words[0]] if words[0] not in ("{", "[", "[[") else []
    named += [w for w, verb in zip(words, words[1:], strict=False) if verb in ("start", "stop")]
    return any(MADE_UP.search(word) and not PATH_BELOW_VARIABLE.fullmatch(word) for word in named)


def _mentions(line: str, commands: list[SimpleCommand], verb: str) -> int:
    """Return how often `ray VERB` stands in a line beside the commands that are read as such."""
    looks = LOOKS_LIKE_RAY.format(verb=verb)
    read = sum(command.ray_at(verb) is not None for command in commands)
    quoted = [word for command in commands for word in command.words if " " in word]
    in_quotes = sum(len(re.findall(looks, word)) for word in quoted)
    bare = len(re.findall(looks, line.replace("\\\n", " ")))
    return max(bare - read, in_quotes)


def _environment_problems(command: SimpleCommand, root: str | None) -> list[str]:
    at = command.ray_at() or 0
    in_front, environment = command.words[:at], dict(command.environment)
    found = []
    if in_front and in_front[0] not in HARMLESS_WRAPPERS and "-m" not in in_front:
        found.append(f"`{in_front[0]}` in front of `ray start`: it must be a command of its own")
    if "env" in in_front:
        after_env = in_front[in_front.index("env") + 1 :]
        given = dict(word.split("=", 1) for word in after_env if "=" in word)
        if len(given) < len(after_env):
            found.append("`env` with options in front of `ray start`")
        environment |= given
    if environment.get("RAY_AUTH_MODE") != "token":
        found.append("`ray start` without RAY_AUTH_MODE=token")
    path = environment.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        found.append("`ray start` without RAY_AUTH_TOKEN_PATH")
    elif root is not None and re.sub(r"^\$\{?HOME\}?(?=/)", "~", path) != f"{root}/auth_token":
        found.append(f"RAY_AUTH_TOKEN_PATH is {path}: it must be {root}/auth_token")
    return found


def _head_problems(command: SimpleCommand, commands: list[SimpleCommand]) -> list[str]:
    found = []
    if (host := command.option("--dashboard-host")) not in LOOPBACK_NAMES:
        found.append(f"dashboard-host is {host or 'not given'}: it must be 127.0.0.1")
    if "--block" in command.words or "&" in command.after.replace("&&", ""):
        found.append(
            "`ray start --head` must end before the Ray client server is ended: no --block, no &"
        )
    port = command.option("--ray-client-server-port") or CLIENT_SERVER_PORT
    server = CLIENT_SERVER.format(gcs=command.option("--port") or "6379", port=port)
    later = commands[commands.index(command) + 1 :]
    prompt = list(takewhile(lambda each: each.words[0] in HARMLESS_BETWEEN, later))
    if not any(_ends(server, each) for each in prompt):
        found.append(f"the Ray client server stays open on port {port}: see local.yaml")
    return found


def _ends(process: str, command: SimpleCommand) -> bool:
    """Tell whether a command is sure to end a process, by its command line."""
    if len(command.words) != 3 or command.words[:2] != ("pkill", "-f"):
        return False
    if set("|") & set(command.before) or "&" in command.before.replace("&&", ""):
        return False
    try:
        return re.search(command.words[2], process) is not None
    except re.error:
        return False
