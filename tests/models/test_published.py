"""Checkpoints of other code bases: their weights, and what they say of the layer before them."""

import argparse
import collections
import datetime
import os
import pathlib
import pickle
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from rsray.errors import UserError
from rsray.models import Checkpoint, build
from rsray.models.normalise import NOTHING

SHAPE = (3, 32, 32)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def resnet(seed, name="resnet20"):
    torch.manual_seed(seed)
    return build(name, image_shape=SHAPE, num_classes=10)


def read(path, where=None):
    path = pathlib.Path(path)
    is_safetensors = path.suffix == ".safetensors"
    return Checkpoint.read(path.read_bytes(), where or str(path), is_safetensors=is_safetensors)


def named(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def cohen(prefix):
    return lambda state: {
        "epoch": 90,
        "arch": "cifar_resnet20",
        "state_dict": named(prefix, state),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }


def statistics(mean_key, std_key, prefix, shape=(3,)):
    return lambda state: {
        mean_key: torch.tensor(MEAN).view(shape),
        **({std_key: torch.tensor(STD).view(shape)} if std_key else {}),
        **named(prefix, state),
    }


LAYER, UNKNOWN = "a layer", "unknown"
# What each says of the layer: that there was one, nothing at all, none (MACER), or its statistics.
LAYOUTS = {
    "cohen": (cohen("1."), LAYER),
    "cohen, parallel inside": (cohen("1.module."), LAYER),
    "cohen, parallel outside": (cohen("module.1."), LAYER),
    "cohen, no layer": (cohen(""), UNKNOWN),
    "cohen, parallel without layer": (cohen("module."), UNKNOWN),
    "macer": (lambda state: {"net": state, "epoch": 440}, "none"),
    "macer, parallel": (lambda state: {"net": named("module.", state), "epoch": 440}, "none"),
    "macer, with more": (lambda s: {"net": s, "epoch": 440, "optimizer": {}}, "none"),
    "pytorch-cifar, as others write it": (lambda s: {"net": s, "best_acc": 9, "epoch": 9}, UNKNOWN),
    "pytorch-cifar": (lambda s: {"net": named("module.", s), "acc": 95.1, "epoch": 9}, UNKNOWN),
    "plain": (lambda state: state, UNKNOWN),
    "compiled": (lambda state: named("_orig_mod.network.", state), UNKNOWN),
    "lightning": (
        lambda state: {
            "state_dict": {**named("model.", state), "criterion.weight": torch.ones(10)},
            "hyper_parameters": argparse.Namespace(lr=0.1, folder=pathlib.Path("/data")),
            "pytorch-lightning_version": "2.2.0", "epoch": 3, "loops": {"a": np.arange(3)},
        },
        UNKNOWN,
    ),
    "robustbench": (statistics("normalize.mean", "normalize.std", "model.", (1, 3, 1, 1)), "both"),
    "robustbench, in the network": (statistics("mu", "sigma", "", (1, 3, 1, 1)), "both"),
    "robustness": (
        lambda state: {
            "model": {
                **statistics("module.normalizer.new_mean", "module.normalizer.new_std", "module.model.")(state),
                **statistics("module.attacker.normalize.new_mean", "module.attacker.normalize.new_std", "module.attacker.model.")(state),
            },
            "epoch": 1, "schedule": None,
        },
        "both",
    ),
    "with statistics": (statistics("0.means", "0.sds", "1."), "both"),
    "with statistics, parallel": (statistics("module.0.means", "module.0.sds", "module.1."), "both"),
    "centred": (statistics("0.means", None, "1."), "mean"),
    "ours": (statistics("normalise.mean", "normalise.std", "network.", (3, 1, 1)), "both"),
    "before batch counts": (
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        UNKNOWN,
    ),
    "averaged": (lambda s: {**named("module.", s), "n_averaged": torch.tensor(3)}, UNKNOWN),
    "an average alone": (lambda s: {"ema": {"shadow": s, "decay": 0.99}, "epoch": 1}, UNKNOWN),
    "the average is the same": (lambda s: {"model": s, "model_ema": named("module.", s)}, UNKNOWN),
    "random states": (lambda s: {"model": s, "rng": {"cpu": torch.get_rng_state()}}, UNKNOWN),
    "half": (lambda state: {k: v.half() for k, v in state.items()}, UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read(tmp_path, layout):
    wrap, says = LAYOUTS[layout]
    source, target = resnet(0).eval(), resnet(1).eval()
    torch.save(wrap(source.state_dict()), tmp_path / "checkpoint.pth.tar")
    layer = read(tmp_path / "checkpoint.pth.tar").load_into(target)
    tolerance = 1e-2 if layout == "half" else 1e-6
    torch.testing.assert_close(
        dict(target.state_dict()), dict(source.state_dict()), rtol=tolerance, atol=tolerance
    )
    assert layer.is_missing == (says == LAYER)
    if says in (LAYER, UNKNOWN):
        assert layer.normalisation is None
    elif says == "none":
        assert layer.normalisation == NOTHING and not layer.is_certain
    else:
        assert layer.normalisation.mean == pytest.approx(MEAN)
        assert layer.normalisation.std == pytest.approx(STD if says == "both" else (1, 1, 1))


def test_plain_safetensors(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(save(dict(resnet(0).state_dict())))
    target = resnet(1)
    layer = read(tmp_path / "model.safetensors").load_into(target)
    assert layer.normalisation is None and not layer.is_missing
    assert torch.equal(target.fc.weight, resnet(0).fc.weight)


@pytest.mark.parametrize(("arch", "name"), [
    ("cifar_resnet20", "resnet20"), ("cifar_resnet110", "resnet110"), ("resnet50", "resnet50"),
    ("lenet", "lenet"), ("wrn", "wrn"), (None, None), (3, None),
])  # fmt: skip
@pytest.mark.parametrize("place", [
    lambda values: values, lambda values: {"args": argparse.Namespace(**values)},
    lambda values: {"hyper_parameters": values},
])  # fmt: skip
def test_the_architecture_is_read(tmp_path, arch, name, place):
    content = {"state_dict": resnet(0).state_dict(), **place({"arch": arch})}
    torch.save(content, tmp_path / "c")
    assert read(tmp_path / "c").architecture == name


@pytest.mark.parametrize(("held", "names"), [
    ({"classes": ["cat", "dog"]}, ("cat", "dog")),
    ({"class_to_idx": {"dog": 1, "cat": 0}}, ("cat", "dog")),
    ({"hyper_parameters": {"idx_to_class": {1: "dog", 0: "cat"}}}, ("cat", "dog")),
    ({"args": argparse.Namespace(id2label={"0": "cat", "1": "dog"})}, ("cat", "dog")),
    ({"class_to_idx": {"dog": np.int64(1), "cat": np.int64(0)}}, ("cat", "dog")),
    ({"label2id": {"dog": torch.tensor(1), "cat": torch.tensor(0)}}, ("cat", "dog")),
    ({"classes": np.array(["zebra", "cat"])}, ("zebra", "cat")),
    ({"meta": {"best": torch.ones(2), "dataset_meta": {"CLASSES": ("zebra", "cat")}}}, ("zebra", "cat")),
    # Numbers from 1, or with gaps: an output has no name.
    ({"class_to_idx": {"dog": 2, "cat": 0}}, ("cat", "(nameless class 1)", "dog")),
    ({"id2label": {1: "cat", 2: "dog"}}, ("(nameless class 0)", "cat", "dog")),
    # A number of classes, two of one name, numbers that are no labels: nothing is known.
    ({"classes": 10}, None), ({"classes": ["cat", "cat"]}, None), ({"classes": [0, 1]}, None),
    ({"class_to_idx": {"dog": 0, "cat": 0}}, None), ({"categories": {"dog": 700, "cat": 9}}, None),
    ({"id2label": {0: "LABEL_0", 1: "LABEL_1"}}, None), ({"label2id": {"dog": 10**9, "cat": 0}}, None),
    ({"class_to_idx": {"dog": -1, "cat": 0}}, None), ({}, None),
])  # fmt: skip
def test_the_names_of_the_classes_are_read(tmp_path, held, names):
    torch.save({"state_dict": resnet(0).state_dict(), **held}, tmp_path / "c")
    assert read(tmp_path / "c").classes == names


def test_the_papers_names_are_known():
    for name, depth in (("cifar_resnet20", 20), ("cifar_resnet110", 110)):
        network = build(name, image_shape=SHAPE, num_classes=10)
        assert len([m for m in network.modules() if isinstance(m, nn.Conv2d)]) == depth + 1


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_training_codes_keep_beside_the_weights_is_harmless(tmp_path, is_zip):
    numbers = [np.float64(70.5), np.float32(2), np.int64(3), np.bool_(True), np.str_("x")]
    beside = {
        "state_dict": resnet(0).state_dict(), "best": numbers, "rng": np.random.get_state(),
        "args": argparse.Namespace(arch="cifar_resnet20", lr=1e-3, out=pathlib.Path("/x")),
        "more": [collections.defaultdict(list, a=[1]), collections.deque([1]), slice(1),
                 types.SimpleNamespace(a=1), datetime.datetime(2020, 1, 1), datetime.timedelta(1)],
    }  # fmt: skip
    torch.save(beside, tmp_path / "c", _use_new_zipfile_serialization=is_zip)
    checkpoint = read(tmp_path / "c")
    assert checkpoint.values["best"] == numbers and checkpoint.architecture == "resnet20"


def test_two_networks_in_one_file_are_refused(tmp_path):
    state = resnet(0).state_dict()
    both = {**named("student.", state), **named("teacher.", resnet(1).state_dict())}
    torch.save(both, tmp_path / "c")
    with pytest.raises(UserError, match=r"more than one such network \(student., teacher.\)"):
        read(tmp_path / "c").load_into(resnet(2))
    torch.save({**named("a.", state), **named("bb.", state)}, tmp_path / "c")
    read(tmp_path / "c").load_into(resnet(2))  # the same twice


@pytest.mark.parametrize("beside", [
    lambda other: {"state_dict_ema": other}, lambda other: {"model_ema": named("module.", other)},
    lambda other: {"ema": {"decay": 0.9, "shadow": {k.replace(".", ""): v for k, v in other.items()}}},
    lambda other: {"ema": {"shadow_params": list(other.values())}}, lambda other: {"net": other},
    lambda other: {"best": {"epoch": 3, "model": other}},
])  # fmt: skip
def test_weights_beside_an_average_of_them_are_refused(tmp_path, beside):
    other = resnet(1).state_dict()
    torch.save({"state_dict": resnet(0).state_dict(), **beside(other), "epoch": 1}, tmp_path / "c")
    with pytest.raises(UserError, match=r"more than one such network \(.*torch.save\(c\[KEY\]"):
        read(tmp_path / "c")


def test_other_statistics_of_batch_norm_are_another_network(tmp_path):
    state = resnet(0).state_dict()
    again = {key: value + key.endswith("running_mean") for key, value in state.items()}
    torch.save({"state_dict": state, "swa_state_dict": again}, tmp_path / "c")
    with pytest.raises(UserError, match="more than one such network"):
        read(tmp_path / "c")
    counts = {key: value + key.endswith("num_batches_tracked") for key, value in state.items()}
    torch.save({"state_dict": state, "copy": counts}, tmp_path / "c")
    read(tmp_path / "c").load_into(resnet(2))


def test_several_networks_under_other_keys_are_refused(tmp_path):
    torch.save({k: nn.Linear(2, 3).state_dict() for k in ("netG", "netD")}, tmp_path / "c")
    with pytest.raises(UserError, match=r"several dictionaries of weights; .*netG, netD"):
        read(tmp_path / "c")


@pytest.mark.parametrize(("change", "message"), [
    (lambda x: (x * 127).to(torch.int8), "fc.weight is of torch.int8, not torch.float32"),
    (lambda x: x.to(torch.complex64), "fc.weight is of torch.complex64"),
    (lambda x: x.to_sparse(), "fc.weight is torch.sparse_coo, not torch.strided"),
    (lambda x: x * torch.nan, "fc.weight holds values that are no finite numbers"),
    (lambda x: x / 0, "fc.weight holds values that are no finite numbers"),
])  # fmt: skip
def test_weights_that_would_be_loaded_as_others_are_refused(tmp_path, change, message):
    state = dict(resnet(0).state_dict())
    torch.save({**state, "fc.weight": change(state["fc.weight"])}, tmp_path / "c")
    network = resnet(1)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "c").load_into(network)
    assert torch.equal(network.fc.weight, resnet(1).fc.weight)


@pytest.mark.parametrize(("mean", "std", "message"), [
    ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7), r"pixels in 0\.\.255"),
    ((0.5, 0.5, 0.5), (0.0, 0.5, 0.5), "no mean and deviation"),
    ((0.5, torch.nan, 0.5), (0.5, 0.5, 0.5), "no mean and deviation"),
])  # fmt: skip
def test_statistics_in_a_file_that_can_be_none_of_ours(tmp_path, mean, std, message):
    layer = {"normalize.mean": torch.tensor(mean), "normalize.std": torch.tensor(std)}
    torch.save({**layer, **named("model.", resnet(0).state_dict())}, tmp_path / "c")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "c").load_into(resnet(1))


