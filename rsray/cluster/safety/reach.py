"""What a definition would reach: this machine's programs and files, odd hosts, containers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOST = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9.:_\]-]*")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")
# ssh runs a proxy command on this machine: only a hop through another host is one.
PROXY = re.compile(
    r"ssh(?: -q| -i [\w./~-]+| -p \d+| -l [\w.-]+)* -W %h:%p (?:[\w.]+@)?[\w][\w.-]*"
)
# Folders of the home that hold secrets, and names of files that are some.
SECRET_FOLDERS = tuple(".ssh .aws .gnupg .kube .docker .azure .config .rsray .ray".split())
SECRET_NAMES = re.compile(
    r"\.env.*|\.netrc|\.git|\.git-credentials|\.pypirc|id_[a-z0-9]+|.*\.(pem|key|p12|pfx)"
    r"|ssh_host_.*|g?shadow"
)
# What containers may be given; Ray itself puts them on the host's network.
CONTAINER_OPTIONS = tuple(
    "--gpus --shm-size --ulimit --memory -m --cpus --ipc --runtime --user -u --env -e --volume -v "
    "--name --hostname --workdir -w --log-opt --rm --init".split()
)
CONTAINER_NAMES = ("image", "head_image", "worker_image", "container_name")
CONTAINER_NAME = re.compile(r"[A-Za-z0-9][\w./:@-]*")
# Folders of a host, without the slash in front, that are the whole of it or open the way to it.
HOSTS_OWN = re.compile(r"|etc|root|home(/[^/]+)?|proc|dev|sys|(var/)?run(/.*)?|.*docker\.sock")


def find_reach_problems(definition: dict[str, Any], folder: Path) -> list[str]:
    """Return what a definition would reach that it must not."""
    mounted = (definition.get("file_mounts") or {}).values()
    synced = definition.get("cluster_synced_files") or []
    return [
        *_login_problems(definition),
        *(
            f"file_mounts: {here} is sent, which is this machine's secret or holds one"
            for here in mounted
            if is_secret(here, folder)
        ),
        *(f"cluster_synced_files: {here} is sent" for here in synced if is_secret(here, folder)),
        *_container_problems(definition),
    ]


def _login_problems(definition: dict[str, Any]) -> list[str]:
    provider, auth = definition["provider"], definition.get("auth") or {}
    hosts = [
        provider.get("head_ip"),
        provider.get("external_head_ip"),
        *(provider.get("worker_ips") or []),
    ]
    found = [
        f"{host!r} is no host name or address"
        for host in hosts
        if host is not None and not HOST.fullmatch(str(host))
    ]
    user = auth.get("ssh_user")
    if user is not None and not USER.fullmatch(str(user)):
        found.append(f"ssh_user {user!r} is no account")
    proxy = auth.get("ssh_proxy_command")
    if proxy and not PROXY.fullmatch(" ".join(str(proxy).split())):
        found.append(
            "ssh_proxy_command would run on this machine: allowed is `ssh -W %h:%p [USER@]HOST`"
        )
    if "coordinator_address" in provider:
        found.append("provider.coordinator_address: rsray has no check for such a coordinator")
    return found


def is_secret(path: object, folder: Path) -> bool:
    """Tell whether a path of this machine names a secret, or a folder that surely holds some.

    One that is relative is so to `folder`; what a link leads to counts as well.
    """
    named = folder / os.path.expanduser(os.path.expandvars(str(path)))
    return any(map(_names_secret, {os.path.abspath(named), os.path.realpath(named)}))


def _names_secret(path: str) -> bool:
    whole, home = Path(path), Path.home()
    if whole == home or whole in home.parents or whole == Path("/etc"):
        return True
    return any(SECRET_NAMES.fullmatch(part) or part in SECRET_FOLDERS for part in whole.parts)


def entries_below(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted place and the value of every entry of the mappings below `value`."""
    for key, inside in value.items() if isinstance(value, dict) else ():
        here = f"{place}.{key}".lstrip(".")
        yield here, inside
        yield from entries_below(inside, here)


def _container_problems(definition: dict[str, Any]) -> list[str]:
    """Return what is unsafe in the options of containers anywhere in a definition."""
    found = []
    for place, inside in entries_below(definition):
        *_, kind, key = ("", *place.split("."))
        if key.endswith("run_options"):
            found += [
                f"{place}: {problem}"
                for option in inside or []
                for problem in _options(str(option))
            ]
        elif kind == "docker" and key in CONTAINER_NAMES:
            if not CONTAINER_NAME.fullmatch(str(inside)):
                found.append(f"{place}: {inside!r} is no name, and goes into a shell command")
    return found


def _options(text: str) -> list[str]:
    """Return what is unsafe in one entry of docker's options, which goes into a shell command."""
    try:
        words = shlex.split(text.replace("${HOME}", "~").replace("$HOME", "~"))
    except ValueError:
        words = []
    if not words or re.search(r"[;&|`<>\n${]", "".join(words)):
        return [f"{text!r} holds a shell command, or what a shell makes more of"]
    found = [
        f"{name} is none of {', '.join(CONTAINER_OPTIONS)}"
        for name in (word.partition("=")[0] for word in words if word.startswith("-"))
        if name not in CONTAINER_OPTIONS
    ]
    values = [value for word in words for value in word.split("=")]
    if any(value.startswith("RAY_AUTH") for value in values):
        found.append(f"{text!r} changes the token")
    if any(_is_hosts_own(value.partition(":")[0]) for value in values if ":" in value):
        found.append(f"{text!r} gives the container the host's files")
    return found


def _is_hosts_own(path: str) -> bool:
    """Tell whether a container that is given this folder of its host has all of it, or secrets."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or any(part in SECRET_FOLDERS for part in parts):
        return True
    whole = "/".join(parts)
    if path.startswith("~"):
        return len(parts) == 1
    return path.startswith("/") and HOSTS_OWN.fullmatch(whole) is not None
