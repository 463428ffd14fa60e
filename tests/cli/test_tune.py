"""`rsray tune` up to the search itself: what the options come to, and mistakes in one line."""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsray.data import open_split
from rsray.fleet import tuner
from rsray.fleet.study import first_points
from rsray.fleet.winner import Finals
from rsray_cli.main import run


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Return a function that runs `rsray tune ...` without a search: the configs by their folder."""

    def call(*arguments):
        found = {}

        def tune(config, out, **rest):
            found[out.uri.removeprefix(f"{tmp_path}/")] = config
            figures = {"state": "complete", "projected_acr": 0.4321, "clean_accuracy": 0.9}
            rows = [
                {"number": number, **point, **figures, "pareto": number == 0}
                for number, (point, _) in enumerate(first_points(config))
            ]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "tune" / "trials.parquet")
            return Finals()

        monkeypatch.setattr(tuner, "tune", tune)
        out = ["--out", str(tmp_path / "tune")]
        monkeypatch.setattr(sys, "argv", ["rsray", "tune", *map(str, arguments), *out])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            run()
        return stopped.value.code or 0, found

    return call


def test_digits_stays_small_and_other_data_is_compared(asked, tmp_path):
    status, found = asked("--dataset", "digits")
    config = found["tune"]
    assert (status, config.trials, config.compare, config.n) == (0, 5, False, 10_000)
    assert (config.validation, config.report_every, config.sampler) == (0.15, 2, "tpe")


def test_several_sigmas_make_one_search_each(asked):
    _, found = asked("--dataset", "digits", "--sigma", "0.25,0.5", "--sigma", "1")
    assert list(found) == ["tune/sigma-0.25", "tune/sigma-0.5", "tune/sigma-1"]
    assert [config.train.sigma for config in found.values()] == [0.25, 0.5, 1.0]


def test_a_grid_tries_all_of_its_cells_and_ends_in_their_table(asked, capsys):
    _, found = asked("--dataset", "digits", "--grid", "trade_off=1,4,16", "--grid", "hinge=4,8")
    config = found["tune"]
    assert (config.sampler, config.trials) == ("grid", 6)
    assert config.search == {"trade_off": "choice(1,4,16)", "hinge": "choice(4,8)"}
    assert capsys.readouterr().out.count("0.4321") == 6


def test_two_objectives_end_in_their_front(asked, capsys):
    _, found = asked("--dataset", "digits", "--objectives", "acr,clean_accuracy")
    assert found["tune"].objectives == ("acr", "clean_accuracy")
    out = capsys.readouterr().out
    assert "Pareto front" in out and out.count("0.4321") == 1


def test_imagenet_has_the_defaults_of_a_cluster(asked, monkeypatch):
    digits = open_split("digits", "train")
    monkeypatch.setattr("rsray.data.open_split", lambda *names, **options: digits)
    _, found = asked("--dataset", "imagenet", "--data-root", "s3://nowhere/imagenet")
    config = found["tune"]
    train = config.train
    assert (train.model, train.batch_size, train.epochs) == ("resnet50", 256, 120)
    assert (config.trial_epochs, config.report_every, config.workers) == (30, 3, None)
    assert (config.trials, config.compare, config.final) == (20, True, True)
    assert train.data_root == "s3://nowhere/imagenet" and config.skip == 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sigma", "0.25,x"], "'0.25,x'"), (["--sigma", "0.5,0.50"], "names a value twice"),
        (["--sigma", "0.25,-1"], "sigma is -1"), (["--sigma", ""], "no number"),
        (["--grid", "trade_off=1", "--search", "hinge=uniform(1,2)"], "not both"),
        (["--grid", "trade_off"], "key=v1,v2"), (["--grid", "tradeoff=1,2"], "did you mean trade_off"),
        (["--grid", "trade_off=1,1"], "twice"), (["--grid", "trade_off=1,2", "--trials", "3"], "the grid has 2"),
        (["--grid", "trade_off=-1,2"], "trade_off"),
        (["--objectives", "acr,speed"], "'speed'"), (["--objectives", "acr,acr"], "once"),
        (["--sampler", "tpee"], "did you mean tpe"), (["--workers", "0"], "workers is 0"),
        (["--trial-epochs", "0"], "trial_epochs is 0"), (["--report-every", "0"], "report_every is 0"),
        (["--trial-epochs", "4", "--search", "epochs=int(2,8)"], "the search varies epochs"),
        (["--trial-epochs", "99"], "trial_epochs is 99"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(asked, capsys, tmp_path, options, words):
    status, found = asked("--dataset", "digits", *options)
    error = capsys.readouterr().err
    assert status == 2 and not found
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "tune").exists()
