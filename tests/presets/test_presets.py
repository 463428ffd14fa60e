"""Every preset builds and trains a step, and says what the papers say."""

import re
from functools import cache
from importlib import resources

import pytest
import torch
import yaml
from torch import nn

from rsray import models
from rsray.config import CertifyConfig
from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.objectives import OBJECTIVES
from rsray.presets import matching, preset, presets, train_config

NAMES = list(presets())
SIGMAS = ("0.25", "0.50", "1.00")
FILE_TEXTS = {
    file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
    for file in resources.files("rsray.presets").iterdir()
    if file.name.endswith(".yaml")
}
METHOD = "|".join(map(re.escape, OBJECTIVES))
NAME = re.compile(rf"({METHOD})-({'|'.join(DATASETS)})-(\d\.\d\d)(-[a-z0-9.]+)*|({METHOD})-digits")
COST = re.compile(r"[0-9.]+ (s|min|h) on (a|[0-9]) (P100|2080 Ti|CPU cores)(, estimated)?|unknown")
SOURCE = re.compile(
    r"(MACER|SODM|ADRE) tables? [0-9, and]+|public 90-epoch recipe|all 10000 images|"
    r"every 100th ImageNet image"
)


def figures(name, *keys):
    config = train_config({}, preset_name=name)
    return tuple(config.settings.get(key, getattr(config, key, None)) for key in keys)


class Tiny(nn.Module):
    """A classifier of 4x4 images that any objective can train."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, images):
        return self.linear(images.flatten(1))


class TinyDenoiser(Tiny):
    """The same for an objective that trains a denoiser."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, images):
        return super().forward(images).reshape(images.shape)


@cache
def network(name, dataset):
    shape = DATASETS[dataset].image_shape
    classes = {"imagenet": 1000, "mini-imagenet50": 50}.get(dataset, 10)
    shape = shape or (3, 224, 224)
    built = models.build(
        name, image_shape=shape, num_classes=classes, statistics=DATASETS[dataset].statistics
    )
    if name in models.DENOISERS:
        models.check_denoiser(built, shape)
    else:
        models.check(built, shape, classes)
    return built


@pytest.mark.parametrize("name", NAMES)
def test_builds_and_trains_a_step(name):
    config, entry = train_config({}, preset_name=name), preset(name)
    assert config.preset == name == entry.name
    assert config.lr_decay == 0.1 and config.seed == 0 and config.validation == 0
    assert list(config.lr_drops) == sorted(config.lr_drops)
    assert all(0 < drop < config.epochs for drop in config.lr_drops)
    assert network(config.model, config.dataset) is not None
    objective = config.build_objective()
    assert objective.sigma == config.sigma
    torch.manual_seed(0)
    tiny = TinyDenoiser() if objective.makes_images else Tiny()
    images, labels = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    noise = torch.randn(3, objective.num_draws, 1, 4, 4) * objective.sigma
    companion = objective.companion(3)
    late = objective.at_epoch(config.epochs - 1, config.lr_drops)
    taught = {"targets_BK": torch.full((3, 3), 1 / 3)} if objective.teacher is not None else {}
    step = late.step(tiny, images, labels, noise, companion=companion, **taught)
    loss = step.terms.total_B.mean()
    loss.backward()
    assert torch.isfinite(loss) and tiny.linear.weight.grad.abs().sum() > 0
    if companion is not None:
        assert torch.isfinite(late.companion_loss(tiny, companion, images, labels))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_to_a_default(name):
    """A default of the code that changes later must not change what a preset reproduces."""
    entry, config = preset(name), train_config({}, preset_name=name)
    for key, value in entry.settings.items():  # nothing is lost on the way
        found = config.settings.get(key, getattr(config, key, None))
        assert found == (tuple(value) if isinstance(value, list) else value), key
    training = "dataset model objective sigma epochs lr lr_drops batch_size momentum weight_decay"
    schedule = "optimizer lr_schedule lr_warm_up label_smoothing"
    assert set(entry.settings) == {*training.split(), *schedule.split(), *config.settings}


