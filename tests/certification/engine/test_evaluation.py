"""The evaluated network and how the evaluation is chosen."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

from rsray.certification.engine import evaluation as evaluation_module
from rsray.certification.engine.evaluation import (
    WORTH_IT,
    EvaluatedNetwork,
    Evaluation,
    choose_evaluation,
    make_buffer,
    pick,
)
from rsray.errors import UserError
from rsray.models import Normalise

CPU = torch.device("cpu")
FIRST, OTHER = ("channels_last", 64), ("contiguous", 128)


def test_pick_takes_the_fastest_of_the_equivalent():
    speeds = {FIRST: 100.0, ("channels_last", 96): 140.0, ("channels_last", 128): 120.0}
    assert pick(speeds, set(speeds)) == ("channels_last", 96)


@pytest.mark.parametrize(
    ("gain", "chosen"), [(0.5, FIRST), (1.2, FIRST), (1.3, OTHER), (9.0, OTHER)]
)
def test_pick_changes_bits_only_when_it_pays(gain, chosen):
    assert 1.2 < WORTH_IT < 1.3
    assert pick({FIRST: 100.0, OTHER: 100.0 * gain}, {FIRST}) == chosen


def test_pick_compares_with_the_best_equivalent_not_the_first():
    speeds = {FIRST: 100.0, ("channels_last", 96): 120.0, OTHER: 140.0}
    assert pick(speeds, {FIRST, ("channels_last", 96)}) == ("channels_last", 96)


@pytest.mark.parametrize("channels", [1, 3])
def test_buffer_strides_say_their_memory_format(channels):
    shape = (5, channels, 8, 6)
    last = make_buffer(shape, torch.float32, "channels_last", CPU)
    assert last.shape == shape
    assert last.stride() == (48 * channels, 1, 6 * channels, channels)
    plain = make_buffer(shape, torch.bfloat16, "contiguous", CPU)
    assert plain.shape == shape and plain.stride() == (48 * channels, 48, 6, 1)
    assert plain.dtype == torch.bfloat16 and not plain.any()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_logits_are_near_the_models(tiny, shape, memory_format, precision):
    model = tiny(shape)
    images = torch.rand(20, *shape)
    network = EvaluatedNetwork(model, Evaluation("cpu", precision, memory_format, 20), shape)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in network.network.modules())
    network.buffer_BCHW.copy_(images)
    logits, want = network.logits(), model(images)
    assert logits.shape == (20, 4) and logits.dtype == torch.float32
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert (logits - want).abs().max() < tolerance * (1 + want.abs().max())


@torch.no_grad()
def test_normalised_model_takes_normalised_input(tiny):
    inner = tiny()
    model = nn.Sequential(Normalise((0.3,), (0.4,)), inner)
    network = EvaluatedNetwork(model, Evaluation("cpu", "fp32", "channels_last", 8), (1, 8, 8))
    images = torch.rand(8, 1, 8, 8)
    network.buffer_BCHW.copy_((images - network.mean_C) / network.std_C)
    torch.testing.assert_close(network.logits(), model(images), rtol=1e-4, atol=1e-4)


def test_the_given_model_is_not_changed(tiny):
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    EvaluatedNetwork(model, Evaluation("cpu", "bf16", "channels_last", 8), (1, 8, 8))
    for key, value in model.state_dict().items():
        assert value.dtype == before[key].dtype and torch.equal(value, before[key])


def test_batch_size_changes_no_bit(tiny):
    # What choose_evaluation and the docstring of the module rest on.
    model, images, logits = tiny(), torch.rand(96, 1, 8, 8), []
    for batch in (8, 32, 96):
        network = EvaluatedNetwork(
            model, Evaluation("cpu", "fp32", "channels_last", batch), (1, 8, 8)
        )
        network.buffer_BCHW.copy_(images[:batch])
        logits.append(network.logits()[:8])
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


def test_choice_is_measured_here(tiny, monkeypatch):
    monkeypatch.setattr(evaluation_module, "TRIAL_SECONDS", 0.01)
    chosen = choose_evaluation(tiny(), (1, 8, 8), precision="fp32", device=CPU)
    assert (chosen.device, chosen.precision, chosen.compiled) == ("cpu", "fp32", False)
    assert chosen.memory_format in ("channels_last", "contiguous")
    assert chosen.batch_size in (96, 192, 384) and chosen.draws_per_second > 0
    assert chosen.device_name
    assert Evaluation(**chosen.record()) == chosen  # certify.yaml and back


def test_where_memory_is_short_smaller_batches_are_tried(monkeypatch):
    def measure(model, evaluation, image_shape):
        if evaluation.batch_size > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 100.0, torch.zeros(2, 2)

    monkeypatch.setattr(evaluation_module, "_measure", measure)
    monkeypatch.setattr(evaluation_module, "device_name", lambda device: "a GPU")
    chosen = choose_evaluation(
        nn.Identity(), (1, 8, 8), precision="fp32", device=torch.device("cuda")
    )
    assert chosen.batch_size == 1024


def test_bf16_of_a_network_whose_head_was_registered_first():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.conv, self.gate = nn.Linear(8, 3), nn.Conv2d(1, 8, 3), nn.Linear(8, 8)

        def forward(self, images):
            features = self.conv(images)
            gate = self.gate(features.mean((2, 3))).sigmoid()
            return self.head(features.mean((2, 3)) * gate)

    network = EvaluatedNetwork(Gated(), Evaluation("cpu", "bf16", "channels_last", 4), (1, 8, 8))
    assert network.logits().shape == (4, 3)


class OfOneType(nn.Module):
    """It insists on float32, as layers with a type of their own do."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

    def forward(self, images):
        return self.linear(self.conv(images.float()).flatten(1))


