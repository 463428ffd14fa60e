"""What trials, the winner and its rival are trained with, and which settings are tried first."""

import pickle

import pytest
import safetensors.torch
import torch
from PIL import Image

from rsray.config import TuneConfig
from rsray.distributed.search import resolved_search
from rsray.distributed.search.request import open_search
from rsray.distributed.search.resolved_search import (
    check_data,
    check_search,
    read_own_search,
    resolve_search,
    start_of,
)
from rsray.distributed.search.space import SHARED, parse_space
from rsray.distributed.search.tuner import claim_tune
from rsray.errors import UserError
from rsray.presets import presets, search_config, train_config
from rsray.storage import Place
from rsray.storage.yaml_files import to_yaml
from rsray.training.run_folder.run import build_model, claim_run, open_training_split

PUBLISHED = {
    (entry.settings["dataset"], entry.settings["objective"], entry.settings["sigma"]): name
    for name, entry in reversed(presets().items())
    if entry.is_published
}


def searched(flat, search=(), **tuning):
    base = search_config(flat)
    space = parse_space(search, base.objective)
    return resolve_search(TuneConfig.make({"train": base, "search": space, **tuning}))


def first_points(specs, train):
    """Return {source: point} of the trials that nobody proposes."""
    return {source: point for point, source in resolve_search(tuning_of(specs, train)).first_points}


def tuning_of(specs, train, **tuning):
    return TuneConfig.make({"train": train, "search": specs, **tuning})


def test_a_point_with_other_epochs_moves_its_drops():
    search = searched({"dataset": "digits"}, ["epochs=int(4,64)"])
    for made in (search.full({"epochs": 40}), search.trial({"epochs": 40})):
        assert (made.epochs, made.lr_drops) == (40, (10, 35))
    both = searched({"dataset": "digits"}, ["epochs=int(4,64)", "lr_drops=choice([2],[3])"])
    assert both.full({"epochs": 8, "lr_drops": "[3]"}).lr_drops == (3,)
    short = searched({"dataset": "digits"}, ["lr_drops=choice([4,8],[12])"], trial_epochs=8)
    assert short.trial({"lr_drops": "[4, 8]"}).lr_drops == (2, 4)  # of 8 epochs, not 16
    train = train_config({"dataset": "digits", "objective": "smoothadv"})
    attack = resolve_search(short.config.model_copy(update={"train": train}))
    assert attack.full({}).settings["warm_up_epochs"] == 10
    assert attack.trial({}).settings["warm_up_epochs"] == 5
    assert attack.trial({"warm_up_epochs": 4}).settings["warm_up_epochs"] == 2
    assert short.full({"lr_drops": "[4, 8]"}).lr_drops == (4, 8)
    train = train_config({}, preset_name="easy-mnist-0.50")
    easy = resolve_search(short.config.model_copy(update={"train": train, "trial_epochs": 9}))
    keys = ("warm_up_epochs", "reweigh_every")
    assert [easy.full({}).settings[key] for key in keys] == [42, 10]
    assert [easy.trial({}).settings[key] for key in keys] == [4, 1]


def test_a_method_without_its_teacher_is_refused_though_it_is_searched_beside_others(
    tmp_path, monkeypatch
):
    request = {"dataset": "digits"}, {}
    search = ["objective=choice(macer,catrs)"]
    with pytest.raises(UserError, match="has no teacher: give --set teacher=CERT"):
        check_search(resolve_search(open_search(*request, search=search, grid=[]).config))
    cert = tmp_path / "cert"
    given = {"dataset": "digits", "teacher": str(cert)}
    config = open_search(given, {}, search=search, grid=[]).config
    with pytest.raises(UserError, match="cert is no finished RUN or CERT"):
        claim_tune(Place.of(tmp_path / "tune"), config)
    cert.mkdir()
    (cert / "certificates.parquet").write_bytes(b"0")
    with pytest.raises(UserError, match="cert is no CERT folder"):
        claim_tune(Place.of(tmp_path / "tune"), config)
    assert not (tmp_path / "tune").exists()
    monkeypatch.setattr(resolved_search, "targets_of", lambda *given, **named: None)
    (cert / "certificates.parquet").write_bytes(b"1")
    claim_tune(Place.of(tmp_path / "tune"), config)
    claim_tune(Place.of(tmp_path / "tune"), config)
    # Where it lies decides nothing.
    moved = cert.rename(tmp_path / "moved")
    given = {"dataset": "digits", "teacher": str(moved)}
    config = open_search(given, {}, search=search, grid=[]).config
    claim_tune(Place.of(tmp_path / "tune"), config)
    (moved / "certificates.parquet").write_bytes(b"2")
    with pytest.raises(UserError, match="began with another teacher"):
        claim_tune(Place.of(tmp_path / "tune"), config)


