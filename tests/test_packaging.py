"""What is installed is the tree, and nothing else lies about in the repository."""

import fnmatch
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tomllib
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
}


def folder_of(package):
    """Return the folder of a dotted package name, as `package-dir` says."""
    top, *rest = package.split(".")
    return Path(SETUPTOOLS["package-dir"].get(top, top), *rest)


def tracked(*patterns):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git working tree")
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", *patterns], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"git does not list the files: {done.stderr.strip()}")
    return [Path(name) for name in done.stdout.split("\0") if name]


def test_package_list_equals_the_tree():
    listed = SETUPTOOLS["packages"]
    found = {
        file.parent.relative_to(ROOT)
        for top in ("rsray", "cli")
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert {folder_of(package) for package in listed} == found
    assert len(listed) == len(set(listed))


def test_every_module_lies_in_a_listed_package():
    folders = {folder_of(package) for package in SETUPTOOLS["packages"]}
    for top in ("rsray", "cli"):
        for file in (ROOT / top).rglob("*.py"):
            assert file.parent.relative_to(ROOT) in folders, file


def test_files_that_are_no_modules_are_package_data():
    patterns = {folder_of(package): globs for package, globs in SETUPTOOLS["package-data"].items()}
    data = [file for file in tracked("rsray", "cli") if file.suffix != ".py"]
    assert Path("rsray/presets/macer.yaml") in data
    for file in data:
        globs = patterns.get(file.parent, [])
        assert any(fnmatch.fnmatch(file.name, glob) for glob in globs), f"{file} is not packaged"


def test_every_preset_file_on_disk_is_package_data():
    files = [file for file in (ROOT / "rsray" / "presets").iterdir() if file.is_file()]
    for file in files:
        assert file.suffix in (".py", ".yaml"), file
    assert "*.yaml" in SETUPTOOLS["package-data"]["rsray.presets"]


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
