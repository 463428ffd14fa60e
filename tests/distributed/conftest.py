"""One Ray for all tests of the fleet, and one small trained RUN."""

import contextlib

import pytest

from rsray.distributed.session import session
from rsray.distributed.train.trainer import train
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.run_folder.run import open_training_split


@pytest.fixture(scope="session")
def open_sessions():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def ray_session(open_sessions):
    return open_sessions.enter_context(session("local"))


@pytest.fixture
def no_ray(open_sessions):
    """End the one Ray: the guard would take a bare shutdown for the death of a process."""
    open_sessions.close()


@pytest.fixture(autouse=True)
def ray_again(request):
    """A test that kills nodes ends the one Ray: those after it get another."""
    names = request.fixturenames
    if "ray_session" in names and "no_ray" not in names:
        import ray

        if not ray.is_initialized():
            stack = request.getfixturevalue("open_sessions")
            stack.enter_context(session("local"))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet") / "run"
    config = train_config({"dataset": "digits", "objective": "gaussian", "epochs": 6, "lr": 0.1})
    train(config, Place.of(folder), open_training_split(config))
    return folder