def test_a_search_that_holds_out_no_image_is_refused(tmp_path):
    place = Place.of(tmp_path / "tune")
    for validation, workers, words in (
        (0.0001, None, "validation is 0.0001: of 1,347 images 0 would be held out"),
        (0.001, 2, "1 would be held out .* at least 2"),
    ):
        found = searched({"dataset": "digits"}, validation=validation, workers=workers)
        with pytest.raises(UserError, match=words):
            claim_tune(place, found.config)
        assert not place.exists()
    claim_tune(place, searched({"dataset": "digits"}, validation=0.001).config)


def test_a_start_that_no_trial_could_take_is_refused_before_the_first(tmp_path):
    started = train_config({"dataset": "digits", "objective": "gaussian", "limit": 64})
    run, split = Place.of(tmp_path / "run"), open_training_split(started)
    claim_run(run, started, split, torch.device("cpu"))
    weights = {
        key: value.clone() for key, value in build_model(started, split).state_dict().items()
    }
    run.write("model.safetensors", safetensors.torch.save(weights))

    def claim(name, search=(), **flat):
        found = searched({"dataset": "digits", "init": run.uri, **flat}, ["lr=log(0.1,1)", *search])
        return claim_tune(Place.of(tmp_path / name), found.config)

    claim("fits")
    claim("fits-all-trials", ["model=choice(lenet)"], model="resnet8")
    for flat, search in (({"model": "resnet8"}, []), ({}, ["model=choice(lenet,resnet8)"])):
        with pytest.raises(UserError, match="has model 'lenet', not 'resnet8'"):
            claim("other", search, **flat)
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "flat, search, words",
    [
        ({"augmentation": "random-resized-crop"}, [], "cuts from full-size pictures"),
        ({}, ["augmentation=choice(none,random-resized-crop)"], "cuts from full-size pictures"),
        ({}, ["model=choice(lenet,dncnn6)"], "must return logits"),
        ({"workers": 4}, ["batch_size=choice(64,2)"], "a batch of 2 images has none for some"),
    ],
)
def test_what_training_refuses_is_refused_before_the_first_trial(flat, search, words, tmp_path):
    found = searched({"dataset": "digits", **flat}, ["lr=log(0.1,1)", *search])
    with pytest.raises(UserError, match=words):
        claim_tune(Place.of(tmp_path / "tune"), found.config)
    assert not (tmp_path / "tune").exists()


def test_other_trials_than_those_whose_winner_is_trained_are_refused(tmp_path):
    """Before, more go on and fewer end; `--dry-run` reads the same record."""
    out = Place.of(tmp_path / "tune")
    three, five = (searched({"dataset": "digits"}, ["lr=log(0.1,1)"], trials=n) for n in (3, 5))
    split = open_training_split(three.config.train)
    for found in (three, five):
        claim_tune(out, found.config)
        assert read_own_search(out, found, split)["trials"] == found.config.trials
    # A search that runs is left as it is: it would end as another one than its record says.
    with out.locked(), pytest.raises(UserError, match="another rsray is writing to"):
        claim_tune(out, three.config)
    assert read_own_search(out, five, split)["trials"] == 5
    (out / "best").make()
    assert read_own_search(out, five, split)["trials"] == 5
    with pytest.raises(UserError, match="trials is 3 now but was 5.*has trained its winner"):
        read_own_search(out, three, split)


