"""No file of clusters/ opens a port, runs without a token or carries a secret; bad ones are seen."""

import copy
import re

import pytest
import yaml
from edited import CLUSTERS, MANIFESTS, RAY_UP, SCRIPTS, edit

from rsray.cluster.definition import read_cluster_file
from rsray.cluster.safety import command_problems, find_problems, find_secrets
from rsray.errors import UserError

NAMES = {file.name: file for file in (*RAY_UP, *MANIFESTS)}


def documents(name, tmp_path):
    file = NAMES[name]
    text = (edit(file, tmp_path) if file in RAY_UP else file).read_text()
    return [
        found for found in yaml.safe_load_all(text) if found.get("kind") != "PersistentVolumeClaim"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_is_safe(name, tmp_path):
    for definition in documents(name, tmp_path):
        assert find_problems(definition) == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_every_script_is_safe(file):
    text = re.sub(r"\\\n\s*", " ", file.read_text())  # a command on one line
    assert find_secrets(text) == []
    bare = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert not re.search(r"\bray stop\b|0\.0\.0\.0", bare)
    for line in bare.splitlines():
        if "ray start" in line and "--head" not in line:
            assert command_problems(line.rstrip(" &")) == []
    if "ray start --head" in bare:
        whole = bare[bare.index("srun --nodes=1 --ntasks=1 --overlap") : bare.index('wait \\$ray"')]
        assert "RAY_AUTH_MODE=token" in whole and "RAY_AUTH_TOKEN_PATH=" in whole
        assert "--dashboard-host=127.0.0.1" in whole and "pkill -f 'ray[.]util" in whole


LOCAL = {
    "no token": (r"RAY_AUTH_MODE=token ", "", "without RAY_AUTH_MODE=token"),
    "token off": (r"RAY_AUTH_MODE=token ", "RAY_AUTH_MODE=disabled ", "without RAY_AUTH_MODE=token"),
    "no token file": (r"RAY_AUTH_TOKEN_PATH=", "X=", "without RAY_AUTH_TOKEN_PATH"),
    "open dashboard": (r"--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "dashboard-host is 0.0.0.0"),
    "named dashboard": (r"--dashboard-host=127.0.0.1", "--dashboard-host 10.0.0.1", "dashboard-host is 10.0.0.1"),
    "default dashboard": (r"--dashboard-host=127.0.0.1 ", "", "dashboard-host is not given"),
    "client server": (r"pkill -f", "echo", "client server stays open"),
    "another client port": (r"client-server-port=10001", "client-server-port=10002", "port 10002"),
    "ray stop": (r"ray start --head", "ray stop; ray start --head", "kills every Ray"),
    "ray's own commands": (r"worker_start_ray_commands:", "head_setup_commands:", "worker_start_ray_commands"),
    "a token in it": (r"upscaling_speed: 1.0", "x: RAY_AUTH_TOKEN=0123456789abcdef", "a secret"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOCAL)
def test_an_unsafe_definition_is_seen(case, tmp_path):
    old, new, said = LOCAL[case]
    text = edit(CLUSTERS / "local.yaml", tmp_path).read_text()
    assert old in text
    found = find_problems(yaml.safe_load(text.replace(old, new)))
    assert any(said in problem for problem in found), found


def test_an_unsafe_definition_is_refused(tmp_path):
    file = edit(CLUSTERS / "local.yaml", tmp_path)
    file.write_text(
        file.read_text().replace("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")
    )
    with pytest.raises(UserError, match=r"is not safe: .*dashboard-host is 0\.0\.0\.0"):
        read_cluster_file(file)


AWS = {
    "the world": ("203.0.113.7/32", "0.0.0.0/0", "open to 0.0.0.0/0"),
    "half the world": ("203.0.113.7/32", "128.0.0.0/1", "open to 128.0.0.0/1"),
    "no range": ("203.0.113.7/32", "home", "'home' is no address range"),
    "the dashboard": ("FromPort: 22", "FromPort: 8265", "only tcp 22"),
    "every port": ("IpProtocol: tcp", "IpProtocol: '-1'", "only tcp 22"),
    "ray's group": ("security_group:", "other_group:", "IpPermissions is missing"),
    "a key": ("rsray/rsray", "AKIAABCDEFGHIJKLMNOP", "an AWS key"),
}  # fmt: skip


@pytest.mark.parametrize("case", AWS)
def test_an_open_security_group_is_seen(case, tmp_path):
    old, new, said = AWS[case]
    text = edit(CLUSTERS / "aws-gpu.yaml", tmp_path).read_text().replace("my-bucket", "rsray")
    assert old in text
    found = find_problems(yaml.safe_load(text.replace(old, new)))
    assert any(said in problem for problem in found), found


def test_gcps_default_network_is_seen(tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "gcp-gpu.yaml", tmp_path).read_text())
    del definition["available_node_types"]["gpu"]["node_config"]["networkInterfaces"]
    assert find_problems(definition) == [
        "gpu has no networkInterfaces: GCP's default network opens ssh to the world"
    ]


def _without_token(spec):
    del spec["authOptions"]


def _token_written(spec):
    pod = spec["workerGroupSpecs"][0]["template"]["spec"]
    pod["containers"][0]["env"] = [{"name": "RAY_AUTH_TOKEN", "value": "abc"}]


MANIFEST = {
    "no token": (_without_token, "authOptions.mode is not token"),
    "token off": (lambda spec: spec["authOptions"].update(mode="disabled"), "authOptions.mode"),
    "load balancer": (lambda spec: spec["headGroupSpec"].update(serviceType="LoadBalancer"), "ClusterIP"),
    "ingress": (lambda spec: spec["headGroupSpec"].update(enableIngress=True), "enableIngress"),
    "host network": (lambda spec: spec["headGroupSpec"]["template"]["spec"].update(hostNetwork=True), "hostNetwork"),
    "host port": (
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(ports=[{"containerPort": 8265, "hostPort": 8265}]),
        "hostPort 8265",
    ),
    "token written": (_token_written, "RAY_AUTH_TOKEN is written"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFEST)
@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_an_unsafe_manifest_is_seen(name, case, tmp_path):
    change, said = MANIFEST[case]
    manifest = copy.deepcopy(documents(name, tmp_path)[0])
    change(manifest["spec"].get("rayClusterSpec", manifest["spec"]))
    found = find_problems(manifest)
    assert any(said in problem for problem in found), found
