"""A run from configuration to weights: what it writes, that it learns, and what it refuses."""

import json
import math
import sys
import types
from dataclasses import replace
from importlib.metadata import version
from typing import get_args

import pytest
import torch
import yaml

from rsray import models
from rsray.config import TrainConfig, scaled_drops
from rsray.core.hardware import computes_bf16
from rsray.errors import UserError
from rsray.objectives import OBJECTIVES
from rsray.presets import train_config
from rsray.training.loop import DivergedError
from rsray.training.opened_run import Team
from rsray.training.optimisation import (
    OPTIMISERS,
    lr_factor,
    make_optimiser,
    what_never_acts,
)
from rsray.training.run_folder import run as run_folder
from rsray.training.run_folder.metrics import read_metrics
from rsray.training.run_folder.run import claim_run, open_training_split, run_record

CPU = torch.device("cpu")
# What a line of metrics.jsonl holds: users' scripts rely on it.
KEYS = {
    "epoch", "loss", "classification_loss", "robustness_loss", "lr", "noisy_accuracy",
    "draws_per_second", "seconds",
}  # fmt: skip
# The smallest settings that still run every part of a method.
TINY = {
    "smoothadv": {"num_steps": 2, "warm_up_epochs": 0},
    "adre": {"num_draws": 2},
    "adre-adv": {"num_draws": 2, "num_steps": 2, "warm_up_epochs": 0},
    "sodm": {"num_draws": 2, "mapping_draws": 5, "mapping_interval": 1},
    "smoothmix": {"num_draws": 2, "num_steps": 2, "warm_up_epochs": 0},
    "macer": {"num_draws": 2, "deferred": False},
    "smoothadv+consistency": {"num_draws": 2, "num_steps": 2, "warm_up_epochs": 0},
    "catrs-self": {"num_draws": 2, "num_steps": 2},
    "easy": {"num_draws": 2, "num_steps": 1, "warm_up_epochs": 0},
}


def test_a_run_writes_what_the_contract_says(lab):
    run = lab.folder("run")
    config = lab.config(epochs=4, limit=400, lr=0.1, batch_size=16)
    training = lab.training(config, run)
    training.run_epochs()
    rows = [
        json.loads(line) for line in (run.local_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3] and all(set(row) >= KEYS for row in rows)
    assert all(math.isfinite(row[key]) for row in rows for key in KEYS)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[-1]["noisy_accuracy"] > rows[0]["noisy_accuracy"] > 0
    for row in rows:
        assert row["loss"] == pytest.approx(row["classification_loss"] + row["robustness_loss"])
    assert list((run.local_path / "tensorboard").glob("events.out.tfevents.*"))
    assert (run / "checkpoints").names() == ["epoch-00003.pt", "epoch-00004.pt"]
    # The weights load back into a new network of the architecture that run.yaml names.
    record = yaml.safe_load((run.local_path / "run.yaml").read_text())
    again = TrainConfig.make({k: v for k, v in record.items() if k in TrainConfig.model_fields})
    assert again == config and record["versions"]["torch"] == version("torch")
    assert record["classes"] == list("0123456789") and record["image_shape"] == [1, 8, 8]
    assert record["data_fingerprint"]["images"] == 1347
    model = models.build(record["model"], image_shape=(1, 8, 8), num_classes=10)
    models.load_weights(model, run.local_path / "model.safetensors")
    for key, value in training.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert not [name for name in run.local_path.rglob("*") if ".tmp" in name.name]


def test_nothing_is_written_without_a_folder(lab, tmp_path):
    assert len(lab.rows(lab.config())) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_seed_decides_the_loss(lab):
    first, same, other = (
        [row["loss"] for row in lab.rows(lab.config(seed=seed))] for seed in (3, 3, 4)
    )
    assert first == same and first[0] != other[0] and first[1] != other[1]


def test_on_epoch_stops_the_run(lab):
    training = lab.training(lab.config(epochs=5))
    training.run_epochs(lambda row: row["epoch"] == 1)
    assert training.epoch == 2


def test_the_learning_rate_falls_at_the_drops(lab):
    rows = lab.rows(lab.config(epochs=4, lr=0.1, lr_drops=[1, 3], lr_decay=0.5, limit=32))
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.05, 0.05, 0.025], rel=1e-12)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(lab):
    """ADRE's rule for ImageNet, of 50 epochs with 8 of warm-up, on a smaller number."""
    changes = {"lr": 0.1, "lr_warm_up": 2, "lr_schedule": "cosine", "limit": 32}
    rows = lab.rows(lab.config(epochs=6, **changes))
    cosine = [0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.1, *cosine], rel=1e-12)
    paper = train_config({}, preset_name="adre-imagenet-0.25-lambda0.1")
    rates = [0.1 * lr_factor(paper, epoch) for epoch in range(50)]
    assert rates[:9] == pytest.approx([0.1 * epoch / 8 for epoch in range(1, 9)] + [0.1])
    assert rates[29] == pytest.approx(0.05) and 0 < rates[49] < 2e-4
    drops = lab.config(epochs=4, lr_warm_up=2, lr_drops=[1, 3])
    assert [lr_factor(drops, epoch) for epoch in range(4)] == pytest.approx([0.5, 1, 0.1, 0.01])


