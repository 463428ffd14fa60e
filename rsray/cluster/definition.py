"""A user's cluster definition: a `ray up` YAML with a few words for rsray, read and checked."""

from __future__ import annotations

import copy
import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rsray.cluster.safety import START_COMMANDS, find_problems
from rsray.errors import UserError
from rsray.storage.yaml_files import load_yaml

# Every value in clusters/ that only the user can know begins with this.
EDIT_PREFIX = "EDIT-"
# A cluster's processes carry its name in this variable; `down` knows them by it.
NAME_VARIABLE = "RSRAY_CLUSTER"
# These paths go into shell commands.
PATH_PATTERN = r"^(~/|/)?[A-Za-z0-9_.+][A-Za-z0-9_./+-]*$"
RESULTS_PATTERN = r"^([a-z0-9+]+://|~/|/)."
NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,30}")
ResourceName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]*$")]
# Each is waited for in bundles of one.
ResourceAmount = Annotated[int, Field(ge=0, le=10**6)]


class NodeLayout(BaseModel):
    """Where things are on the nodes: `metadata.rsray` of a cluster definition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The folder of rsray's token, environment and results.
    root: str = Field(default="~/rsray", pattern=PATH_PATTERN)
    python: str = Field(default="~/rsray/.venv/bin/python", pattern=PATH_PATTERN)
    # The dashboard listens on the head's loopback.
    dashboard_port: int = Field(default=8265, ge=1, le=65535)
    # Storage that every node sees; without it results are in <root>/out on the head.
    results: str | None = Field(default=None, pattern=RESULTS_PATTERN)
    # The resources that a job waits for before it starts.
    wait_for: dict[ResourceName, ResourceAmount] = {}
    # The user answers for the firewall of a provider that rsray cannot check.
    own_firewall: bool = False

    @field_validator("root", "python")
    @classmethod
    def _stay_inside(cls, path: str) -> str:
        if ".." in path.split("/"):
            raise ValueError(f"{path} leads upwards")
        return path


@dataclass(frozen=True)
class ClusterFile:
    """A checked cluster definition."""

    path: Path
    definition: dict[str, Any]
    layout: NodeLayout

    @property
    def name(self) -> str:
        """The cluster's name: of its tags in the cloud, its processes, its folder here."""
        return str(self.definition["cluster_name"])

    @property
    def provider(self) -> str:
        """aws, gcp or local: hosts that are there already."""
        return str(self.definition["provider"]["type"])

    @property
    def home(self) -> Path:
        """The folder on this machine that keeps the cluster's token and resolved definition."""
        return Path.home() / ".rsray" / "clusters" / self.name

    @property
    def token_file(self) -> Path:
        """The file on this machine with the cluster's token."""
        return self.home / "auth_token"

    @property
    def resolved_file(self) -> Path:
        """The definition as `ray up` gets it."""
        return self.home / "cluster.yaml"

    @property
    def hosts(self) -> list[str]:
        """The hosts of an on-premise cluster as ssh reaches them, head first; else none."""
        if self.provider != "local":
            return []
        provider = self.definition["provider"]
        head = provider.get("external_head_ip") or provider["head_ip"]
        return [head, *provider["worker_ips"]]

    @property
    def promised_nodes(self) -> int:
        """How many nodes are to be there when nothing runs, the head included."""
        if self.provider == "local":
            hosts = len(self.definition["provider"]["worker_ips"])
            return 1 + min(hosts, int(self.definition.get("min_workers", hosts)))
        types = self.definition["available_node_types"]
        head = self.definition["head_node_type"]
        return 1 + sum(
            int(kind.get("min_workers", 0)) for key, kind in types.items() if key != head
        )

    def resolved(self) -> dict[str, Any]:
        """Return the definition as `ray up` gets it; UserError for a file that is not there.

        The user's files are absolute paths, the token is mounted, and the cluster's processes carry
        its name in their environment. SPT_NOENV keeps it there when a process changes its title.
        """
        mark = f"export {NAME_VARIABLE}={self.name} SPT_NOENV=1; "
        commands = {
            key: [mark + line if "ray start" in line else line for line in self.definition[key]]
            for key in START_COMMANDS
        }
        mounts = {
            remote: str(self._local_file(local))
            for remote, local in (self.definition.get("file_mounts") or {}).items()
        }
        mounts[f"{self.layout.root}/auth_token"] = str(self.token_file)
        auth = dict(self.definition.get("auth") or {})
        for key in ("ssh_private_key", "ssh_public_key"):
            if key in auth:
                auth[key] = str(self._local_file(auth[key]))
        return {**self.definition, **commands, "file_mounts": mounts, "auth": auth}

    def _local_file(self, text: str) -> Path:
        path = Path(os.path.expandvars(text)).expanduser()
        path = path if path.is_absolute() else (self.path.parent / path).resolve()
        if not path.exists():
            hint = ": run `uv lock` there" if path.name == "uv.lock" else ""
            raise UserError(f"{self.path} names {text}, but {path} does not exist{hint}")
        return path


