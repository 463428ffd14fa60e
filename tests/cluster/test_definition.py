"""Cluster definitions: Ray's own schema, what the launcher makes of them, and users' mistakes."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from edited import CLUSTERS, MANIFESTS, RAY_UP, ROOT, edit
from packaging.specifiers import SpecifierSet

from rsray.cluster.definition import read_cluster_file
from rsray.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def ids(path):
    return path.name


def test_the_files_are_there():
    assert [file.name for file in RAY_UP] == ["aws-gpu.yaml", "gcp-gpu.yaml", "local.yaml"]
    assert [file.name for file in MANIFESTS] == ["raycluster.yaml", "rayjob.yaml"]


@pytest.mark.parametrize("file", RAY_UP, ids=ids)
def test_every_definition_passes_rays_own_validation(file, tmp_path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    definition = read_cluster_file(edit(file, tmp_path)).resolved()
    validate_config(prepare_config(definition))


@pytest.mark.parametrize("file", RAY_UP, ids=ids)
def test_an_unedited_definition_is_refused_and_the_place_is_named(file):
    with pytest.raises(UserError, match=r"EDIT"):
        read_cluster_file(file)


@pytest.mark.parametrize("file", RAY_UP, ids=ids)
def test_what_the_launcher_renders(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rendered = yaml.safe_dump(
        read_cluster_file(edit(file, tmp_path)).resolved(), sort_keys=False, width=100
    ).replace(str(tmp_path), "/user")
    golden = GOLDEN / file.name
    if os.environ.get("RSRAY_WRITE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text(), "RSRAY_WRITE_GOLDEN=1 writes the new text: read the diff"


@pytest.mark.parametrize("file", [*RAY_UP, *MANIFESTS, CLUSTERS / "slurm.sbatch"], ids=ids)
def test_every_definition_says_what_it_costs_and_what_to_edit(file):
    text = file.read_text()
    assert re.search(r"(?i)\bcosts?\b", text) and "# EDIT" in text
    # every blank is marked near by, in its own line or the three above
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if "EDIT-" in line:
            assert "# EDIT" in "\n".join(lines[max(0, number - 4) : number + 1]), line


@pytest.mark.parametrize("name", ["aws-gpu.yaml", "gcp-gpu.yaml"])
def test_clouds_start_from_zero_on_spot_and_shut_down_when_idle(name):
    definition = yaml.safe_load((CLUSTERS / name).read_text())
    types = definition["available_node_types"]
    assert types["gpu"]["min_workers"] == 0 and definition["idle_timeout_minutes"] <= 15
    assert "spot" in str(types["gpu"]["node_config"]).lower()
    assert "spot" not in str(types["head"]["node_config"]).lower()
    assert "idle-shutdown.sh 8265" in definition["head_start_ray_commands"][0]
    assert any("uv sync --frozen" in line for line in definition["setup_commands"])


def locked(package):
    file = ROOT / "uv.lock"
    if not file.exists():
        pytest.skip("no uv.lock in this checkout")
    return next(p for p in tomllib.loads(file.read_text())["package"] if p["name"] == package)


def wanted(package):
    line = next(line for line in PROJECT["dependencies"] if re.match(rf"{package}\b", line))
    return SpecifierSet(re.sub(r"^[\w-]+(\[.*\])?", "", line))


def test_versions_match_pyproject():
    for file in (*MANIFESTS, CLUSTERS / "kuberay" / "Dockerfile"):
        text = file.read_text()
        versions = re.findall(r"rayVersion: *\"?([\d.]+)|rayproject/ray:([\d.]+)", text)
        assert versions, file
        for version in (first or second for first, second in versions):
            assert version in wanted("ray") and version == locked("ray")["version"], file
        for tag in re.findall(r"/rsray:([\d.]+)", text):
            assert tag == PROJECT["version"], file
    pythons = re.findall(
        r"--python (3\.\d+)|-py(3)(\d+)", "".join(f.read_text() for f in sorted(CLUSTERS.rglob("*")) if f.is_file() and f.suffix != ".pyc")
    )  # fmt: skip
    assert len(pythons) >= 4
    for dotted, major, minor in pythons:
        assert (dotted or f"{major}.{minor}") in SpecifierSet(PROJECT["requires-python"])
    assert locked("torch")["version"] in wanted("torch")


def test_the_cuda_that_the_files_speak_of_is_the_locks():
    for name in ("aws-gpu.yaml", "gcp-gpu.yaml", "local.yaml"):
        assert re.search(
            r"torch\s+is built for CUDA 13", (CLUSTERS / name).read_text().replace("# ", "")
        ), name
    assert locked("nvidia-cublas")["version"].startswith("13.")


def test_a_kubernetes_manifest_is_told_apart():
    with pytest.raises(UserError, match="kubectl apply"):
        read_cluster_file(CLUSTERS / "kuberay" / "raycluster.yaml")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda text: "[1, 2]", "no cluster definition"),
        (lambda text: "{", "not valid YAML"),
        (lambda text: text.replace("type: local", "type: moon"), "'moon'"),
        (lambda text: text.replace("type: local", "type: [local]"), "provider.type"),
        (lambda text: text.replace("cluster_name: rsray-local", "cluster_name: A b"), "'A b'"),
        (lambda text: text.replace("cluster_name: rsray-local", "cluster_name: 7"), "cluster_name"),
        (lambda text: text.replace("cluster_name:", "cluster_nam:"), "cluster_name is missing"),
        (lambda text: text.replace("upscaling_speed: 1.0", "upscaling_speed: fast"), "upscaling_speed"),
        (lambda text: text.replace("upscaling_speed", "speed"), "'speed' was unexpected"),
        (lambda text: text.replace("dashboard_port: 8265", "dashboard_port: 99999"), "dashboard_port"),
        (lambda text: text.replace("    root:", "    rooot:"), "rooot"),
        (lambda text: text.replace("root: ~/rsray ", "root: ~/rsray; rm -rf ~ "), "metadata.rsray.root"),
        (lambda text: text.replace("head_ip:", "hed_ip:"), "head_ip"),
        (lambda text: text.replace("root: ~/rsray ", "root: -x "), "metadata.rsray.root"),
        (lambda text: text.replace("root: ~/rsray ", "root: ~/../x "), "leads upwards"),
        (lambda text: text.replace("    root:", "    results: -x\n    root:"), "metadata.rsray.results"),
        (lambda text: text.replace("    root:", "    wait_for: {GPU: .inf}\n    root:"), "metadata.rsray.wait_for"),
        (lambda text: text.replace("    root:", "    wait_for: {GPU: 0.5}\n    root:"), "metadata.rsray.wait_for.GPU"),
        (lambda text: text.replace("    root:", "    wait_for: {'; x': 1}\n    root:"), "metadata.rsray.wait_for"),
        (lambda text: text.replace("metadata:\n  rsray:", "metadata: [5]\nother:\n  rsray:"), "metadata"),
        (lambda text: text.replace("ssh_user: ray", "ssh_proxy_command: ''"), "auth.ssh_user is missing"),
        (lambda text: "a: " + "[" * 5000, "nested too deeply"),
        (lambda text: text.replace("metadata:\n  rsray:", "metadata:\n  rsray: 5\n  other:"), "metadata.rsray"),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(change, said, tmp_path):
    file = edit(CLUSTERS / "local.yaml", tmp_path)
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError) as problem:
        read_cluster_file(file)
    assert said in str(problem.value) and "\n" not in str(problem.value)


def test_a_missing_file_of_the_user_is_named(tmp_path):
    cluster = read_cluster_file(edit(CLUSTERS / "local.yaml", tmp_path))
    (tmp_path / "uv.lock").unlink()
    with pytest.raises(UserError, match=r"uv\.lock.*uv lock"):
        cluster.resolved()
    with pytest.raises(UserError, match="neither a file nor an address"):
        read_cluster_file(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot read"):
        read_cluster_file(tmp_path)