def test_the_drops_of_a_shortened_schedule(lab):
    drops = scaled_drops((2, 4), 8, 4)
    rows = lab.rows(lab.config(epochs=4, lr=0.1, lr_drops=list(drops), limit=32))
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.01, 0.001, 0.001], rel=1e-12)


def test_momentum_and_weight_decay_are_those_of_sgd(lab):
    """Two steps by hand: v = 0.9 v + g + decay w; w = w - lr v."""
    config = lab.config(epochs=1, batch_size=32, limit=64, weight_decay=0.01, lr=0.1)
    training = lab.training(config)
    weight = list(training.model.parameters())[-1]
    value, velocity, seen = weight.detach().clone().double(), 0.0, []

    def look(*_):
        seen.append(weight.grad.clone().double())

    training.optimiser.register_step_pre_hook(look)
    training.run_epochs()
    assert len(seen) == 2
    for gradient in seen:
        velocity = 0.9 * velocity + gradient + 0.01 * value
        value = value - 0.1 * velocity
    torch.testing.assert_close(weight.detach().double(), value, rtol=1e-5, atol=1e-6)


def test_adam_is_torchs(lab):
    """Two steps by hand, with the bias of the means taken out."""
    config = lab.config(epochs=1, limit=64, weight_decay=0.01, lr=0.1, optimizer="adam")
    training = lab.training(config)
    weight = list(training.model.parameters())[-1]
    value, mean, square, seen = weight.detach().clone().double(), 0.0, 0.0, []
    training.optimiser.register_step_pre_hook(lambda *_: seen.append(weight.grad.clone().double()))
    training.run_epochs()
    assert len(seen) == 2
    for step, gradient in enumerate(seen, start=1):
        gradient = gradient + 0.01 * value
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        root = (square / (1 - 0.999**step)).sqrt()
        value = value - 0.1 * mean / (1 - 0.9**step) / (root + 1e-8)
    torch.testing.assert_close(weight.detach().double(), value, rtol=1e-5, atol=1e-5)


def test_every_optimiser_that_settings_name_is_there():
    assert set(get_args(TrainConfig.model_fields["optimizer"].annotation)) == set(OPTIMISERS)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_one_kernel_updates_all_weights_on_gpus_alone(name, lab):
    config, layer = lab.config(optimizer=name), torch.nn.Linear(1, 1)
    fused = [
        make_optimiser(config, layer, torch.device(kind)).defaults["fused"]
        for kind in ("cpu", "cuda")
    ]
    assert fused == [None, True]


def test_label_smoothing_changes_what_is_learnt(lab):
    plain, smoothed = (lab.rows(lab.config(label_smoothing=share)) for share in (0.0, 0.2))
    assert plain[0]["loss"] != smoothed[0]["loss"]


def test_every_epoch_visits_every_image_once(lab):
    training = lab.training(lab.config(limit=50, batch_size=16))
    seen = []
    for epoch in range(2):
        parts = training.schedule.shares(epoch)
        assert [len(part.slots) for part in parts] == [16, 16, 16, 2]
        assert all(part.slots == range(part.global_size) for part in parts)
        seen.append(torch.cat([part.positions_B for part in parts]).tolist())
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(50)) and seen[0] != seen[1]


def test_deferred_macer_has_no_robustness_term_before_the_first_drop(lab):
    changes = {"objective": "macer", "num_draws": 4, "trade_off": 4.0, "deferred": True}
    rows = lab.rows(lab.config(**changes, epochs=4, lr=0.1, lr_drops=[3], limit=256))
    assert [row["robustness_loss"] for row in rows[:3]] == [0.0, 0.0, 0.0]
    assert rows[3]["robustness_loss"] > 0