@pytest.mark.parametrize("name", NAMES)
def test_is_well_formed(name):
    entry, config = preset(name), train_config({}, preset_name=name)
    shape = NAME.fullmatch(name)
    assert shape, "names are <objective>-<dataset>-<sigma>[-...]"
    if not name.endswith("-digits"):
        assert shape.group(1, 2) == (config.objective, config.dataset)
        assert float(shape[3]) == config.sigma
    assert COST.fullmatch(entry.cost), entry.cost
    assert entry.acr is None or re.fullmatch(r"[012]\.\d{2,4}", entry.acr), "quoted, as printed"
    assert bool(entry.figure) == (entry.source is not None)
    assert entry.source is None or SOURCE.fullmatch(entry.source), entry.source
    accuracies = list(entry.certified.values())
    assert all(0 < accuracy < 1 for accuracy in accuracies)
    assert accuracies == sorted(accuracies, reverse=True), "it falls with the radius"
    assert list(entry.certified) == sorted(entry.certified)
    assert all(radius % 0.25 == 0 for radius in entry.certified)
    # sigma * Phi^-1(0.001^(1/100,000)): n = 100,000 and alpha = 0.001 certify nothing beyond.
    assert all(radius < 3.812 * config.sigma for radius in entry.certified)
    assert "\n" not in entry.differs + entry.certify + entry.paper
    options = re.findall(r"--(\w+) (\d+)", entry.certify)
    assert entry.certify == " ".join(f"--{key} {value}" for key, value in options)
    assert {key for key, _ in options} <= set(CertifyConfig.model_fields)


def test_files():
    names = []
    for stem, text in FILE_TEXTS.items():
        header = text[: text.index("paper:")]
        assert header.startswith("#") and "Cost" in header and "igure" in header, stem
        ((command,),) = [re.findall(r"rsray train --preset ([a-z0-9.+-]+)$", header, re.MULTILINE)]
        own = re.findall(r"^(\S+):(?: \{.*\})?$", text, re.MULTILINE)
        assert command in own, "the header's command runs a preset of the file"
        names += own
        entries = yaml.safe_load(text)
        assert set(entries) - {"ours"} == {"paper", *own}
        known = {"extends", "settings", "cost", "certify", "differs", "published"}
        for name, entry in entries.items():
            assert name in ("paper", "ours") or set(entry) <= known, name
    assert sorted(names) == sorted(NAMES), "no name twice"


def test_every_objective_and_data_set_has_a_preset():
    configs = [train_config({}, preset_name=name) for name in NAMES]
    assert {config.objective for config in configs} == set(OBJECTIVES)
    papers = "digits mnist fashion-mnist svhn cifar10 imagenet mini-imagenet50".split()
    assert set(papers) <= {config.dataset for config in configs} <= set(DATASETS)


def test_our_own_come_first_and_then_the_papers_in_the_order_of_the_objectives():
    own = [name for name in NAMES if not preset(name).is_published]
    assert own[:2] == NAMES[:2] == ["macer-digits", "gaussian-digits"]
    assert own == NAMES[: len(own)]
    papers = list(dict.fromkeys(preset(name).settings["objective"] for name in NAMES[len(own) :]))
    ours = {preset(name).settings["objective"] for name in own}
    assert papers == [name for name in OBJECTIVES if name in papers]
    assert {*papers, *ours} == set(OBJECTIVES)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_weight_of_macer_is_no_default_of_another_objective(dataset, name):
    config = train_config({"dataset": dataset, "objective": name})
    if name == "macer":
        own = DATASETS[dataset].settings.get("macer", {})
        chosen = own.get("trade_off", OBJECTIVES["macer"].trade_off)
        assert config.settings["trade_off"] == chosen
    else:
        assert config.build_objective() == OBJECTIVES[name](sigma=config.sigma)


# What the texts say, typed in here a second time.


