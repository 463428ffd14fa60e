"""The recipes of CONTRIBUTING.md: an objective, a data set or a bound is one file and one line.

Each is done in a copy of the package, with which the commands and the contract tests then run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

OBJECTIVE = '''"""Mine: cross entropy of the noisy copies, less the entropy of their mean (you, 2026)."""

# Shapes: B images, M noise draws per image, K classes.
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsray.objectives._base import Objective, Terms, setting
from rsray.objectives.probabilities import cross_entropy, log_mean_softmax


@dataclass(frozen=True, kw_only=True)
class Mine(Objective):
    """Cross entropy less trade_off times the entropy of the mean prediction."""

    search_space = {"trade_off": "log(0.01,1)"}

    num_draws: int = setting("Noisy copies of each image in a step.", 2)
    trade_off: float = setting("Weight of the entropy.", 0.1, least=0)

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the two terms [B] in nats."""
        log_mean_BK = log_mean_softmax(logits_BMK)
        entropy_B = -(log_mean_BK.exp() * log_mean_BK).sum(-1)
        return Terms(cross_entropy(logits_BMK, labels_B), entropy_B * -self.trade_off)
'''
PRESET = """# Mine (you, 2026).
# Run it: rsray train --preset mine-digits
# Cost: measured on 2 CPU cores. Figures: none published.
paper: Mine (you, 2026)
ours: true

mine-digits:
  settings: {dataset: digits, model: lenet, objective: mine, sigma: 0.25, num_draws: 2, trade_off: 0.1,
             epochs: 16, lr: 0.05, lr_drops: [4, 14], batch_size: 64, momentum: 0.9, weight_decay: 5.0e-4}
  cost: 10 s on 2 CPU cores
"""
DATASET = '''"""Squares: a bright square on the left or on the right, made as it is asked for."""

# Shapes: N images.
from functools import partial

import numpy as np

from rsray.data._base import DatasetSpec, ImageSplit, Labels, Pixels, ReadOptions
from rsray.data.reading.in_memory import ArraySplit
from rsray.storage import Place

SIZES = {"train": 200, "test": 40}


def load(split: str) -> tuple[Pixels, Labels]:
    """Return images uint8 [N, 1, 8, 8] and labels int64 [N]."""
    labels = np.arange(SIZES[split], dtype=np.int64) % 2
    images = np.zeros((len(labels), 1, 8, 8), np.uint8)
    images[labels == 0, :, 2:6, :4] = 255
    images[labels == 1, :, 2:6, 4:] = 255
    return images, labels