@pytest.mark.parametrize(
    ("given", "way_out"),
    [
        ({"objective": "macer", "deferred": True}, "deferred=false"),
        ({"objective": "macer", "deferred": True, "lr_drops": [2]}, "deferred=false"),
        ({"objective": "sodm", "lr_schedule": "cosine"}, "trade_off_growth=1"),
        ({"objective": "macer", "deferred": True, "lr_drops": [1]}, ""),
        ({"objective": "macer", "deferred": False}, ""),
        ({"objective": "gaussian"}, ""),
    ],
)
def test_what_waits_for_a_drop_that_never_comes_is_told(lab, caplog, given, way_out):
    config = lab.config(**given)
    claim_run(lab.folder("run"), config, open_training_split(config), CPU)
    assert [f"--set {way_out}" in line for line in caplog.messages] == [True] * bool(way_out)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"lr_schedule": "cosine", "lr_decay": 0.5},
            "lr_decay is 0.5, but lr falls along a cosine",
        ),
        ({"lr_drops": [1, 2, 30]}, "lr_drops [2, 30] never come: epochs is 2"),
        ({"lr_warm_up": 3}, "lr is never reached: epochs is 2, lr_warm_up 3"),
        ({"lr_schedule": "cosine", "lr_drops": [1, 30], "lr_warm_up": 2}, ""),
        ({"lr_decay": 0.5, "lr_drops": [1]}, ""),
    ],
)
def test_settings_of_the_rate_that_have_no_effect_are_told(lab, given, words):
    told = what_never_acts(lab.config(objective="gaussian", epochs=2, **given))
    assert [words in line for line in told] == [True] * bool(words)


def test_of_two_runs_that_claim_a_folder_at_once_one_is_refused(lab, monkeypatch):
    run, split = lab.folder("run"), open_training_split(lab.config())
    check = run_folder.check_settings

    def another_comes_first(config, split, device):
        monkeypatch.setattr(run_folder, "check_settings", check)
        claim_run(run, lab.config(seed=1), split, device)
        check(config, split, device)

    monkeypatch.setattr(run_folder, "check_settings", another_comes_first)
    with pytest.raises(UserError, match="seed is 0 now but was 1"):
        claim_run(run, lab.config(seed=0), split, CPU)
    assert b"seed: 1" in run.read("run.yaml")


def test_an_absurd_learning_rate(lab):
    run = lab.folder("run")
    with pytest.raises(DivergedError, match="lower lr") as refused:
        lab.rows(lab.config(lr=1e12, epochs=5), run)
    assert isinstance(refused.value, UserError) and "\n" not in str(refused.value)
    assert not run.exists("model.safetensors")


def test_a_last_step_that_diverges(lab):
    run = lab.folder("run")
    with pytest.raises(DivergedError):
        lab.rows(lab.config(lr=1e38, epochs=1, batch_size=64), run)


def test_a_weight_that_is_no_number_is_found_wherever_it_is(lab):
    training = lab.training(lab.config())
    row = {"epoch": 0, "loss": 1.0}
    training._check_converging(row)
    with torch.no_grad():
        list(training.model.parameters())[-1][0] = math.nan
    with pytest.raises(DivergedError, match="nan"):
        training._check_converging(row)


def test_batches_with_too_few_images_for_the_workers(lab):
    team = Team(rank=0, world=2)
    with pytest.raises(UserError, match="nothing to train on"):
        lab.training(lab.config(batch_size=1), team=team).run_epochs()


def flat_network(image_shape, num_classes):
    """A network whose batch norm sees one position of each image."""
    pixels = math.prod(image_shape)
    layers = torch.nn.Flatten(), torch.nn.Linear(pixels, 8), torch.nn.BatchNorm1d(8)
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, num_classes))


@pytest.mark.parametrize(("given", "is_refused"), [
    ({"limit": 65}, True), ({"limit": 64, "batch_size": 1}, True), ({"limit": 65, "workers": 2}, False),
    ({"limit": 67, "workers": 2}, True), ({"limit": 66, "workers": "1-2"}, True), ({"limit": 66}, False),
    ({"limit": 65, "workers": 0}, True), ({"limit": 65, "objective": "consistency"}, False), ({"limit": 65, "model": "lenet"}, False),
])  # fmt: skip
def test_a_step_of_one_image_that_batch_norm_refuses_is_told_at_once(
    lab, monkeypatch, given, is_refused
):
    module = types.ModuleType("flat_net")
    module.make = flat_network
    monkeypatch.setitem(sys.modules, "flat_net", module)
    config = lab.config(**{"model": "flat_net:make", **given})
    if not is_refused:
        claim_run(lab.folder("run"), config, open_training_split(config), CPU)
        return
    with pytest.raises(UserError, match="batch_size is .* Expected more than 1 value per channel"):
        claim_run(lab.folder("run"), config, open_training_split(config), CPU)
    assert not lab.folder("run").exists()


