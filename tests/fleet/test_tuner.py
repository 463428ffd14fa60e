import pyarrow.parquet as pq
import pytest
import yaml

from rsray.config import TuneConfig
from rsray.errors import UserError
from rsray.fleet.space import distributions, first_point, parse_space
from rsray.fleet.tuner import tune
from rsray.fleet.watch import Watch
from rsray.presets import train_config
from rsray.storage import Folder


def small(trials=3, search=None, **flat):
    base = train_config({"dataset": "digits", "limit": 200, "epochs": 2, "num_draws": 4, **flat})
    return TuneConfig.make(
        {
            "train": base, "search": parse_space(search or [], base.objective), "trials": trials,
            "num_draws": 16, "report_every": 1, "n": 1000, "skip": 50, "concurrent": 1,
        }
    )  # fmt: skip


def trials_of(out):
    return pq.read_table(out / "trials.parquet").to_pylist()


def test_a_search_ends_in_a_certified_winner(ray_session, tmp_path):
    phases = []
    out = tmp_path / "tune"
    summary = tune(small(), Folder.of(out), watch=Watch(phase=phases.append))
    assert phases == ["search", "train", "certify"]
    assert summary["num_images"] == 9
    trials = trials_of(out)
    assert len(trials) == 3 and all(trial["state"] == "complete" for trial in trials)
    first = trials[0]  # the settings that the search starts from
    assert (first["trade_off"], first["hinge"], first["inverse_temperature"]) == (4.0, 8.0, 16.0)
    best = yaml.safe_load((out / "best.yaml").read_text())
    winner = max(trials, key=lambda trial: trial["projected_acr"])
    assert best["settings"]["trade_off"] == winner["trade_off"]
    for name in (
        "best/model.safetensors",
        "best/certificates/certificates.parquet",
        "study.journal",
    ):
        assert (out / name).stat().st_size > 0


@pytest.mark.slow
def test_a_search_that_ended_is_not_repeated_and_another_is_refused(ray_session, tmp_path):
    out = tmp_path / "tune"
    tune(small(trials=2), Folder.of(out))
    before = trials_of(out)
    tune(small(trials=2), Folder.of(out))
    assert trials_of(out) == before
    with pytest.raises(UserError, match="trials is 5 now but was 2"):
        tune(small(trials=5), Folder.of(out))


def test_a_trial_that_diverges_fails_and_the_search_goes_on(ray_session, tmp_path):
    out = tmp_path / "tune"
    config = small(trials=4, search=["lr=choice(0.01,1e30)"], objective="gaussian")
    tune(config, Folder.of(out))
    states = {trial["lr"]: trial["state"] for trial in trials_of(out)}
    assert len(trials_of(out)) == 4
    assert states.get(0.01) == "complete" and states.get(1e30, "fail") == "fail"


def test_search_specs():
    space = distributions(
        parse_space(
            [
                "lr=log(1e-3,1e-1)",
                "num_draws=choice(4,8)",
                "hinge=uniform(4,12)",
                "epochs=int(1,3)",
            ],
            "macer",
        )
    )
    assert (space["lr"].low, space["lr"].high, space["lr"].log) == (1e-3, 1e-1, True)
    assert space["num_draws"].choices == (4, 8)
    assert (space["hinge"].low, space["hinge"].log) == (4.0, False)
    assert (space["epochs"].low, space["epochs"].high) == (1, 3)
    for bad in ("lr", "lr=log(1)", "lr=log(0.1,0.01)", "lr=gauss(0,1)", "nosuch=log(1,2)"):
        with pytest.raises(UserError):
            parse_space([bad], "macer")
    point = {"lr": 0.01, "num_draws": 8, "hinge": 8.0, "epochs": 2}
    assert first_point(space, point) == point
    assert first_point(space, {**point, "num_draws": 16}) is None