@pytest.mark.parametrize("sigma", SIGMAS)
def test_macer(sigma):
    keys = "num_draws hinge inverse_temperature momentum batch_size weight_decay".split()
    rest = "epochs lr lr_drops trade_off deferred".split()
    weight = {"0.25": 12, "0.50": 4, "1.00": 12}[sigma]
    name = f"macer-cifar10-{sigma}"
    assert figures(name, *keys) == (16, 8, 16, 0.9, 64, 5e-4)
    assert figures(name, *rest) == (440, 0.01, (200, 400), weight, sigma == "1.00")
    assert figures(name, "dataset", "model") == ("cifar10", "resnet110")
    assert preset(name).certify == "--start 500 --limit 500"
    name = f"macer-mnist-{sigma}"
    assert figures(name, *keys) == (16, 8, 16, 0.9, 64, 5e-4)
    assert figures(name, *rest, "model") == (440, 0.01, (200, 400), 16, False, "lenet")
    name = f"macer-imagenet-{sigma}"
    assert figures(name, *keys[:4]) == (2, 8, 16, 0.9) and figures(name, "model") == ("resnet50",)
    weight = {"0.25": 6, "0.50": 3, "1.00": 3}[sigma]
    assert figures(name, *rest) == (120, 0.1, (30, 60, 90), weight, False)
    if sigma != "1.00":
        name = f"macer-svhn-{sigma}"
        assert train_config({}, preset_name=name).augmentation is None, "the data set's own"
        assert DATASETS["svhn"].augmentation == "crop-flip", "as in the authors' code"
        assert figures(name, *keys) == (16, 8, 16, 0.9, 64, 5e-4)
        assert figures(name, *rest) == (440, 0.01, (200, 400), 12, False)
        name = f"macer-cifar10-{sigma}-short"
        weight = {"0.25": 12, "0.50": 4}[sigma]
        assert figures(name, *rest) == (150, 0.01, (60, 120), weight, False)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_public_mnist_recipe(sigma):
    keys = "model epochs lr lr_drops batch_size weight_decay momentum".split()
    ends = {"macer": "-90"}
    for objective in ("macer", "gaussian", "stability", "consistency", "smoothadv", "smoothmix"):
        name = f"{objective}-mnist-{sigma}{ends.get(objective, '')}"
        # The authors' code makes k steps of a batch of 256.
        batch = {"consistency": 128, "smoothadv": 64, "smoothmix": 64}.get(objective, 256)
        assert figures(name, *keys) == ("lenet", 90, 0.01, (30, 60), batch, 1e-4, 0.9)
        assert not preset(name).certify, "the whole test set"
    weight = 6 if sigma == "1.00" else 16
    name = f"macer-mnist-{sigma}-90"
    assert figures(name, "num_draws", "trade_off", "deferred") == (16, weight, True)
    assert figures(f"gaussian-mnist-{sigma}", "num_draws") == (1,)
    assert figures(f"stability-mnist-{sigma}", "num_draws", "trade_off") == (1, 2)
    weight = 10 if sigma == "0.25" else 5
    keys = ("num_draws", "trade_off", "entropy_weight")
    assert figures(f"consistency-mnist-{sigma}", *keys) == (2, weight, 0.5)
    keys = ("attack", "num_steps", "num_draws", "epsilon", "warm_up_epochs")
    assert figures(f"smoothadv-mnist-{sigma}", *keys) == ("pgd", 10, 4, 1.0, 10)
    keys = ("num_draws", "trade_off", "step_size", "num_steps", "warm_up_epochs")
    steps = {"0.25": 2, "0.50": 4, "1.00": 8}[sigma]
    assert figures(f"smoothmix-mnist-{sigma}", *keys, "mix_step") == (4, 5, 1.0, steps, 10, 0)
    weight = 1 if sigma == "0.50" else 5
    one = figures(f"smoothmix-mnist-{sigma}-onestep", *keys, "mix_step")
    assert one == (4, weight, 1.0, steps, 10, 1)
    keys = ("attack", "num_steps", "num_draws", "epsilon", "trade_off", "entropy_weight")
    composed = figures(f"smoothadv+consistency-mnist-{sigma}", *keys)
    assert composed == ("pgd", 10, 4, 1.0, 1, 0.5)


