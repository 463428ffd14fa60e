"""What is installed is the tree, and nothing else lies about in the repository."""

import importlib.metadata
import importlib.resources
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import rsray

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
TOP_LEVEL = {
    "rsray",
    "cli",
    "clusters",
    "tests",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
}


def tracked(*patterns):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git working tree")
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", *patterns], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"git does not list the files: {done.stderr.strip()}")
    return [Path(name) for name in done.stdout.split("\0") if name]


def place_in_the_wheel(file):
    """Return where a file of the repository is to lie in the wheel."""
    tops = SETUPTOOLS["package-dir"].items()
    return next(
        (
            f"{package.replace('.', '/')}/{file.relative_to(folder)}"
            for package, folder in tops
            if file.is_relative_to(folder)
        ),
        str(file),
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of the files in a wheel that is built from a copy of what is tracked."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in tracked():
        if (ROOT / file).is_file() and not {"tests", ".ci"} & set(file.parts):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, copy / file)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    with zipfile.ZipFile(built) as files:
        return set(files.namelist())


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    wanted = {place_in_the_wheel(file) for file in tracked("rsray", "cli", "clusters")}
    assert {name for name in wheel if ".dist-info/" not in name} == wanted


def test_what_is_looked_for_is_in_the_wheel(wheel):
    """Typed, with presets and cluster definitions, the pages that the code cites, and no `cli`."""
    assert wheel >= {
        "rsray/py.typed",
        "rsray/presets/macer.yaml",
        "rsray/core/README.md",
        "rsray/cluster/definitions/local.yaml",
        "rsray/cluster/definitions/kuberay/Dockerfile",
        "rsray_cli/options.py",
    }
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {
        "rsray",
        "rsray_cli",
    }


def test_the_cluster_definitions_are_found_as_installed():
    found = importlib.resources.files("rsray.cluster.definitions")
    assert (found / "local.yaml").read_text() == (ROOT / "clusters" / "local.yaml").read_text()


INSTALLED = """
import importlib.metadata, importlib.util, json
found = importlib.metadata.distribution("rsray")
spec = importlib.util.find_spec("cli")
print(json.dumps({
    "top_level": (found.read_text("top_level.txt") or "rsray rsray_cli").split(),
    "files": [str(file) for file in found.files or []],
    "cli": spec.origin if spec else None,
    "command": importlib.util.find_spec("rsray_cli.main").origin,
    "version": found.version,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What a Python that does not stand in the repository sees."""
    try:
        importlib.metadata.distribution("rsray")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("rsray is not installed")
    done = subprocess.run(
        [sys.executable, "-I", "-c", INSTALLED],
        capture_output=True, text=True, cwd=tmp_path_factory.mktemp("elsewhere"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_module_called_cli_is_installed(installed):
    assert sorted(installed["top_level"]) == ["rsray", "rsray_cli"]
    assert not [
        name for name in installed["files"] if name.split("/")[0] in ("cli", "tests", "cli.py")
    ]
    assert installed["cli"] is None or not Path(installed["cli"]).is_relative_to(ROOT)
    assert Path(installed["command"]).name == "main.py"


def test_one_version(installed):
    assert PROJECT["project"]["version"] == rsray.__version__ == installed["version"]


def test_the_command_is_there():
    assert PROJECT["project"]["scripts"] == {"rsray": "rsray_cli.main:run"}
    from rsray_cli.main import app, run

    assert callable(run)
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {"train", "certify", "predict", "tune", "report", "presets", "doctor"} <= names


def test_top_level_of_the_repository():
    top = {file.parts[0] for file in tracked()}
    extra = {name for name in top if not name.startswith(".")} - TOP_LEVEL
    assert not extra, f"{sorted(extra)}: not allowed at the top of the repository"
    assert {"rsray", "cli", "tests", "pyproject.toml", "README.md", "LICENSE"} <= top


def test_nothing_that_is_made_is_tracked():
    made = (".safetensors", ".parquet", ".pt", ".pyc", ".tsv", ".jsonl")
    assert not [f for f in tracked() if f.suffix in made and "tests" not in f.parts]
    assert not [f for f in tracked() if "__pycache__" in f.parts or f.parts[0] == "runs"]