def read_cluster_file(path: str | os.PathLike[str]) -> ClusterFile:
    """Return the checked definition; UserError names what is missing, unedited or unsafe."""
    file = Path(path).expanduser()
    definition = _load_yaml(file)
    if "apiVersion" in definition:
        raise UserError(
            f"{file} is a Kubernetes manifest: kubectl apply it, forward port 8265 of its head "
            "service, then give --cluster http://127.0.0.1:8265"
        )
    metadata = definition.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise UserError(f"{file}: metadata must be a mapping")
    words = metadata.get("rsray") or {}
    try:
        layout = NodeLayout.model_validate(words)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: metadata.rsray.{field}: {first['msg']}") from problem
    _check_schema(file, definition)
    found = ClusterFile(file.absolute(), definition, layout)
    if not NAME_PATTERN.fullmatch(found.name):
        raise UserError(
            f"{file}: cluster_name is {found.name!r}: small letters, digits and - (at most 31)"
        )
    for where, text in list_texts(definition):
        if EDIT_PREFIX in text:
            raise UserError(f"{file}: {where} is {text!r}: replace what is marked # EDIT")
    try:
        unsafe = find_problems(definition, found.path.parent)
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise UserError(f"{file} has a form that rsray cannot check: {reason}") from problem
    if unsafe:
        raise UserError(f"{file} is not safe: {'; '.join(unsafe)}")
    return found


def _load_yaml(file: Path) -> dict[str, Any]:
    if file.exists() and not file.is_file():
        raise UserError(f"cannot read {file}: it is no file")
    try:
        documents = load_yaml(file.read_bytes(), str(file))
    except FileNotFoundError as problem:
        raise UserError(
            f"cluster {str(file)!r} is neither a file nor an address such as http://HOST:8265"
        ) from problem
    except OSError as problem:
        raise UserError(f"cannot read {file}: {problem}") from problem
    definition = documents[0] if documents else None
    if not isinstance(definition, dict) or not isinstance(definition.get("provider", {}), dict):
        raise UserError(f"{file} is no cluster definition: see clusters/README.md")
    return definition


def _check_schema(file: Path, definition: dict[str, Any]) -> None:
    """Raise UserError where the launcher of the installed Ray would refuse the definition."""
    import click
    import jsonschema  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    kinds = ("aws", "gcp", "azure", "vsphere", "local")
    kind = (definition.get("provider") or {}).get("type")
    if kind not in kinds:
        raise UserError(f"{file}: provider.type is {kind!r}: allowed are {', '.join(kinds)}")
    if "cluster_name" not in definition:
        raise UserError(f"{file}: cluster_name is missing")
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            validate_config(prepare_config(copy.deepcopy(definition)))
    except jsonschema.ValidationError as problem:
        where = ".".join(map(str, problem.absolute_path)) or "top level"
        raise UserError(f"{file}: {where}: {problem.message}") from problem
    except (ValueError, KeyError, TypeError, AttributeError, click.ClickException) as problem:
        # Ray colours what it says.
        text = re.sub(r"\x1b\[[0-9;]*m", "", f"{said.getvalue()} {problem}")
        reason = " ".join(text.split())
        raise UserError(f"{file} is refused by Ray's launcher: {reason}") from problem
    if kind == "local" and not (definition.get("auth") or {}).get("ssh_user"):
        raise UserError(f"{file}: auth.ssh_user is missing: the account on every host")


def list_texts(value: Any, where: str = "") -> list[tuple[str, str]]:
    """Return (dotted place, text) of every string, key and value, below `value`."""
    if isinstance(value, dict):
        inside = [(f"{where}.{key}".lstrip("."), item) for key, item in value.items()]
        keys = [(where, str(key)) for key in value]
        return keys + [text for place, item in inside for text in list_texts(item, place)]
    if isinstance(value, list):
        return [text for i, item in enumerate(value) for text in list_texts(item, f"{where}[{i}]")]
    return [(where, value)] if isinstance(value, str) else []