def test_a_network_behind_another_is_refused(tmp_path):
    state = resnet(0).state_dict()
    torch.save({**named("1.", state), "0.conv.weight": torch.ones(3, 3, 1, 1)}, tmp_path / "c")
    with pytest.raises(UserError, match=r"unexpected 0.conv.weight"):
        read(tmp_path / "c").load_into(resnet(1))
    torch.save(named("2.", state), tmp_path / "c")
    with pytest.raises(UserError, match=r"at 2\.: more than one layer"):
        read(tmp_path / "c").load_into(resnet(1))


def test_other_statistics_in_two_places_are_refused(tmp_path):
    state = statistics("0.means", "0.sds", "1.")(resnet(0).state_dict())
    torch.save({**state, "normalizer.mean": torch.zeros(3)}, tmp_path / "c")
    with pytest.raises(UserError, match="statistics of several layers"):
        read(tmp_path / "c").load_into(resnet(1))


def test_macers_lenet_fits(tmp_path):
    state = {
        "conv1.weight": torch.ones(20, 1, 5, 5), "conv1.bias": torch.ones(20),
        "conv2.weight": torch.ones(50, 20, 5, 5), "conv2.bias": torch.ones(50),
        "fc1.weight": torch.ones(500, 800), "fc1.bias": torch.ones(500),
        "fc2.weight": torch.ones(10, 500), "fc2.bias": torch.ones(10),
    }  # fmt: skip
    torch.save({"net": state, "epoch": 1}, tmp_path / "c")
    model = build("lenet", image_shape=(1, 28, 28), num_classes=10)
    checkpoint = read(tmp_path / "c")
    checkpoint.load_into(model)
    assert checkpoint.values["epoch"] == 1 and model.fc1.weight.mean() == 1


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, writer):
    content = {
        "state_dict": {"fc.weight": torch.zeros(1)},
        "arch": Malicious(str(tmp_path / "pwned")),
    }
    path = tmp_path / "evil.pth"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content["arch"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(UserError, match=r"evil.pth is refused: .*mkdir.*torch.save\(") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_mismatch_names_the_keys(tmp_path):
    torch.save(cohen("1.")(resnet(0).state_dict()), tmp_path / "c")
    model = resnet(1, name="resnet110")
    before = model.fc.weight.clone()
    with pytest.raises(
        UserError, match=r"does not fit model CifarResNet: missing layer1.3.conv1.weight"
    ):
        read(tmp_path / "c").load_into(model)
    assert torch.equal(before, model.fc.weight)


@pytest.mark.parametrize("content", [resnet(0), {"model": nn.Linear(2, 2)}])
def test_a_whole_pickled_network_says_how_to_save_it(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"holds \S+, and reading that runs code; .*state_dict"):
        read(tmp_path / "c.pth")


def test_a_torchscript_archive_says_how_to_save_it(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "c.pt")
    with pytest.raises(UserError, match="TorchScript archive: .*state_dict"):
        read(tmp_path / "c.pt")


def test_an_object_in_a_numpy_scalar_is_no_number(tmp_path):
    class Scalar:
        def __reduce__(self):
            return np.float64(1).__reduce__()[0], (np.dtype("O"), b"x")

    torch.save({"state_dict": {}, "best": Scalar()}, tmp_path / "c")
    with pytest.raises(UserError):
        read(tmp_path / "c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 not a zip", "damaged"),
        (b"index\tlabel\tpredict\n", "damaged"),
    ],
)
def test_not_a_checkpoint(tmp_path, content, message):
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"epoch": 3}, {}, {"state_dict": {"a": 3}}]
)
def test_not_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "c")
    with pytest.raises(UserError, match="state dict"):
        read(tmp_path / "c")


def test_whatever_the_reader_raises_for_damage(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise AssertionError

    torch.save({"net": {}, "epoch": 1}, tmp_path / "c")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "c")


def test_truncated(tmp_path):
    path = tmp_path / "c"
    torch.save(resnet(0).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        read(path)
