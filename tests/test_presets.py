"""Every preset builds, and says what the papers say (METHODS.md, section 3)."""

import pytest
import yaml

from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.models import MODELS
from rsray.presets import preset, presets, train_config

NAMES = list(presets())
TRAINING = ("dataset", "model", "sigma", "epochs", "lr", "lr_drops", "batch_size", "weight_decay")


def figures(name, *keys):
    config = train_config({}, preset_name=name)
    return tuple(config.settings.get(key, getattr(config, key, None)) for key in keys)


@pytest.mark.parametrize("name", NAMES)
def test_builds(name):
    config, entry = train_config({}, preset_name=name), preset(name)
    assert config.preset == name == entry.name
    assert config.dataset in DATASETS and config.model in MODELS
    assert config.momentum == 0.9 and config.lr_decay == 0.1 and config.seed == 0
    assert list(config.lr_drops) == sorted(config.lr_drops)
    assert all(0 < drop < config.epochs for drop in config.lr_drops)
    objective = config.build_objective()
    for key, value in entry.settings.items():  # nothing is lost on the way
        found = config.settings.get(key, getattr(config, key, None))
        assert found == (tuple(value) if isinstance(value, list) else value), key
    assert objective.sigma == config.sigma
    assert entry.cost != "unknown" and "\n" not in entry.cost
    assert (entry.published_acr is None) == (entry.source is None)
    assert name.startswith(config.objective) and config.dataset in name
    if entry.published_acr is not None:
        assert f"-{config.sigma:.2f}" in name


def test_macer_on_cifar10():
    expected = ("cifar10", "resnet110", 0.25, 440, 0.01, (200, 400), 64, 5e-4)
    assert figures("macer-cifar10-0.25", *TRAINING) == expected
    assert figures(
        "macer-cifar10-0.25", "num_draws", "hinge", "inverse_temperature", "trade_off"
    ) == (16, 8, 16, 12)
    assert figures("macer-cifar10-0.50", "sigma", "trade_off", "deferred") == (0.5, 4, False)
    assert figures("macer-cifar10-1.00", "sigma", "trade_off", "deferred") == (1.0, 12, True)
    for sigma in ("0.25", "0.50"):
        assert figures(f"macer-cifar10-{sigma}-short", "epochs", "lr_drops", "lr") == (
            150,
            (60, 120),
            0.01,
        )


def test_macer_elsewhere():
    for sigma in ("0.25", "0.50", "1.00"):
        name = f"macer-mnist-{sigma}"
        assert figures(name, "model", "trade_off", "epochs", "num_draws") == ("lenet", 16, 440, 16)
        name = f"macer-imagenet-{sigma}"
        expected = ("resnet50", 120, 0.1, (30, 60, 90), 2, 6 if sigma == "0.25" else 3)
        assert (
            figures(name, "model", "epochs", "lr", "lr_drops", "num_draws", "trade_off") == expected
        )
    for sigma in ("0.25", "0.50"):
        assert figures(f"macer-svhn-{sigma}", "dataset", "trade_off", "epochs") == ("svhn", 12, 440)


def test_the_public_mnist_recipe():
    for sigma, trade_off in (("0.25", 16), ("0.50", 16), ("1.00", 6)):
        keys = ("epochs", "lr", "lr_drops", "batch_size", "weight_decay")
        for name in (f"macer-mnist-90-{sigma}", f"gaussian-mnist-{sigma}"):
            assert figures(name, *keys) == (90, 0.01, (30, 60), 256, 1e-4)
        assert figures(f"macer-mnist-90-{sigma}", "trade_off", "deferred") == (trade_off, True)
        assert figures(f"gaussian-mnist-{sigma}", "num_draws") == (1,)


def test_published_figures():
    expected = {
        "gaussian-mnist": (0.911, 1.558, 1.619), "macer-mnist-90": (0.920, 1.590, 1.595),
        "gaussian-cifar10": (0.424, 0.525, 0.511),
    }  # fmt: skip
    for stem, values in expected.items():
        assert (
            tuple(preset(f"{stem}-{s}").published_acr for s in ("0.25", "0.50", "1.00")) == values
        )


def test_deferral_waits_for_the_first_drop():
    config = train_config({}, preset_name="macer-mnist-90-0.25")
    objective = config.build_objective()
    weights = [objective.at_epoch(epoch, config.lr_drops).trade_off for epoch in (0, 29, 30, 89)]
    assert weights == [0, 0, 16, 16]


def test_unknown_preset():
    with pytest.raises(
        UserError, match=r"'macer-cifar-0.25' is unknown \(did you mean macer-cifar10-0.25\?\)"
    ):
        train_config({}, preset_name="macer-cifar-0.25")


def test_no_name_twice():
    from importlib import resources

    names = []
    for file in resources.files("rsray.presets").iterdir():
        if file.name.endswith(".yaml"):
            text = file.read_text(encoding="utf-8")
            names += [
                line[:-1]
                for line in text.splitlines()
                if line.endswith(":") and line[0] not in " #"
            ]
            assert text.startswith("#") and "rsray train --preset" in text, (
                "the header says how to run one"
            )
            assert set(yaml.safe_load(text)) <= set(names)
    assert sorted(names) == sorted(NAMES)
