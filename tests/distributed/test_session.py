"""Ray is started again where this machine was too busy for it, and a user reads one line."""

import sys
from types import SimpleNamespace

import pytest

from rsray.distributed import session
from rsray.errors import UserError

LATE = Exception("The current node timed out during startup. This could happen because ...")


def fake_ray(*problems):
    """A ray whose init raises these, one a call, and then succeeds."""
    calls, left = [], list(problems)

    def init(**settings):
        calls.append("init")
        if left:
            raise left.pop(0)

    ray = SimpleNamespace(
        init=init, shutdown=lambda: calls.append("shutdown"), is_initialized=lambda: False
    )
    return ray, calls


@pytest.fixture
def start(monkeypatch):
    def run(*problems):
        ray, calls = fake_ray(*problems)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with session.session() as got:
            assert got is ray
        return calls

    return run


def test_a_start_that_took_too_long_is_tried_again(start):
    assert start() == ["init", "shutdown"]
    assert start(LATE, LATE) == ["init", "shutdown"] * 3


def test_after_three_times_the_user_is_told_in_a_line(start):
    with pytest.raises(UserError, match="did not start within 30 seconds, 3 times"):
        start(LATE, LATE, LATE)


def test_another_problem_is_not_tried_again(start):
    with pytest.raises(RuntimeError, match="something else"):
        start(RuntimeError("something else"))


def test_an_embedded_ray_is_told_of_the_gpus_that_torch_can_use(monkeypatch):
    given = []
    ray, _ = fake_ray()
    monkeypatch.setattr(ray, "init", lambda **settings: given.append(settings["num_gpus"]))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for count in (0, 2):
        monkeypatch.setattr("rsray.core.gpus.usable_gpus", lambda: count)  # noqa: B023
        with session.session():
            pass
    assert given == [0, 2]
