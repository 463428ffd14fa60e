"""Small training runs on the embedded digits, in this process, in float32 unless told otherwise."""

import sys
import types
from dataclasses import dataclass

import pytest
import torch
from interrupted_runs import Moody

from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.loop import Training
from rsray.training.opened_run import Team
from rsray.training.run_folder.run import claim_run, open_training_split

CPU = torch.device("cpu")
SMALL = {
    "dataset": "digits", "model": "lenet", "objective": "gaussian", "epochs": 2, "batch_size": 32,
    "lr": 0.05, "lr_drops": [], "limit": 64, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fit_group(monkeypatch):
    """Whether images fit is not measured: tests count what a network is shown. Returns how."""
    measured = Training._fit_group
    monkeypatch.setattr(Training, "_fit_group", lambda self, batch, objective: None)
    return measured


@dataclass(frozen=True)
class Lab:
    """Makes configurations and runs of them; `root` is where RUN folders go."""

    root: Place

    def config(self, **changes):
        return train_config({**SMALL, **changes})

    def folder(self, name):
        return self.root / name

    def training(self, config, run=None, team=None, device=CPU):
        if run is not None:
            claim_run(run, config, open_training_split(config), device)
        return Training(config, run, device, team or Team())

    def rows(self, config, run=None):
        """Train to the end and return the figures of every epoch that was trained."""
        rows = []
        self.training(config, run).run_epochs(lambda row: rows.append(row))
        return rows

    def weights(self, config, **arguments):
        """Train to the end without writing anything and return the weights."""
        training = self.training(config, **arguments)
        training.run_epochs()
        return training.model.state_dict()


@pytest.fixture
def lab(tmp_path):
    return Lab(Place.of(tmp_path))


@pytest.fixture
def moody(monkeypatch):
    module = types.ModuleType("moody_net")
    module.make = Moody
    monkeypatch.setitem(sys.modules, "moody_net", module)
    return "moody_net:make"
