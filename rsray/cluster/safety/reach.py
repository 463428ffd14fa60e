"""What a definition would reach: this machine's programs and files, odd hosts, containers."""

from __future__ import annotations

import os
import re
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
)
# What containers may be given; Ray itself puts them on the host's network.
CONTAINER_OPTIONS = tuple(
    "--gpus --shm-size --ulimit --memory -m --cpus --ipc --runtime --user -u --env -e --volume -v "
    "--name --hostname --workdir -w --log-opt --rm --init".split()
)


def find_reach_problems(definition: dict[str, Any]) -> list[str]:
    """Return what a definition would reach that it must not."""
    synced = definition.get("cluster_synced_files") or []
    return [
        *_login_problems(definition),
        *_mount_problems(definition.get("file_mounts") or {}),
        *(f"cluster_synced_files: {path} is sent" for path in synced if is_secret(str(path))),
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


def _mount_problems(mounts: dict[str, Any]) -> list[str]:
    return [
        f"file_mounts: {here} is sent, which is this machine's secret or holds one"
        for here in mounts.values()
        if is_secret(str(here))
    ]


def is_secret(path: str) -> bool:
    """Tell whether a path of this machine names a secret, or a folder that surely holds some."""
    expanded = Path(os.path.abspath(os.path.expanduser(os.path.expandvars(path))))
    home = Path.home()
    if expanded == home or expanded in home.parents or expanded == Path("/etc"):
        return True
    if home in expanded.parents and expanded.relative_to(home).parts[0] in SECRET_FOLDERS:
        return True
    return any(SECRET_NAMES.fullmatch(part) for part in expanded.parts)


def _container_problems(value: Any, place: str = "") -> list[str]:
    """Return what is unsafe in the options of containers anywhere below `value`."""
    if not isinstance(value, dict):
        return []
    found = []
    for key, inside in value.items():
        here = f"{place}.{key}".lstrip(".")
        if str(key).endswith("run_options"):
            found += [
                f"{here}: {problem}" for option in inside or [] for problem in _options(str(option))
            ]
        else:
            found += _container_problems(inside, here)
    return found


def _options(text: str) -> list[str]:
    """Return what is unsafe in one entry of docker's options, which goes into a shell command."""
    if re.search(r"[;&|`<>\n]|\$\(", text):
        return [f"{text!r} holds a shell command"]
    found = []
    words = text.replace("=", " ").split()
    name = words[0] if words else ""
    if name.startswith("-") and name not in CONTAINER_OPTIONS:
        found.append(f"{name} is none of {', '.join(CONTAINER_OPTIONS)}")
    if any(word.startswith("RAY_AUTH") for word in words):
        found.append(f"{text!r} changes the token")
    if re.search(
        r"(^|[\s=])(/|~|\$\{?HOME\}?|/etc|/root|/home|/var/run[^:]*|[^:\s]*docker\.sock):", text
    ):
        found.append(f"{text!r} gives the container the host's files")
    others = [word for word in words[1:] if word.startswith("-") and word not in CONTAINER_OPTIONS]
    return found + [f"{word} is none of {', '.join(CONTAINER_OPTIONS)}" for word in others]