def test_fashion_mnist_is_trained_as_mnist_is():
    ends = {"macer": "-90"}
    for objective in (
        "gaussian stability macer smoothadv consistency smoothmix smoothadv+consistency "
        "catrs catrs-self easy"
    ).split():
        for sigma in SIGMAS:
            fashion = preset(f"{objective}-fashion-mnist-{sigma}")
            mnist = preset(f"{objective}-mnist-{sigma}{ends.get(objective, '')}")
            assert fashion.settings == {**mnist.settings, "dataset": "fashion-mnist"}
            assert fashion.certify == "", "all 10,000 images"
            assert fashion.differs, "what the public logs do not say is said"


def test_catrs():
    keys = ("trade_off", "epsilon", "num_steps", "num_draws", "batch_size", "epochs", "lr_drops")
    weights = {"0.25": 0.5, "0.50": 1.0, "1.00": 2.0}
    for sigma, weight in weights.items():
        for dataset, lr, trade_off in (("cifar10", 0.1, weight), ("mnist", 0.01, 1.0)):
            expected = (trade_off, 1.0, 4, 4, 64, 150, (50, 100))
            assert figures(f"catrs-{dataset}-{sigma}", *keys) == expected
            assert figures(f"catrs-{dataset}-{sigma}", "lr", "teacher") == (lr, "")


def test_easy():
    keys = ("epsilon", "num_steps", "warm_up_epochs", "threshold", "reweigh_every", "num_draws")
    expected = {
        "0.25": (0.25, 3, 60, 0.5, 10, 4), "0.50": (0.25, 6, 70, 0.4, 10, 4),
        "1.00": (0.5, 4, 60, 0.4, 10, 4),
    }  # fmt: skip
    for sigma, values in expected.items():
        assert figures(f"easy-cifar10-{sigma}", *keys) == values
        rest = figures(f"easy-cifar10-{sigma}", "epochs", "lr", "lr_drops", "batch_size")
        assert rest == (150, 0.1, (50, 100), 64)
        assert preset(f"easy-mnist-{sigma}").figure == "" and preset(f"easy-mnist-{sigma}").differs
    # The authors' scripts for ImageNet: no warm-up, and images are dropped once.
    expected = {"0.25": (0.5, 2, 0, 0.2, 90, 1), "0.50": (1.0, 2, 0, 0.2, 90, 1)}
    for sigma, values in {**expected, "1.00": (2.0, 1, 0, 0.1, 90, 2)}.items():
        assert figures(f"easy-imagenet-{sigma}", *keys) == values


def test_smoothadv_consistency_on_cifar10():
    keys = ("num_draws", "epsilon", "num_steps", "trade_off", "batch_size", "epochs", "lr")
    expected = {"0.25": (4, 1.0, 10, 2.0, 64), "0.50": (2, 2.0, 10, 1.0, 128)}
    for sigma, values in {**expected, "1.00": expected["0.50"]}.items():
        name = f"smoothadv+consistency-cifar10-{sigma}"
        assert figures(name, *keys) == (*values, 150, 0.1)


def test_smoothadv_of_macers_tables_4_and_5():
    keys = ("num_draws", "num_steps", "attack", "epsilon", "warm_up_epochs")
    expected = {
        "cifar10-0.25": (8, 10, "pgd", 1.0), "cifar10-0.50": (2, 10, "pgd", 2.0),
        "cifar10-1.00": (2, 10, "pgd", 2.0), "imagenet-0.25": (1, 2, "ddn", 1.0),
        "imagenet-0.50": (1, 1, "pgd", 1.0), "imagenet-1.00": (1, 1, "pgd", 2.0),
        "cifar10-1.00-pgd10-64": (8, 10, "pgd", 0.25), "imagenet-0.50-pgd1-512": (1, 1, "pgd", 2.0),
    }  # fmt: skip
    for name, values in expected.items():
        assert figures(f"smoothadv-{name}", *keys) == (*values, 10), name