def test_seeds_of_any_size(lab):
    small, large = (lab.rows(lab.config(seed=seed, epochs=1))[0]["loss"] for seed in (1, 2**63))
    assert small != large


def test_a_run_goes_on_in_the_precision_it_began_with(lab, monkeypatch):
    """On other hardware too, unless the user asks for another: then it is another run."""
    run, config = lab.folder("run"), lab.config(precision=None, epochs=3)
    monkeypatch.setattr("rsray.core.hardware.computes_bf16", lambda device_type: True)
    training = lab.training(config, run)
    training.run_epochs(lambda row: True)  # stops after the first epoch
    assert training.precision == training.network.precision == "bf16"
    images = torch.rand(2, *training.split.image_shape)
    assert training.network(images).dtype == torch.float32, "its logits are not rounded"
    run.delete("model.safetensors")
    monkeypatch.setattr("rsray.core.hardware.computes_bf16", lambda device_type: False)
    again = lab.training(config, run)
    assert again.precision == again.network.precision == "bf16" and again.epoch == 1
    record = yaml.safe_load((run.local_path / "run.yaml").read_text())
    assert record["precision"] == "bf16" and record["device"]
    with pytest.raises(UserError, match="precision is 'fp32' now but was 'bf16'"):
        lab.training(lab.config(precision="fp32", epochs=3), run)


@pytest.mark.parametrize(
    "typo",
    [
        {"model": "lenett"},
        {"precision": "fp8"},
        {"augmentation": "cutout"},
        {"augmentation": "random-resized-crop"},  # of arrays, which have no larger pictures
        {"workers": 33},  # batches of 32
        {"workers": "1-65", "batch_size": 128},  # 64 images
    ],
)
def test_a_typo_does_not_claim_the_folder(typo, lab):
    run = lab.folder("run")
    with pytest.raises(UserError):
        lab.rows(lab.config(**typo), run)
    lab.rows(lab.config(), run)  # the corrected command, same --out


# Denoisers, and those with a teacher, have a file of their own.
@pytest.mark.parametrize("name", [n for n in OBJECTIVES if not OBJECTIVES[n].earlier_results])
def test_every_objective_trains(name, lab):
    changes = {"num_draws": 2, **TINY.get(name, {})}
    config = lab.config(objective=name, epochs=1, limit=16, batch_size=8, **changes)
    training = lab.training(config, lab.folder("run"))
    before = {key: value.clone() for key, value in training.model.state_dict().items()}
    companion = training.companion and {
        key: value.clone() for key, value in training.companion.state_dict().items()
    }
    training.run_epochs()
    (row,) = read_metrics(lab.folder("run"))
    assert all(math.isfinite(row[key]) for key in KEYS) and row["loss"] != 0
    for key, value in training.model.state_dict().items():
        assert value.isfinite().all() and value.dtype == torch.float32
        assert (
            not value.is_floating_point() or "fc" not in key or not torch.equal(value, before[key])
        )
    assert all(p.requires_grad for p in training.model.parameters()) and training.model.training
    assert (name == "sodm") == (companion is not None)
    if companion:
        assert not torch.equal(training.companion.outer.bias, companion["outer.bias"])
        state = torch.load(
            lab.folder("run").local_path / "checkpoints" / "epoch-00001.pt", weights_only=True
        )
        assert torch.equal(state["companion"]["outer.bias"], training.companion.outer.bias)


def test_draws_are_counted(lab):
    seen = {}
    for name, draws in (("gaussian", 1), ("macer", 3)):
        training = lab.training(lab.config(objective=name, num_draws=draws, epochs=1, limit=20))
        row = []
        training.run_epochs(row.append)
        seen[name] = row[0]["draws_per_second"] * row[0]["seconds"]
    assert seen == pytest.approx({"gaussian": 20, "macer": 60})


