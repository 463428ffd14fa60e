"""The hosts of a cluster: which they are, and how to log in there."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import yaml

from rsray.cluster.definition import ClusterFile
from rsray.cluster.ssh import Host
from rsray.errors import UserError


def head_host(cluster: ClusterFile) -> Host:
    """Return the head of a cluster; UserError when the cloud has none of that name."""
    if cluster.hosts:
        return _make_host(cluster, cluster.hosts[0], cluster.resolved()["auth"])
    definition = yaml.safe_load(cluster.resolved_file.read_text())
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        from ray.autoscaler import sdk

        try:
            auth = sdk.bootstrap_config(dict(definition))["auth"]
            address = sdk.get_head_node_ip(definition)
        except (Exception, SystemExit) as problem:
            reason = " ".join(f"{said.getvalue()} {problem}".split())
            raise UserError(f"{cluster.path} is not up: {reason}") from problem
    return _make_host(cluster, address, auth)


def on_premise_hosts(cluster: ClusterFile) -> list[Host]:
    """Return the hosts of an on-premise cluster, head first."""
    auth = cluster.resolved()["auth"]
    return [_make_host(cluster, address, auth) for address in cluster.hosts]


def _make_host(cluster: ClusterFile, address: str, auth: dict[str, Any]) -> Host:
    return Host(
        address,
        auth["ssh_user"],
        auth.get("ssh_private_key"),
        cluster.home / "known_hosts",
        auth.get("ssh_proxy_command"),
    )
