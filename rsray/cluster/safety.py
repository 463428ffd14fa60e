"""What a cluster definition must not do: open a port, run without a token, carry a secret.

The launcher refuses a definition with a problem, and a test looks at every file in clusters/.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from typing import Any

SECRET_PATTERNS = {
    "an AWS key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a secret": re.compile(
        r"(?i)(aws_secret_access_key|secret_access_key|RAY_AUTH_TOKEN|hf_token|password)\s*[=:]\s*[^\s$<{]"
    ),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
}
# Ray starts its client server on the node's address and has no switch against it.
CLIENT_SERVER_PATTERN = re.escape("ray[.]util[.]client[.]server")
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
# An address range of more hosts may not reach ssh.
MOST_HOSTS = 2**16


def find_problems(definition: dict[str, Any]) -> list[str]:
    """Return what is unsafe in a `ray up` definition or a KubeRay manifest; none if all is well."""
    found = find_secrets(definition)
    if "apiVersion" in definition:
        return found + _manifest_problems(definition)
    for key in START_COMMANDS:
        commands = definition.get(key) or []
        found += [f"{key}: {problem}" for line in commands for problem in command_problems(line)]
        starts = [line for line in commands if "ray start" in line]
        if len(starts) != 1:
            found.append(f"{key} must have one `ray start` (Ray's default is not safe)")
    return found + _firewall_problems(definition)


def command_problems(line: str) -> list[str]:
    """Return what is unsafe in one shell command of a definition or script."""
    found = []
    if re.search(r"\bray(\.scripts\.scripts)?['\"]?\s+stop\b", line):
        found.append("`ray stop` kills every Ray on the host")
    if not re.search(r"\bray['\"]?\s+start\b", line):
        return found
    if not re.search(r"\bRAY_AUTH_MODE=token\b", line):
        found.append("`ray start` without RAY_AUTH_MODE=token")
    if "RAY_AUTH_TOKEN_PATH=" not in line:
        found.append("`ray start` without RAY_AUTH_TOKEN_PATH")
    if "--head" not in line:
        return found
    if (host := _option_value(line, "--dashboard-host")) not in ("127.0.0.1", "localhost", "::1"):
        found.append(f"dashboard-host is {host or 'not given'}: it must be 127.0.0.1")
    port = _option_value(line, "--ray-client-server-port") or "10001"
    if not re.search(rf"pkill .*{CLIENT_SERVER_PATTERN}.*--port={port}\b", line):
        found.append(f"the Ray client server stays open on port {port}: see local.yaml")
    return found


def _option_value(line: str, name: str) -> str | None:
    words = shlex.split(line, posix=True)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following.rstrip(";")
        if word.startswith(f"{name}="):
            return word.partition("=")[2].rstrip(";")
    return None


def find_secrets(value: Any) -> list[str]:
    """Return what looks like a credential anywhere in a definition."""
    text = str(value)
    return [f"holds {kind}" for kind, pattern in SECRET_PATTERNS.items() if pattern.search(text)]


def _firewall_problems(definition: dict[str, Any]) -> list[str]:
    provider = definition["provider"]
    if provider["type"] == "aws":
        return _aws_problems(definition)
    if provider["type"] == "gcp":
        kinds = definition.get("available_node_types") or {}
        return [
            f"{name} has no networkInterfaces: GCP's default network opens ssh to the world"
            for name, kind in kinds.items()
            if not kind["node_config"].get("networkInterfaces")
        ]
    return []


def _aws_problems(definition: dict[str, Any]) -> list[str]:
    rules = (definition["provider"].get("security_group") or {}).get("IpPermissions")
    kinds = definition.get("available_node_types") or {}
    if all(kind["node_config"].get("SecurityGroupIds") for kind in kinds.values()) and kinds:
        # The user's own group.
        return []
    if not rules:
        return ["provider.security_group.IpPermissions is missing: Ray would open ssh to the world"]
    return [problem for rule in rules for problem in rule_problems(rule)]


def rule_problems(rule: dict[str, Any]) -> list[str]:
    """Return what is unsafe in one rule of an AWS security group."""
    found = []
    if (rule.get("IpProtocol"), rule.get("FromPort"), rule.get("ToPort")) != ("tcp", 22, 22):
        found.append(
            f"a rule opens {rule.get('IpProtocol')} {rule.get('FromPort')}-{rule.get('ToPort')}: "
            "only tcp 22 may be open"
        )
    ranges = [entry.get("CidrIp") for entry in rule.get("IpRanges") or []]
    ranges += [entry.get("CidrIpv6") for entry in rule.get("Ipv6Ranges") or []]
    if not ranges:
        found.append("a rule names no address range")
    for text in ranges:
        try:
            if ipaddress.ip_network(text).num_addresses > MOST_HOSTS:
                found.append(f"port 22 is open to {text}: give your own address, as 203.0.113.7/32")
        except ValueError:
            found.append(f"{text!r} is no address range such as 203.0.113.7/32")
    return found


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