def test_bfloat16(lab):
    exact, rounded = (lab.rows(lab.config(precision=p)) for p in ("fp32", "bf16"))
    assert exact[0]["loss"] != rounded[0]["loss"]
    assert exact[0]["loss"] == pytest.approx(rounded[0]["loss"], rel=0.05)
    training = lab.training(lab.config(precision="bf16"))
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
    chosen = lab.training(lab.config(precision=None)).precision
    assert chosen == ("bf16" if computes_bf16("cpu") else "fp32")
    with pytest.raises(UserError, match="'fp8' is unknown.*choose one of fp32, bf16, fp16"):
        lab.training(lab.config(precision="fp8"))


def test_float16_scales_its_losses_and_resumes_with_the_scale(lab):
    exact, rounded = (lab.rows(lab.config(precision=p)) for p in ("fp32", "fp16"))
    assert exact[0]["loss"] != rounded[0]["loss"]
    assert exact[0]["loss"] == pytest.approx(rounded[0]["loss"], rel=0.05)
    run = lab.folder("run")
    training = lab.training(lab.config(precision="fp16"), run)
    assert training.scaler.get_scale() > 1000
    training.scaler.load_state_dict({**training.scaler.state_dict(), "scale": 2.0})
    training.run_epochs(lambda figures: True)
    assert lab.training(lab.config(precision="fp16"), run).scaler.get_scale() == 2
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
    assert "scaler" not in lab.training(lab.config(precision="fp32"))._checkpoint_state()


def test_claim_run(lab):
    run, config = lab.folder("run"), lab.config()
    split = open_training_split(config)
    assert claim_run(run, config, split, CPU) is False
    assert claim_run(run, config, split, CPU) is False, "claimed, but not finished"
    for changes, words in (
        ({"sigma": 0.5}, "sigma is 0.5 now but was 0.25"),
        ({"seed": 1}, "seed is 1 now but was 0"),
        ({"lr_drops": [1]}, r"lr_drops is \[1\] now but was \[\]"),
        ({"num_draws": 2}, "settings is .*2.* now but was .*1"),
        ({"sigma": 0.5, "lr": 1.0}, "sigma is .*; lr is 1.0"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            claim_run(run, lab.config(**changes), split, CPU)
        assert str(run) in str(refused.value) and "\n" not in str(refused.value)
    assert claim_run(run, lab.config(workers=3, data_root="/elsewhere"), split, CPU) is False
    lab.rows(config, run)
    assert claim_run(run, config, split, CPU) is True


def test_claim_run_goes_on_with_the_data_it_began_with(lab):
    config = lab.config()
    run, split = lab.folder("run"), open_training_split(config)
    claim_run(run, config, split, CPU)
    fewer = replace(split, load=lambda: tuple(part[:-1] for part in split.load()))
    with pytest.raises(UserError, match="began with other training data .1,347 images then, 1,346"):
        claim_run(run, config, fewer, CPU)
    run.write("model.safetensors", b"")
    assert claim_run(run, config, split, CPU) is True
    with pytest.raises(UserError, match="began with other training data"):
        claim_run(run, config, fewer, CPU)


def test_claim_run_refuses_what_is_no_run(lab, tmp_path):
    config = lab.config()
    split = open_training_split(config)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").write_text("")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.yaml").write_text("a: [")
    for name, words in (("file", "is a file"), ("full", "is not empty"), ("odd", "not valid YAML")):
        with pytest.raises(UserError, match=words):
            claim_run(lab.folder(name), config, split, CPU)
    assert (tmp_path / "full" / "thesis.tex").exists()
    assert claim_run(lab.folder("hidden"), config, split, CPU) is False


def test_the_weights_carry_their_run(lab):
    from safetensors import safe_open

    run, config = lab.folder("run"), lab.config(epochs=1)
    lab.rows(config, run)
    with safe_open(run.local_path / "model.safetensors", framework="pt") as opened:
        record = json.loads(opened.metadata()["rsray"])
    assert record == json.loads(json.dumps(run_record(config, open_training_split(config))))


def test_a_missing_data_set_and_a_model_that_does_not_fit(lab, tmp_path, monkeypatch):
    monkeypatch.delenv("RSRAY_DATA_ROOT", raising=False)
    with pytest.raises(UserError, match="mnist"):
        lab.training(lab.config(dataset="mnist", data_root=str(tmp_path)))
    with pytest.raises(UserError, match="'lenett' is unknown"):
        lab.training(lab.config(model="lenett"))
