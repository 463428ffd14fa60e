"""How long a search will take: arithmetic, and the second that measures its figures."""

from dataclasses import replace

import pytest
import torch

from rsray.config import TuneConfig
from rsray.distributed.search.forecast import START_SECONDS, forecast_from
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.trial_resources import TrialPlan
from rsray.presets import train_config
from rsray.training.speed import Speed, measure_speed


def search_of(**changes):
    base = train_config({"dataset": "digits", "epochs": 10, "num_draws": 4})
    values = {
        "train": base, "search": parse_space([], "macer"), "trials": 5, "validation": 0.2,
        "report_every": 5, "num_draws": 50, "n": 1900, "limit": 100, "compare": False,
    }  # fmt: skip
    search = resolve_search(TuneConfig.make({**values, **changes}))
    return replace(search, nodes=[{"CPU": 2, "GPU": 0}])


def test_a_search_is_its_rounds_of_trials_and_what_follows_them():
    plan, speed = TrialPlan(2, 1, 1.0), Speed(training=100.0, forward=1000.0)
    found = forecast_from(search_of(), plan, 5, speed, 1000, 450)
    # 800 images x 4 draws x 10 epochs at 100/s, and two looks of 200 x 50 draws at 1,000/s.
    assert found.trial == pytest.approx(320 + 20)
    assert found.trials == pytest.approx(START_SECONDS + 3 * 340), "5 trials, 2 at a time"
    # 1,000 x 4 x 10 at 100/s; 100 images x 2,000 draws by two engines, without Ray on one machine.
    assert found.finals == pytest.approx(400 + 100)
    two = replace(search_of(), nodes=2 * [{"CPU": 1, "GPU": 0}])
    assert forecast_from(two, plan, 5, speed, 1000, 450).finals == found.finals + START_SECONDS
    line = found.line(plan, 5)
    assert (
        line
        == "about 26 min: 5 trials of up to 6 min, 2 at a time, then 8 min to train and certify"
    )


def test_what_is_not_done_takes_no_time():
    plan, speed = TrialPlan(2, 1, 1.0), Speed(100.0, 1000.0)
    alone = forecast_from(search_of(final=False), plan, 2, speed, 1000, 450)
    assert alone.finals == 0 and "certify" not in alone.line(plan, 2)
    both = forecast_from(search_of(compare=True), plan, 2, speed, 1000, 450)
    one = forecast_from(search_of(), plan, 2, speed, 1000, 450)
    assert both.finals == 2 * one.finals


def test_a_second_of_training_measures_the_speed():
    threads = torch.get_num_threads()
    speed = measure_speed(search_of().trial({}), torch.device("cpu"), 1)
    assert 100 < speed.training < speed.forward * 3
    assert torch.get_num_threads() == threads
