"""What a cluster definition must not do: open a port, run without a token, carry a secret.

The launcher refuses a definition with a problem, and a test looks at every file in clusters/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rsray.cluster.safety.firewall_rules import find_firewall_problems
from rsray.cluster.safety.ray_commands import find_command_problems, find_start_problems
from rsray.cluster.safety.reach import entries_below, find_reach_problems

SECRET_PATTERNS = {
    "an AWS key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a secret": re.compile(
        r"(?i)(aws_secret_access_key|secret_access_key|RAY_AUTH_TOKEN|hf_token|password)\s*[=:]\s*[^\s$<{]"
    ),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
}
# Of nodes in clouds: scripts that run as they start, before anything that is looked at here.
BOOT_SCRIPT = re.compile(r"(?i)'(user[-_]?data|custom[-_]?data|(startup|shutdown)-script(-url)?)'")
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


def find_problems(definition: dict[str, Any], folder: Path | None = None) -> list[str]:
    """Return what is unsafe in a `ray up` definition or a KubeRay manifest; none if all is well.

    Its paths of this machine are relative to `folder`, by itself the current one.
    """
    found = find_secrets(definition)
    if "apiVersion" in definition:
        return found + _manifest_problems(definition)
    if (script := BOOT_SCRIPT.search(str(definition))) is not None:
        found.append(f"{script[1]} runs commands that are not checked: use setup_commands")
    root = ((definition.get("metadata") or {}).get("rsray") or {}).get("root", "~/rsray")
    for key in START_COMMANDS:
        lines = definition.get(key) or []
        found += [
            f"{key}: {problem}" for line in lines for problem in find_start_problems(line, root)
        ]
        if sum("ray start" in line for line in lines) != 1:
            found.append(f"{key} must have one `ray start` (Ray's default is not safe)")
    for place, lines in entries_below(definition):
        if place.endswith("_commands") and place not in START_COMMANDS:
            problems = [each for line in lines or [] for each in find_command_problems(str(line))]
            found += [f"{place}: {problem}" for problem in problems]
    return (
        found
        + find_reach_problems(definition, folder or Path())
        + find_firewall_problems(definition)
    )


def find_secrets(value: Any) -> list[str]:
    """Return what looks like a credential anywhere in a definition."""
    text = str(value)
    return [f"holds {kind}" for kind, pattern in SECRET_PATTERNS.items() if pattern.search(text)]


def _manifest_problems(manifest: dict[str, Any]) -> list[str]:
    spec = manifest.get("spec") or {}
    cluster = spec.get("rayClusterSpec", spec)
    head = cluster.get("headGroupSpec") or {}
    found = []
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        found.append("authOptions.mode is not token")
    if head.get("serviceType", "ClusterIP") != "ClusterIP":
        found.append(f"serviceType is {head['serviceType']}: it must be ClusterIP")
    if head.get("enableIngress"):
        found.append("enableIngress opens the dashboard")
    groups = [head, *(cluster.get("workerGroupSpecs") or [])]
    for pod in ((group.get("template") or {}).get("spec") or {} for group in groups):
        if pod.get("hostNetwork"):
            found.append("hostNetwork puts Ray's ports on the node")
        for container in pod.get("containers") or []:
            found += [
                f"hostPort {port['hostPort']} is open"
                for port in container.get("ports") or []
                if "hostPort" in port
            ]
            names = {entry["name"] for entry in container.get("env") or [] if "value" in entry}
            if "RAY_AUTH_TOKEN" in names:
                found.append("RAY_AUTH_TOKEN is written in the manifest")
    return found
