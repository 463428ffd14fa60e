"""A forecast says of a run's draws and calls what the run then makes."""

from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pytest

from rsray.certification import forecast as module
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.certification.forecast import forecast
from rsray.errors import UserError


def split_of(run):
    def images(indices):
        return run.images[run.selected.positions(np.asarray(indices))]

    return SimpleNamespace(image_shape=run.images.shape[1:], num_classes=4, images=images)


def forecast_of(run, seconds=1.0, **evaluation):
    how = Evaluation(**{**run.evaluation.record(), **evaluation})
    source = SimpleNamespace(build=lambda split: run.model)
    asked = SimpleNamespace(
        config=run.config, source=source, split=split_of(run), selected=run.selected
    )
    return forecast(asked, how, seconds=seconds)


@pytest.fixture
def _no_hurry(monkeypatch):
    """The draws of all images are estimated, however slow the machine is."""
    monkeypatch.setattr(module, "_speed", lambda *arguments: 1000.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.0)


def drawn(run):
    """The draws an image that the run makes, on average."""
    items = run.items(run.claimed.plan.num_blocks)
    return sum(pc.sum(table["draws"]).as_py() for table in run.tables(items) if len(table)) / 12


@pytest.mark.usefixtures("_no_hurry")
@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": "fixed"},
        {"sampling": "skip"},
        {"sampling": "adaptive", "tolerance": 0.12, "n0": 40},
        {"sampling": "adaptive", "tolerance": 0.12, "n0": 40, "bound": "hoeffding"},
        {"sampling": "skip", "n0": 2, "sigma": 0.6, "seed": 1, "bound": "hoeffding"},
    ],
    ids=["fixed", "skip", "adaptive", "soft adaptive", "soft skip"],
)
def test_draws_are_those_of_the_run(small_run, settings):
    run = small_run(**settings)
    found = forecast_of(run)
    assert found.sampled_images == (1 if settings["sampling"] == "fixed" else 12)
    assert found.draws_per_image == pytest.approx(drawn(run))


@pytest.mark.usefixtures("_no_hurry")
def test_draws_until_radii_are_answered_are_estimated(small_run):
    run = small_run(at_radius=(0.05, 0.2), n=1200, n0=100, block_size=20)
    found, real = forecast_of(run), drawn(run)
    assert found.sampled_images == 12 and found.draws_per_image_error > 0
    assert 0.5 * real < found.draws_per_image < 1.5 * real < 1300


def test_a_call_that_is_timed_fills_whole_batches_with_several_blocks(small_run, monkeypatch):
    run, calls = small_run(), []
    counts = Sampler.counts

    def recorded(self, image, index, stage, blocks):
        calls.append((stage, [draws for _, draws in blocks]))
        return counts(self, image, index, stage, blocks)

    monkeypatch.setattr(Sampler, "counts", recorded)
    forecast_of(run, batch_size=100)
    timed = [draws for stage, draws in calls if stage == "estimation"]
    assert all(sum(draws) % 100 == 0 and max(draws) <= 40 for draws in timed)
    assert max(map(len, timed)) > 3


def test_the_time_is_that_of_the_padded_calls(small_run, monkeypatch):
    """n0 = 10 and n = 130 draws fill 1 and 3 batches of 50."""
    run = small_run()
    monkeypatch.setattr(module, "_speed", lambda *arguments: 1000.0)
    found = forecast_of(run, batch_size=50)
    assert found.draws_per_second == pytest.approx(1000 * 140 / 200)
    at = small_run("at", at_radius=(0.05,), n=400, n0=10, block_size=40)
    monkeypatch.setattr(module, "_wanted", lambda *arguments: np.array([80.0, 200.0]))
    found = forecast_of(at, batch_size=100)  # two blocks a call
    assert found.draws_per_second == pytest.approx(1000 * (10 + 140) / (100 + (100 + 300) / 2))


def test_a_network_of_nan_is_named_in_a_line(small_run, monkeypatch):
    run = small_run()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run.model[5].bias, "data", run.model[5].bias.data * float("nan"))
        with pytest.raises(UserError, match="returned NaN for image 5"):
            forecast_of(run)
