"""One Ray for all tests of the fleet, and one small trained RUN."""

import pytest

from rsray.distributed.session import session
from rsray.distributed.train.trainer import train
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.run import open_training_split


@pytest.fixture(scope="session")
def ray_session():
    with session("local") as ray:
        yield ray


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet") / "run"
    config = train_config({"dataset": "digits", "objective": "gaussian", "epochs": 6, "lr": 0.1})
    train(config, Place.of(folder), open_training_split(config))
    return folder