def test_a_search_does_not_go_on_with_other_pictures(tmp_path):
    """Trials on other held-out images could not be compared with those before."""
    out, pictures = tmp_path / "tune", tmp_path / "pictures"

    def claim():
        given = {"dataset": "imagefolder", "data_root": str(pictures), "epochs": 2}
        request = open_search(given, {}, search=["lr=log(0.1,1)"], grid=[])
        return claim_tune(Place.of(out), request.config, request.train)

    def add(numbers):
        for name in ("cat", "dog"):
            (pictures / name).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                Image.new("RGB", (16, 16)).save(pictures / name / f"{number}.png")

    add(range(40))
    claim()
    claim()
    add(range(40, 60))
    with pytest.raises(UserError, match=r"tune began with other training data \(\d+ images then"):
        claim()


def test_a_search_of_what_never_acts_in_a_trial_is_told(caplog):
    def check(flat, search=(), **tuning):
        caplog.clear()
        found = searched({"dataset": "digits", **flat}, search, **tuning)
        check_data(found, open_training_split(found.config.train))
        return caplog.text

    assert check({"epochs": 4}, trial_epochs=2) == check({"epochs": 1, "deferred": False}) == ""
    for given, way_out in (
        ({}, "--set deferred=false"),
        ({"objective": "sodm", "trade_off": 3.0}, "--set trade_off_growth=1"),
        ({"objective": "easy"}, "more epochs, or a shorter warm-up (0 is for --init)"),
    ):
        said = check({"epochs": 4, **given}, ["lr=log(1e-3,1)"], trial_epochs=1)
        assert "in a trial" in said and "waits for" in said and f"give {way_out}" in said


