"""The speed that a plan and a search's forecast measure."""

import pytest
import torch

from rsray.presets import train_config
from rsray.training import speed


@pytest.mark.parametrize(
    ("objective", "settings", "expected"),
    [
        # Three epochs of ten are attacked at the end.
        ("easy", {"warm_up_epochs": 7}, 10 / (7 / 100 + 3 / 10)),
        ("smoothadv", {"warm_up_epochs": 0}, 100),
        # No two epochs of the ramp are alike: the first is counted as one, the others as the last.
        ("smoothadv", {"warm_up_epochs": 5}, 10 / (1 / 100 + 9 / 10)),
    ],
)
def test_a_warm_up_is_not_taken_for_the_whole_training(monkeypatch, objective, settings, expected):
    def of_epoch(training, first, seconds):
        return {0: 100.0, 9: 10.0}[first]

    monkeypatch.setattr(speed, "_speed_from", of_epoch)
    flat = {"dataset": "digits", "objective": objective, "epochs": 10}
    config = train_config({**flat, **settings})
    measured = speed.measure_steps(config, torch.device("cpu"), 1, images=8, seconds=0.1)
    assert measured == pytest.approx(expected)


def test_a_run_without_an_end_is_no_list_of_its_epochs():
    config = train_config({"dataset": "digits", "objective": "gaussian", "epochs": 10**9})
    assert speed._epochs_alike(config) == {0: 10**9}
    flat = {"dataset": "digits", "objective": "easy", "epochs": 10**9, "warm_up_epochs": 10**8}
    assert speed._epochs_alike(train_config(flat)) == {0: 10**8, 10**9 - 1: 9 * 10**8}


def test_the_mappings_own_steps_are_counted(monkeypatch):
    """Of SODM's five steps one is followed by a step of the mapping."""
    config = train_config({"dataset": "digits", "objective": "sodm"})
    assert speed._companion_period(speed.Training(config, None, torch.device("cpu"))) == 5
    seconds = [1.0, 1.0, 1.0, 1.0, 6.0] * 3

    class Trained:
        companion, epoch = torch.nn.Identity(), 0

        def run_epochs(self, is_enough):
            for epoch, taken in enumerate(seconds):
                figures = {"epoch": epoch, "draws_per_second": 10 / taken, "seconds": taken}
                if is_enough(figures):
                    return

    Trained.config = config
    assert speed._speed_from(Trained(), 0, 0.0) == pytest.approx(5.0)  # 50 draws in 10 s
