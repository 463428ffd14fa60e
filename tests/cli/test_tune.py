"""`rsray tune` up to the search itself: what the options come to, and mistakes in one line."""

import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsray.data import DATASETS, open_split
from rsray.data.reading.in_memory import ArraySplit
from rsray.distributed.search import tuner
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.winner import Finals
from rsray.errors import UserError
from rsray_cli.main import run


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Return a function that runs `rsray tune ...` without a search: the configs by their folder.

    What a search ends in is `result`, or what it raises.
    """

    def call(*arguments, out=tmp_path / "tune", result=None):
        found = {}

        def tune(config, out, **rest):
            found[out.uri.removeprefix(f"{tmp_path}/")] = config
            figures = {"state": "complete", "projected_acr": 0.4321, "clean_accuracy": 0.9}
            rows = [
                {"number": number, **point, **figures, "pareto": number == 0}
                for number, (point, _) in enumerate(resolve_search(config).first_points)
            ]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(rows), sink)
            out.write("trials.parquet", sink.getvalue().to_pybytes())
            ending = result(config) if result else Finals()
            if isinstance(ending, Exception):
                raise ending
            return ending

        monkeypatch.setattr(tuner, "tune", tune)
        monkeypatch.setattr(sys, "argv", ["rsray", "tune", *map(str, arguments), f"--out={out}"])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            run()
        return stopped.value.code or 0, found

    return call


def test_digits_stays_small_and_other_data_is_compared(asked, tmp_path):
    status, found = asked("--dataset", "digits")
    config = found["tune"]
    assert (status, config.trials, config.compare, config.n) == (0, 5, False, 5_000)
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


def black(name):
    """A split of black pictures of a data set's shape, with the labels of the digits."""
    shape, labels = DATASETS[name].image_shape, open_split("digits", "train").labels
    images = np.broadcast_to(np.uint8(0), (len(labels), *shape))
    return ArraySplit(
        name=name, split="train", num_classes=DATASETS[name].num_classes or 1000, image_shape=shape,
        load=lambda: (images, labels),
    )  # fmt: skip


def test_imagenet_has_the_defaults_of_a_cluster(asked, monkeypatch):
    pictures = black("imagenet")
    monkeypatch.setattr("rsray.data.open_split", lambda *names, **options: pictures)
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
        (["--sigma", "0.25,-1"], "sigma is -1"), (["--sigma", ""], "leave it out"),
        (["--grid", "trade_off=1", "--search", "hinge=uniform(1,2)"], "not both"),
        (["--grid", "trade_off"], "key=v1,v2"), (["--grid", "tradeoff=1,2"], "did you mean trade_off"),
        (["--grid", "trade_off=1,1"], "twice"), (["--grid", "trade_off=1,2", "--trials", "3"], "the grid has 2"),
        (["--grid", "trade_off=-1,2"], "trade_off"),
        (["--objectives", "acr,speed"], "'speed'"), (["--objectives", "acr,acr"], "once"),
        (["--sampler", "tpee"], "did you mean tpe"), (["--workers", "0"], "workers is 0"),
        (["--trial-epochs", "0"], "trial_epochs is 0"), (["--report-every", "0"], "report_every is 0"),
        (["--trial-epochs", "4", "--search", "epochs=int(2,8)"], "the search varies epochs"),
        (["--trial-epochs", "99"], "trial_epochs is 99"),
        (["--set", "validation=0.3"], "--validation"), (["--search", "seed=int(1,3)"], "seed"),
        (["--set", "lr=0.1", "--search", "lr=log(0.1,1)"], "lr is both given and varied"),
        (["--batch-size", "8", "--grid", "batch_size=8,16"], "batch_size is both given and varied"),
        (["--model", "nosuch"], "'nosuch'"), (["--search", "model=choice(lenet,nosuch)"], "'nosuch'"),
        (["--search", "precision=choice(bf16,fp17)"], "'fp17'"),
        (["--search", "trade_off=choice([1,2],3)"], "trade_off is [1, 2]"),
        (["--search", "augmentation=choice(none,nosuch)"], "'nosuch'"),
        (["--search", "num_draws=uniform(4,16)"], "num_draws=int(low,high)"),
        (["--search", "batch_size=log(32,256)"], "batch_size=int(low,high)"),
        (["--search", "lr_drops=choice(2,4)"], "lr_drops is 2"),
        (["--search", "hinge=uniform(-5,12)"], "hinge must be greater than 0"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(asked, capsys, tmp_path, options, words):
    status, found = asked("--dataset", "digits", *options)
    error = capsys.readouterr().err
    assert status == 2 and not found
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "tune").exists()