def test_adre():
    keys = "num_draws classification_draws batch_size epochs lr lr_drops".split()
    for sigma in ("0.12", *SIGMAS):
        for weight in ("0.1", "0.2", "0.3"):
            name = f"adre-cifar10-{sigma}-lambda{weight}"
            assert figures(name, *keys) == (8, 1, 400, 150, 0.1, (50, 100))
            assert figures(f"{name}-k8", *keys) == (8, None, 400, 150, 0.1, (50, 100))
            assert figures(name, "trade_off", "sigma") == (float(weight), float(sigma))
    keys = "num_draws batch_size epochs momentum weight_decay".split()
    schedule = "lr lr_schedule lr_warm_up lr_drops label_smoothing optimizer".split()
    for sigma in SIGMAS:
        for weight in ("0.05", "0.1"):
            name = f"adre-imagenet-{sigma}-lambda{weight}"
            assert figures(name, *keys) == (1, 256, 50, 0.875, 1 / 32768)
            assert figures(f"{name}-k4", *keys) == (4, 64, 50, 0.875, 1 / 32768)
            assert figures(name, "trade_off", "sigma") == (float(weight), float(sigma))
            assert figures(name, *schedule) == (0.1, "cosine", 8, (), 0.1, "sgd")
            assert not preset(name).differs
    assert figures("adre-adv-imagenet-0.25", *schedule) == (0.1, "cosine", 8, (), 0.1, "sgd")
    keys = ("num_draws", "num_steps", "attack", "warm_up_epochs")
    assert figures("adre-adv-cifar10-0.25", *keys) == (8, 2, "pgd", 0)
    assert figures("adre-adv-imagenet-0.25", *keys) == (1, 1, "pgd", 0)


def test_sodm():
    keys = "num_draws mapping_draws trade_off threshold mapping_interval epochs lr lr_drops".split()
    for sigma in SIGMAS:
        expected = (16, 128, 6, 0.99, 5, 55, 0.01, (35, 50))
        assert figures(f"sodm-cifar10-{sigma}", *keys) == expected
    for sigma in SIGMAS[:2]:
        expected = (2, 128, 2.5, 0.99, 5, 30, 0.01, (20, 25))
        assert figures(f"sodm-imagenet-{sigma}", *keys) == expected
        name = f"sodm-mini-imagenet50-{sigma}"
        assert figures(name, "num_draws", "epochs", "lr", "lr_drops") == (4, 45, 0.01, (30,))
        for other in (f"sodm-imagenet-{sigma}", name):
            assert figures(other, "optimizer", "lr") == ("adam", 0.01)
            assert "Adam" not in preset(other).differs
    config = train_config({}, preset_name="sodm-cifar10-0.25")
    weights = [config.build_objective().at_epoch(e, config.lr_drops).trade_off for e in (34, 35)]
    assert weights == [6, 60]


def test_deferral_waits_for_the_first_drop():
    for name, drop in (("macer-mnist-0.25-90", 30), ("macer-cifar10-1.00", 200)):
        config = train_config({}, preset_name=name)
        at = [config.build_objective().at_epoch(e, config.lr_drops) for e in (0, drop - 1, drop)]
        assert [objective.trade_off > 0 for objective in at] == [False, False, True]


# Looking presets up.


def test_unknown_preset():
    with pytest.raises(
        UserError, match=r"'macer-cifar-0.25' is unknown \(did you mean macer-cifar10-0.25\?\)"
    ):
        train_config({}, preset_name="macer-cifar-0.25")
    with pytest.raises(UserError, match=r"'zzz' is unknown; rsray presets lists them$"):
        preset("zzz")


def test_matching_takes_whole_words():
    for dataset in ("imagenet", "mnist", "fashion-mnist"):
        assert {entry.settings["dataset"] for entry in matching(dataset)} == {dataset}
    assert len(matching("imagenet")) > 10
    assert {entry.settings["sigma"] for entry in matching("0.50")} == {0.5}
    assert all(entry.name.startswith("macer-mnist-") for entry in matching("macer-mnist"))
    assert {entry.settings["objective"] for entry in matching("adre")} == {"adre", "adre-adv"}
    with pytest.raises(UserError, match="'cifar' is unknown"):
        matching("cifar")