def open_squares(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split; the root and the options are not looked at."""
    return ArraySplit(
        name="squares", split=split, num_classes=2, image_shape=(1, 8, 8), load=partial(load, split)
    )


SQUARES = DatasetSpec(
    name="squares",
    num_classes=2,
    class_names=("left", "right"),
    image_shape=(1, 8, 8),
    open=open_squares,
    how_to_get="it is made as it is asked for",
    embedded=True,
    training={"model": "lenet", "epochs": 2, "lr": 0.05, "lr_drops": (1,)},
    settings={"macer": {"num_draws": 2}},
)
'''
BOUND = '''"""Half: Clopper-Pearson's bound at half of alpha, so a little more careful than it is."""

from __future__ import annotations

from numpy.typing import ArrayLike

from rsray.core.bounds._base import Bound, Floats
from rsray.core.bounds.clopper_pearson import clopper_pearson_lower


class Half(Bound):
    """Certifies Cohen et al.'s smoothed classifier with probability 1 - alpha/2."""

    name = "half"

    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return Clopper-Pearson's lower bound at alpha / 2."""
        return clopper_pearson_lower(hits, n, alpha / 2)


HALF = Half()
'''


class Copy:
    """A copy of the package in which something is added, and what runs with it."""

    def __init__(self, folder):
        self.folder = folder
        for source, target in (("rsray", "rsray"), ("cli", "rsray_cli"), ("tests", "tests")):
            shutil.copytree(
                ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}

    def add(self, file, text, line=None, before=None, into=None):
        """Write a file, and a line at the end of the dict of its family."""
        (self.folder / file).write_text(text)
        if line is not None:
            family = self.folder / into
            content = family.read_text()
            assert content.count(before) == 1, "where the dict ends"
            family.write_text(content.replace(before, f"{line}\n{before}"))

    def python(self, *arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def rsray(self, *arguments):
        return self.python("-c", "from rsray_cli.main import run; run()", *arguments)

    def contract(self, *files, of):
        """Run the contract tests of the new member; returns what pytest says."""
        return self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", of, *files)


@pytest.fixture
def copy(tmp_path):
    made = Copy(tmp_path)
    where = made.python("-c", "import rsray, rsray_cli; print(rsray.__file__, rsray_cli.__file__)")
    assert where.count(str(tmp_path)) == 2
    return made


@pytest.fixture
def with_objective(copy):
    copy.add(
        "rsray/objectives/mine.py",
        OBJECTIVE,
        '        "mine": "rsray.objectives.mine:Mine",',
        "    },\n)",
        "rsray/objectives/__init__.py",
    )
    copy.add("rsray/presets/mine.yaml", PRESET)
    return copy


@pytest.mark.slow
def test_an_objective_is_one_file_one_line_and_a_preset(with_objective):
    shown = with_objective.rsray("presets", "mine-digits")
    assert "objective: mine" in shown and "trade_off: 0.1" in shown
    code = "import rsray; print(rsray.objectives.Mine(sigma=0.5))\n"
    code += "from rsray.distributed.search.space import parse_space; print(parse_space([], 'mine'))"
    found = with_objective.python("-c", code)
    assert "num_draws=2, trade_off=0.1" in found and "'trade_off': 'log(0.01,1)'" in found
    files = ("tests/objectives/test_contract.py", "tests/presets/test_presets.py")
    assert " passed" in with_objective.contract(*files, of="mine or test_files or come_first")


@pytest.mark.slow
def test_an_added_objective_is_searched_and_certified(with_objective):
    with_objective.rsray(
        *"tune --dataset digits --objective mine --trials 2 --epochs 2 --limit 300".split(),
        *"--n 200 --certify-limit 5 --out found".split(),
    )
    assert "objective: mine" in (with_objective.folder / "found/best.yaml").read_text()
    assert list((with_objective.folder / "found").glob("**/certificates.parquet"))


@pytest.fixture
def with_dataset(copy):
    copy.add(
        "rsray/data/squares.py",
        DATASET,
        '        "squares": "rsray.data.squares:SQUARES",',
        "    },\n)",
        "rsray/data/__init__.py",
    )
    return copy


@pytest.mark.slow
def test_a_data_set_is_one_file_and_one_line(with_dataset):
    code = "from rsray.data import open_split; print(open_split('squares', 'test').class_names)"
    assert with_dataset.python("-c", code).strip() == "('left', 'right')"
    with_dataset.rsray(*"train --dataset squares --out run".split())
    assert "model: lenet" in (with_dataset.folder / "run/run.yaml").read_text()
    files = (
        "tests/data/test_open_split.py",
        "tests/test_config.py",
        "tests/presets/test_presets.py",
    )
    assert " passed" in with_dataset.contract(*files, of="squares or test_specs")


@pytest.mark.slow
def test_a_bound_is_one_file_and_one_line(copy):
    copy.add(
        "rsray/core/bounds/half.py",
        BOUND,
        '        "half": "rsray.core.bounds.half:HALF",',
        "    },\n)",
        "rsray/core/bounds/__init__.py",
    )
    assert "half" in copy.rsray("certify", "--help")
    code = "from rsray.core.bounds import BOUNDS as all; "
    code += "print(all['half'].lower_of_all_hits(99, 0.002) == "
    code += "all['clopper-pearson'].lower_of_all_hits(99, 0.001))"
    assert copy.python("-c", code).strip() == "True"
    files = ("tests/core/bounds/test_bounds.py", "tests/core/test_coverage.py")
    assert " passed" in copy.contract(*files, of="half")


def test_help_lists_what_was_added(with_objective, with_dataset):
    """Both fixtures add to the same copy."""
    for command in ("train", "tune"):
        shown = with_objective.rsray(command, "--help")
        assert "mine" in shown and "squares" in shown