def test_a_setting_that_is_given_is_not_searched(asked):
    _, found = asked("--dataset", "digits", "--set", "trade_off=2")
    assert list(found["tune"].search) == ["hinge", "inverse_temperature"]
    assert found["tune"].train.settings["trade_off"] == 2.0


def test_a_search_starts_from_all_of_the_published_setting(asked, capsys, monkeypatch):
    pictures = black("cifar10")
    monkeypatch.setattr("rsray.data.open_split", lambda *names, **options: pictures)
    _, found = asked("--dataset", "cifar10", "--objective", "gaussian", "--epochs", 30)
    train = found["tune"].train
    assert (train.lr, train.weight_decay, train.batch_size) == (0.1, 1e-4, 256)
    assert (train.epochs, train.lr_drops, found["tune"].skip) == (30, (10, 20), 20)
    said = capsys.readouterr().err
    images = -(-len(pictures) // 20)
    assert "published setting" not in said and f"{images} test images" in said
    assert f"up to {2 * images * 100_100:,} draws" in said


def test_where_no_trial_is_the_published_setting_that_is_said(asked, capsys, monkeypatch, tmp_path):
    digits = open_split("digits", "train")
    monkeypatch.setattr("rsray.data.open_split", lambda *names, **options: digits)
    for options, words in (
        (["--sigma", "0.3"], "no paper has a setting for macer on mnist, sigma 0.3"),
        (["--search", "num_draws=choice(4,8)"], "its num_draws is 16, which the search"),
        (["--set", "trade_off=1"], "its trade_off is 16.0, here it is 1.0"),
    ):
        asked("--dataset", "mnist", *options, "--no-final", out=tmp_path / words[:9])
        said = capsys.readouterr().err
        assert words in said and "draws" not in said.replace("num_draws", "")


def test_a_sigma_that_fails_does_not_stop_the_others(asked, capsys):
    def result(config):
        return UserError("no trial succeeded") if config.train.sigma == 0.25 else Finals()

    status, found = asked("--dataset", "digits", "--sigma", "0.25,0.5", result=result)
    errors = capsys.readouterr().err.splitlines()
    assert (status, len(found)) == (2, 2)
    assert errors[-1] == "error: sigma 0.25: no trial succeeded"


def test_test_images_without_a_certificate_are_named(asked, capsys, monkeypatch):
    monkeypatch.setattr("rsray.api.report", lambda *given, **files: SimpleNamespace(table=None))
    monkeypatch.setattr("rsray_cli.results.print_table", lambda *given, **named: None)
    monkeypatch.setattr("rsray_cli.results.show", lambda *given: None)
    best = {"acr": 0.5, "num_images": 3, "failed": {"7": "no pixels"}}
    paper = {"acr": 0.4, "num_images": 4, "failed": {}}
    status, _ = asked("--dataset", "digits", result=lambda config: Finals(best, paper))
    said = capsys.readouterr()
    assert status == 1 and "failed: image 7: no pixels" in said.err
    assert "ACR 0.4000 of the setting that the search started from" in said.out
    status, _ = asked(
        "--dataset",
        "digits",
        result=lambda config: Finals(paper, None, is_published=True, won=True),
    )
    assert status == 0 and "the winner is the published setting itself" in capsys.readouterr().err


def test_results_go_to_addresses_with_options_and_to_home(
    asked, bucket, capsys, monkeypatch, tmp_path
):
    host = bucket.server.removeprefix("http://")
    address = bucket.uri("tune") + f"?endpoint_override={host}&scheme=http"
    grid = ("--dataset", "digits", "--grid", "hinge=4,8")
    status, found = asked(*grid, "--sigma", "0.25,0.5", out=address)
    assert status == 0 and capsys.readouterr().out.count("0.4321") == 4
    assert "tune/sigma-0.5/tune.yaml" in bucket.keys("tune")
    monkeypatch.setenv("HOME", str(tmp_path))
    status, found = asked(*grid, out="~/at-home")
    assert status == 0 and (tmp_path / "at-home" / "tune.yaml").exists()