def test_searched_objectives_share_the_data_sigma_and_network_of_the_file(tmp_path):
    typed = {"dataset": "digits", "sigma": 0.5, "seed": 3, "limit": 500, "model": "resnet8",
             "epochs": 16}  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_bytes(to_yaml(train_config(typed).model_dump(mode="json")))
    search = ["objective=choice(macer,smoothadv)"]
    for given in ({}, {"dataset": "digits"}):
        config = open_search(given, {}, search=search, grid=[], config_file=file).config
        found = start_of(config, "smoothadv")
        assert {key: getattr(found, key) for key in typed} == typed
        assert not {*config.starts["smoothadv"]} & SHARED
    again = tmp_path / "tune.yaml"
    again.write_bytes(to_yaml(config.model_dump(mode="json")))
    shorter = open_search({"epochs": 8}, {}, search=[], grid=[], config_file=again).config
    for objective in ("macer", "smoothadv"):
        full, half = start_of(config, objective), start_of(shorter, objective)
        assert half.lr_drops == tuple(drop // 2 for drop in full.lr_drops)
    assert half.settings["warm_up_epochs"] == full.settings["warm_up_epochs"] // 2


def test_another_space_than_the_files_has_its_own_trials(tmp_path):
    def again(config, **spaces):
        file = tmp_path / "tune.yaml"
        file.write_bytes(to_yaml(config.model_dump(mode="json")))
        spaces = {"search": [], "grid": [], **spaces}
        found = open_search({}, {}, config_file=file, **spaces).config
        check_search(resolve_search(found))
        return found

    tpe = open_search({"dataset": "digits"}, {"trials": 7}, search=[], grid=[]).config
    grid = again(tpe, grid=["trade_off=1,2"])
    assert (grid.sampler, grid.trials, grid.trial_epochs) == ("grid", 2, 8)
    assert again(grid, grid=["trade_off=1,2,4"]).trials == 3
    assert again(grid) == grid
    ranged = again(grid, search=["trade_off=log(1,8)"])
    assert (ranged.sampler, ranged.trials) == ("tpe", 5)
    assert again(tpe, search=["trade_off=log(1,8)"]).trials == 7
    assert again(tpe, search=["epochs=int(4,16)"]).trial_epochs is None


def test_a_preset_does_not_take_the_place_of_a_files_settings(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_bytes(to_yaml(train_config({"dataset": "digits"}).model_dump(mode="json")))
    with pytest.raises(UserError, match="--config or --preset, not both"):
        open_search({"preset": "macer-digits"}, {}, search=[], grid=[], config_file=file)


def test_a_grid_of_a_range_is_refused():
    own = {"sampler": "grid"}
    with pytest.raises(UserError, match=r"give trade_off=choice"):
        open_search({"dataset": "digits"}, own, search=["trade_off=log(1,4)"], grid=[])


def test_optimisers_and_schedules_are_searched_like_other_settings():
    specs = ["optimizer=choice(sgd,adam)", "lr_schedule=choice(drops,cosine)",
             "lr_warm_up=int(0,4)", "label_smoothing=uniform(0,0.2)"]  # fmt: skip
    search = searched({"dataset": "digits"}, specs, trial_epochs=8)  # of 16
    check_search(search)
    point = {"optimizer": "adam", "lr_schedule": "cosine", "lr_warm_up": 4, "label_smoothing": 0.1}
    full, trial = search.full(point), search.trial(point)
    assert (full.optimizer, full.lr_warm_up, trial.lr_warm_up) == ("adam", 4, 2)
    assert full.build_objective().label_smoothing == 0.1
    with pytest.raises(UserError, match="label_smoothing must be 0"):
        check_search(searched({"dataset": "digits", "objective": "sodm"}, specs))


def test_the_paper_keeps_its_schedule_whatever_is_searched_from():
    found = searched({"dataset": "cifar10", "objective": "macer", "optimizer": "adam"})
    assert (found.paper.optimizer, found.full({}).optimizer) == ("sgd", "adam")
    assert "its optimizer is sgd" in found.why_untried


def test_the_winner_is_trained_on_all_images():
    search = searched({"dataset": "digits", "validation": 0.3})
    assert search.full({}).validation == 0
    assert search.trial({}).validation == search.config.validation == 0.15


def test_a_given_number_of_workers_takes_the_place_of_a_files_range(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: digits\nworkers: 1-4\n")

    def workers(own):
        file = tmp_path / "run.yaml"
        found = open_search({}, own, search=["lr=log(0.1,1)"], grid=[], config_file=file)
        full = resolve_search(found.config).full({})
        return full.workers, full.most_workers

    assert [workers(own) for own in ({}, {"workers": 1}, {"workers": 2})] == [
        (1, 4), (1, None), (2, None)
    ]  # fmt: skip


def test_the_rival_is_the_papers_whatever_the_search_fixes():
    # num_draws, weight_decay and the attack are in no default space.
    rival = searched(
        {"dataset": "imagenet", "objective": "smoothadv", "sigma": 0.5, "weight_decay": 0.1,
         "num_draws": 8, "epochs": 30, "batch_size": 64},
    ).paper  # fmt: skip
    paper = train_config({"epochs": 30, "batch_size": 64}, preset_name="smoothadv-imagenet-0.50")
    assert rival.identity() == paper.identity()
    assert rival.settings["num_steps"] == 1 and rival.settings["num_draws"] == 1
    assert searched({"dataset": "cifar10", "sigma": 1.0}).paper.settings["deferred"]


def test_where_nothing_is_published_the_rival_is_what_the_search_starts_from():
    search = searched({"dataset": "mnist", "sigma": 0.3, "lr": 0.02})
    assert search.paper.identity() == search.config.train.identity()


@pytest.mark.parametrize("about", PUBLISHED, ids=PUBLISHED.values())
def test_the_first_trial_is_all_of_the_published_setting(about):
    dataset, objective, sigma = about
    ours = search_config({"dataset": dataset, "objective": objective, "sigma": sigma})
    paper = train_config({"epochs": ours.epochs}, preset_name=PUBLISHED[about])
    assert ours.identity() == paper.identity()
    space = parse_space([], objective)
    settings = {**paper.model_dump(), **paper.settings}
    assert first_points(space, ours) == {"paper": {key: settings[key] for key in space}}


def test_a_setting_is_published_for_its_data_objective_and_sigma_only():
    space = parse_space([], "macer")
    imagenet = first_points(space, train_config({"dataset": "imagenet", "sigma": 0.5}))
    assert imagenet["paper"]["trade_off"] == 3.0 and imagenet["start"]["trade_off"] == 6.0
    named = train_config({"sigma": 0.5}, preset_name="macer-cifar10-0.25")
    assert first_points(space, named)["paper"]["trade_off"] == 4.0
    assert first_points(space, named)["start"]["trade_off"] == 12.0
    named = train_config({}, preset_name="macer-cifar10-0.50-lambda8")
    assert first_points(space, named) == {"paper": {**imagenet["paper"], "trade_off": 8.0}}
    for flat in ({"dataset": "mnist", "sigma": 0.3}, {"dataset": "digits"}):
        assert list(first_points(space, search_config(flat))) == ["start"]
    far = train_config({"dataset": "digits", "trade_off": 100.0})
    assert not first_points(space, far)  # the space does not hold 100


def test_why_the_published_setting_is_no_trial():
    space = parse_space(["num_draws=choice(4,8)"], "macer")
    reason = "its num_draws is 16, which the search does not hold"
    assert (
        resolve_search(tuning_of(space, search_config({"dataset": "mnist"}))).why_untried == reason
    )
    assert first_points(space, search_config({"dataset": "mnist"})) == {}
    space = parse_space(["num_draws=choice(4,16)"], "macer")
    config = search_config({"dataset": "mnist", "trade_off": 1.0})
    assert (
        resolve_search(tuning_of(space, config)).why_untried
        == "its trade_off is 16.0, here it is 1.0"
    )
    assert first_points(space, config) == {"start": {"num_draws": 16}}
    for free in ({"epochs": 3}, {"batch_size": 32}, {"model": "resnet20"}, {"limit": 100}):
        assert not resolve_search(
            tuning_of(space, search_config({"dataset": "mnist", **free}))
        ).why_untried
    assert not resolve_search(
        tuning_of(space, search_config({"dataset": "mnist", "sigma": 0.3}))
    ).why_untried


def test_a_trial_from_weights_is_not_the_published_one():
    search = searched({"dataset": "mnist", "init": "/run"})
    assert [source for _, source in search.first_points] == ["start"]
    assert search.why_untried == "it starts from no other's weights, here from those of /run"
    assert search.published and search.paper.init is None


def test_how_long_the_longest_trial_is():
    base = train_config({"dataset": "digits"})
    for spec, most in (("int(4,64)", 64), ("choice(8,32)", 32)):
        assert resolve_search(tuning_of({"epochs": spec}, base)).most_epochs == most
    short = tuning_of({"lr": "log(1,2)"}, base, trial_epochs=8)
    assert resolve_search(short).most_epochs == 8


def test_a_search_is_the_same_where_its_trials_run():
    found = searched({"dataset": "mnist"}, trial_epochs=2)
    there = pickle.loads(pickle.dumps(found))
    point, source = there.first_points[0]
    assert source == "paper" and there == found
    assert there.trial(point) == found.trial(point) and there.paper == found.paper


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ({"augmentation": "choice(none,flop)"}, "augmentation 'flop' is unknown"),
        ({"model": "choice(lenet,lenot)"}, "model 'lenot' is unknown"),
        ({"num_draws": "uniform(1,9)"}, r"for whole numbers use num_draws=int\(low,high\)"),
        ({"lr": "uniform(-1,1)"}, "lr"),
    ],
)
def test_a_value_that_no_training_takes_is_refused_before_any_trial(specs, words):
    found = resolve_search(tuning_of(specs, train_config({"dataset": "digits"})))
    with pytest.raises(UserError, match=words):
        check_search(found)
