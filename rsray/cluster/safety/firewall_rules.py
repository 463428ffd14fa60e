"""Which addresses a definition lets in, as far as its provider tells: ssh from the user alone."""

from __future__ import annotations

import ipaddress
from typing import Any

# Address ranges of more hosts together may not reach ssh.
MOST_HOSTS = 2**16


def find_firewall_problems(definition: dict[str, Any]) -> list[str]:
    """Return what lets strangers in; a provider that rsray cannot check must be answered for."""
    provider = definition["provider"]["type"]
    if provider == "aws":
        return _aws_problems(definition)
    if provider == "gcp":
        return _gcp_problems(definition)
    words = (definition.get("metadata") or {}).get("rsray") or {}
    if provider == "local" or words.get("own_firewall") is True:
        return []
    return [
        f"rsray cannot check the firewall of {provider}: close every port but ssh from your own "
        "address, and say so with metadata.rsray.own_firewall: true"
    ]


def _gcp_problems(definition: dict[str, Any]) -> list[str]:
    found = []
    for name, kind in (definition.get("available_node_types") or {}).items():
        networks = kind["node_config"].get("networkInterfaces")
        if not networks:
            found.append(
                f"{name} has no networkInterfaces: GCP's default network opens ssh to the world"
            )
        for network in networks or []:
            named = [str(network.get(key) or "") for key in ("network", "subnetwork")]
            if not any(named) or any(each.rpartition("/")[2] == "default" for each in named):
                found.append(f"{name} is in GCP's default network, which opens ssh to the world")
    return found


def _aws_problems(definition: dict[str, Any]) -> list[str]:
    rules = (definition["provider"].get("security_group") or {}).get("IpPermissions")
    kinds = definition.get("available_node_types") or {}
    if all(kind["node_config"].get("SecurityGroupIds") for kind in kinds.values()) and kinds:
        # The user's own group.
        return []
    if not rules:
        return ["provider.security_group.IpPermissions is missing: Ray would open ssh to the world"]
    found = [problem for rule in rules for problem in rule_problems(rule)]
    if (
        sum(_num_addresses(text) for rule in rules for text in _ranges(rule)) > MOST_HOSTS
        and not found
    ):
        found.append("port 22 is open to many ranges: give your own address, as 203.0.113.7/32")
    return found


def rule_problems(rule: dict[str, Any]) -> list[str]:
    """Return what is unsafe in one rule of an AWS security group."""
    found = []
    if (rule.get("IpProtocol"), rule.get("FromPort"), rule.get("ToPort")) != ("tcp", 22, 22):
        found.append(
            f"a rule opens {rule.get('IpProtocol')} {rule.get('FromPort')}-{rule.get('ToPort')}: "
            "only tcp 22 may be open"
        )
    for key in ("PrefixListIds", "UserIdGroupPairs"):
        if rule.get(key):
            found.append(f"a rule lets in {key}, which rsray cannot check")
    if not _ranges(rule):
        found.append("a rule names no address range")
    for text in _ranges(rule):
        number = _num_addresses(text)
        if number > MOST_HOSTS:
            found.append(f"port 22 is open to {text}: give your own address, as 203.0.113.7/32")
        elif not number:
            found.append(f"{text!r} is no address range such as 203.0.113.7/32")
    return found


def _ranges(rule: dict[str, Any]) -> list[Any]:
    ranges = [entry.get("CidrIp") for entry in rule.get("IpRanges") or []]
    return ranges + [entry.get("CidrIpv6") for entry in rule.get("Ipv6Ranges") or []]


def _num_addresses(text: Any) -> int:
    """Return how many addresses are in a range; 0 for what is none."""
    try:
        return int(ipaddress.ip_network(text).num_addresses)
    except ValueError:
        return 0
