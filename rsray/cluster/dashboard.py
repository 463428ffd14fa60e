"""The dashboard of a cluster, which takes jobs: through a tunnel, or at a URL."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rsray.cluster.definition import ClusterFile, NodeLayout, read_cluster_file
from rsray.cluster.ssh import Host, head_host
from rsray.errors import UserError

ANSWER_SECONDS = 30.0
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
NODE_KEYS = {"node_ip", "is_head_node", "state", "resources_total"}


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that answers, with the token that it asks for."""

    url: str
    token: str | None
    # The YAML or URL as the user gave it.
    target: str
    layout: NodeLayout
    # Only a cluster that `ray up` brought up has a head that ssh reaches.
    head: Host | None
    # What this machine's record of jobs knows the cluster by: its name, or its address.
    name: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def get(self, path: str) -> Any:
        """Return the JSON at a path; UserError when nothing answers or the token is refused."""
        try:
            request = urllib.request.Request(self.url + path, headers=self.headers)
            with _opener(self.url).open(request, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as problem:
            if problem.code in (401, 403):
                raise UserError(_refusal_text(self)) from problem
            raise UserError(f"{self.target}: {path} answers {problem.code}") from problem
        except (OSError, ValueError, OverflowError, HTTPException, RecursionError) as problem:
            raise UserError(f"no Ray dashboard answers at {self.target}: {problem}") from problem

    def nodes(self) -> list[dict[str, Any]]:
        """Return what Ray tells of every node: node_ip, is_head_node, state, resources_total."""
        answer = self.get("/api/v0/nodes?limit=1000&detail=1")
        try:
            found: list[dict[str, Any]] = answer["data"]["result"]["result"]
            return [node for node in found if NODE_KEYS <= set(node)]
        except (KeyError, TypeError) as problem:
            raise UserError(f"{self.target} answers with something else than nodes") from problem

    def job_client(self) -> Any:
        """Return Ray's own client for jobs."""
        from ray.job_submission import JobSubmissionClient

        dashboard = "ray.dashboard.modules"
        packaging = "ray._private.runtime_env.packaging"
        for name in (f"{dashboard}.dashboard_sdk", f"{dashboard}.job.sdk", packaging):
            logging.getLogger(name).setLevel(logging.WARNING)
        return JobSubmissionClient(self.url, headers=self.headers)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Ends at a redirect: the token in the request would go with it to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Return what opens an address: without a redirect, and for plain http without a proxy."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if url.startswith("http://"):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _refusal_text(dashboard: Dashboard) -> str:
    if dashboard.head is not None:
        return (
            f"{dashboard.target} refuses this machine's token: was it brought up elsewhere? "
            "Copy the token file from there, or take the cluster down and up again"
        )
    return (
        f"{dashboard.target} refuses the request: put the cluster's token in RAY_AUTH_TOKEN or the "
        "path of a file with it in RAY_AUTH_TOKEN_PATH"
    )


def is_url(target: str) -> bool:
    """Tell whether a cluster is named by the URL of its dashboard."""
    return target.startswith(("http://", "https://"))


@contextmanager
def connect_dashboard(target: str) -> Iterator[Dashboard]:
    """Yield the dashboard of a YAML or URL; UserError when it does not answer or refuses us."""
    if is_url(target):
        url = target.rstrip("/")
        # As in the image of clusters/kuberay, whose `python` has everything.
        layout = NodeLayout(python="python")
        dashboard = Dashboard(url, _local_token(), target, layout, None, url)
        _refuse_plain_http(dashboard)
        dashboard.get("/api/version")
        yield dashboard
        return
    with connect_through_ssh(read_cluster_file(target), target) as dashboard:
        yield dashboard


@contextmanager
def connect_through_ssh(cluster: ClusterFile, target: str | None = None) -> Iterator[Dashboard]:
    """Yield the dashboard of a cluster that `up` brought up, through ssh."""
    # Only a cluster of named hosts is known without what `up` wrote.
    is_known = bool(cluster.hosts) or cluster.resolved_file.exists()
    if not (cluster.token_file.exists() and is_known):
        raise UserError(f"{cluster.path} is not up: rsray cluster up {cluster.path}")
    token, head = cluster.token_file.read_text().strip(), head_host(cluster)
    with head.tunnel(cluster.layout.dashboard_port) as port:
        url = f"http://127.0.0.1:{port}"
        shown = target or str(cluster.path)
        dashboard = Dashboard(url, token, shown, cluster.layout, head, cluster.name)
        dashboard.get("/api/version")
        # Only this address asks for the token.
        dashboard.get("/api/jobs/")
        yield dashboard


def _local_token() -> str | None:
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    return path.read_text().strip() if path.exists() else None


def _refuse_plain_http(dashboard: Dashboard) -> None:
    try:
        parts = urlsplit(dashboard.url)
    except ValueError as problem:
        raise UserError(f"{dashboard.target} is no address: {problem}") from problem
    if not parts.hostname:
        raise UserError(f"{dashboard.target} is no address such as http://127.0.0.1:8265")
    if dashboard.token and parts.scheme == "http" and parts.hostname not in LOOPBACK_NAMES:
        raise UserError(
            f"{dashboard.target} would get the token unencrypted: forward its port "
            "(ssh -L or kubectl port-forward) and give http://127.0.0.1:PORT, or use https"
        )