def test_a_network_that_does_not_compute_in_bf16_is_evaluated_in_fp32(caplog):
    options = {"device": CPU, "compile": "off"}
    with caplog.at_level(logging.WARNING):
        chosen = choose_evaluation(OfOneType(), (1, 8, 8), precision="bf16", **options)
    assert chosen.precision == "fp32" and chosen.draws_per_second > 0
    assert len([each for each in caplog.records if "not evaluated in bf16" in each.message]) == 1
    caplog.clear()
    assert (
        choose_evaluation(OfOneType(), (1, 8, 8), precision="fp32", **options).precision == "fp32"
    )
    assert "bf16" not in caplog.text


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm", [spectral_norm, weight_norm])
def test_old_weight_norms_are_evaluated_without_folding(norm, precision, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(
        norm(nn.Conv2d(1, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), norm(nn.Linear(144, 3))
    ).eval()  # fmt: skip
    with caplog.at_level(logging.WARNING):
        chosen = choose_evaluation(model, (1, 8, 8), precision=precision, device=CPU, compile="off")
    assert chosen.precision == precision
    assert [each.message for each in caplog.records if "not folded" in each.message]
    network, images = EvaluatedNetwork(model, chosen, (1, 8, 8)), torch.rand(8, 1, 8, 8)
    network.buffer_BCHW[:8].copy_(images)
    want = model(images)
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert (network.logits()[:8] - want).abs().max() < tolerance * (1 + want.abs().max())


def test_a_network_that_raises_on_noisy_images_is_one_line():
    class Asserts(nn.Module):
        def forward(self, images):
            assert images.max() <= 1, "images must be in [0, 1]\nreally"
            return images.flatten(1)[:, :3]

    with pytest.raises(
        UserError, match="raises AssertionError on noisy images.*must be in"
    ) as caught:
        choose_evaluation(Asserts(), (1, 8, 8), precision="fp32", device=CPU)
    assert "\n" not in str(caught.value)


def test_networks_that_no_certificate_can_speak_of_are_refused_before_a_draw():
    mixing = nn.Sequential(
        nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 3)
    )
    with pytest.raises(UserError, match=r"module '0' \(BatchNorm2d\).*other images of its batch"):
        choose_evaluation(mixing.eval(), (1, 8, 8), precision="fp32", device=CPU)


def test_a_network_of_nan_logits_can_be_chosen_for():
    class Nan(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 3), torch.nan)

    chosen = choose_evaluation(
        Nan(), (1, 8, 8), precision="fp32", device=torch.device("cpu"), compile="off"
    )
    assert chosen.draws_per_second > 0


def test_float32_is_float32_on_gpus_too(tiny):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    EvaluatedNetwork(tiny(), Evaluation("cpu", "fp32", "channels_last", 4), (1, 8, 8))
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


class Loud(nn.Module):
    """A network whose features are beyond what float16 holds."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, images):
        loud = self.first(images.flatten(1)) * 1e6
        return self.head(loud * 1e-6)


def test_features_beyond_float16_are_computed_in_float32_and_a_line_says_so(caplog):
    options = {"device": CPU, "compile": "off"}
    chosen = choose_evaluation(Loud(), (1, 8, 8), precision="fp16", **options)
    assert chosen.precision == "fp32"
    assert "not evaluated in fp16 but in fp32: its logits are no finite numbers" in caplog.text
    assert choose_evaluation(Loud(), (1, 8, 8), precision="bf16", **options).precision == "bf16"


def test_nothing_is_chosen_by_timing_it_in_certification(tiny, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    EvaluatedNetwork(tiny(), Evaluation("cpu", "fp32", "channels_last", 4), (1, 8, 8))
    assert not torch.backends.cudnn.benchmark
