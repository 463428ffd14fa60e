"""Imports only go down: cli -> distributed and cluster -> the middle -> core."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*ROOT.glob("rsray/**/*.py"), *ROOT.glob("cli/**/*.py")])

# What each folder or module of rsray may import of rsray; its own modules are always allowed. Every
# edge is used: a test refuses one that is not.
GROUND = {"errors", "family"}
ALLOWED = {
    "errors": set(),
    "versions": set(),
    "progress": set(),
    "family": {"errors"},
    "core": GROUND,
    "storage": GROUND,
    "objectives": {"core", "family"},
    "models": GROUND | {"core"},
    "data": GROUND | {"storage"},
    "given_values": {"errors", "storage"},
    "config": GROUND | {"core", "data", "given_values", "models", "objectives", "storage"},
    "presets": GROUND | {"config", "data", "objectives"},
    "results": GROUND | {"config", "core", "data", "presets", "storage"},
    "training": GROUND
    | {
        "certification", "config", "core", "data", "models", "objectives", "presets", "results",
        "storage", "versions",
    },
    "certification": {
        "config", "core", "data", "errors", "models", "results", "storage", "versions",
    },
    "cluster": {"errors", "storage"},
    "distributed": GROUND | {
        "certification", "config", "core", "data", "models", "objectives", "presets", "progress",
        "results", "storage", "training", "versions",
    },
    "screen": {"distributed", "errors", "progress", "training"},
    "outcomes": {
        "certification", "config", "distributed", "errors", "progress", "results", "storage", "training",
    },
    "execution": {
        "certification", "distributed", "errors", "outcomes", "progress", "screen", "storage", "tracking",
        "training",
    },
    "api": {
        "certification", "config", "distributed", "errors", "execution", "models", "outcomes", "progress", "results",
        "screen", "storage", "training",
    },
    "tracking": {"errors", "progress", "results", "storage"},
    "__init__": {"api", "core", "errors", "models", "objectives", "outcomes", "progress"},
    # Commands that are no function of the api (doctor, presets, data, cluster) reach further down.
    "cli": {
        "__version__", "api", "certification", "cluster", "config", "core", "data", "distributed",
        "errors", "given_values", "execution", "outcomes", "presets", "progress", "results", "screen", "storage",
        "training", "versions",
    },
}  # fmt: skip
MATHEMATICS = {"mpmath", "torch", "numpy", "scipy"}
THIRD_PARTY = {"core": MATHEMATICS, "objectives": MATHEMATICS}


def part_of(path):
    """Return the folder below rsray/ (or the module right in it), or `cli`."""
    inside = path.relative_to(ROOT).with_suffix("").parts
    return "cli" if inside[0] == "cli" else inside[1]


def imports_of(tree):
    """Yield the dotted name of everything that is imported anywhere below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            if node.module == "rsray":
                yield from (f"rsray.{alias.name}" for alias in node.names)
            else:
                yield node.module


def at_import_time(path):
    """Yield the statements that run when the module is imported: no functions, no TYPE_CHECKING."""
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        else:
            waiting += ast.iter_child_nodes(node)


def test_the_tree_was_found():
    assert len(MODULES) > 50
    assert {part_of(path) for path in MODULES} <= set(ALLOWED), "a new part needs its layer here"


def test_every_allowed_edge_is_used():
    used = {name: set() for name in ALLOWED}
    for path in MODULES:
        names = (name.split(".") for name in imports_of(ast.parse(path.read_text())))
        used[part_of(path)] |= {name[1] for name in names if name[0] == "rsray" and name[1:]}
    unused = {name: ALLOWED[name] - used[name] for name in ALLOWED}
    assert {name: edges for name, edges in unused.items() if edges} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    own = part_of(path)
    for name in imports_of(ast.parse(path.read_text())):
        top, *rest = name.split(".")
        if top == "rsray_cli":
            assert own == "cli", f"imports {name}"
        elif top == "rsray":
            assert (rest or ["nothing"])[0] in ALLOWED[own] | {own}, f"imports {name}"
        elif top in ("ray", "optuna"):
            assert own in {"distributed", "cluster"}, f"imports {name}"
        elif own in THIRD_PARTY:
            assert top in sys.stdlib_module_names | THIRD_PARTY[own], f"imports {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) == "cli"], ids=lambda p: p.name)
def test_commands_import_inside_their_functions(path):
    for node in at_import_time(path):
        for name in imports_of(node):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | {"typer", "rsray_cli", "pydantic"} or name in (
                "rsray.config",
                "rsray.errors",
                "rsray.family",
                "rsray.given_values",
                "rsray.progress",
                "rsray.screen",
            ), f"imports {name}"


def loaded_by(script, *forbidden):
    """Run the script in a fresh Python and return which of the forbidden modules it loaded."""
    code = f"{script}\nimport json, sys\nprint(json.dumps([m for m in {forbidden} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_rsray_loads_nothing_heavy():
    heavy = ("torch", "ray", "optuna", "numpy", "scipy", "pyarrow", "pydantic", "yaml")
    assert (
        loaded_by("import rsray\nassert rsray.__version__ and 'bounds' in rsray.__all__", *heavy)
        == []
    )


def test_help_loads_nothing_heavy():
    heavy = ("torch", "ray", "optuna", "numpy", "scipy", "pyarrow", "sklearn", "matplotlib")
    script = """
import sys
from rsray_cli.main import run
for arguments in (["--help"], ["--version"], ["train", "--help"], ["tune", "--help"], ["certify", "-h"]):
    sys.argv = ["rsray", *arguments]
    try:
        run()
    except SystemExit as stopped:
        assert not stopped.code, (arguments, stopped.code)
"""
    assert loaded_by(script, *heavy) == []


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
sys.modules["optuna"] = None
import importlib, pkgutil
import rsray
for package in ("core", "objectives", "models", "data", "training", "certification", "results", "presets"):
    found = importlib.import_module(f"rsray.{package}")
    for module in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
        importlib.import_module(module.name)
import torch
torch.set_num_threads(1)
from rsray.data import open_split
digits = open_split("digits", "test")
torch.manual_seed(0)
model = rsray.models.build("lenet", image_shape=digits.image_shape, num_classes=10)
model.get_submodule("network" if hasattr(model, "network") else "").fc2.bias.data[3] = 50.0
smoothed = rsray.SmoothedClassifier(model, sigma=0.25, num_classes=10)
image = torch.from_numpy(digits.images([0])[0]).float() / 255
found = smoothed.certify(image, n0=20, n=500, alpha=0.001, generator=torch.Generator().manual_seed(0))
assert found.prediction == 3 and found.count_a == 500 and 0.5 < found.radius < 0.6, found
assert smoothed.predict(image, n=100).prediction == 3
"""


def test_the_library_works_with_ray_and_optuna_absent():
    # 500 of 500 hits: p = 0.001^(1/500) = 0.986, radius = 0.25 * Phi^-1(p) = 0.55.
    assert loaded_by(WITHOUT_RAY, "rsray.distributed", "rsray.cluster", "rsray_cli") == []


def test_threads_wait_without_spinning_unless_the_user_says_otherwise():
    code = "import os, rsray; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in ({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"):
        rest = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=rest | given
        )
        assert done.stdout.strip() == expected, done.stderr
