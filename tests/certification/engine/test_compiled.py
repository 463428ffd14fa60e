"""Compiled networks: the same function, ready before the first draw, and when to compile."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rsray.certification.engine import compiled as compiled_module
from rsray.certification.engine import evaluation as evaluation_module
from rsray.certification.engine.compiled import (
    PAYS_SECONDS,
    CompileError,
    compiled_batch,
    is_worth_compiling,
    nominal_speed,
)
from rsray.certification.engine.evaluation import EvaluatedNetwork, Evaluation, choose_evaluation
from rsray.certification.engine.sampler import Sampler, ShortOfMemoryError
from rsray.core.compiling import COMPILE_PROCESSES_PER_GPU, compile_settings
from rsray.errors import UserError

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)
COMPILED = Evaluation("cpu", "fp32", "channels_last", 16, compiled=True)


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr(evaluation_module, "TRIAL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def network(tiny):
    """A compiled network, made once; needs a C++ compiler."""
    try:
        return EvaluatedNetwork(tiny(), COMPILED, SHAPE)
    except CompileError as problem:
        pytest.skip(f"this machine cannot compile: {problem}")


@torch.no_grad()
def test_compiled_logits_are_the_models(tiny, network):
    images = torch.rand(16, *SHAPE)
    network.buffer_BCHW.copy_(images)
    torch.testing.assert_close(network.logits(), tiny()(images), rtol=1e-4, atol=1e-4)


def test_it_runs_under_inference_mode_and_does_not_compile_again(network):
    from torch._dynamo.utils import counters

    before = dict(counters["stats"])
    with torch.inference_mode():
        first = network.logits().clone()
    assert torch.equal(first, network.logits()) and torch.is_grad_enabled()
    assert dict(counters["stats"]) == before


def test_compiled_counts_are_the_eager_ones(tiny, network):
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    blocks = [(0, 70), (3, 41)]
    counts = [
        Sampler(
            tiny(), Evaluation("cpu", "fp32", "channels_last", batch, is_compiled),
            image_shape=SHAPE, num_classes=4, sigma=0.4, seed=1,
        ).counts(image, 3, "estimation", blocks)
        for batch, is_compiled in ((16, True), (32, False))
    ]  # fmt: skip
    assert np.abs(counts[0] - counts[1]).sum() <= 2  # a draw on a boundary may move
    assert counts[0].sum(1).tolist() == [70, 41]


def test_settings_of_torch_are_as_before(network):
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    assert not inductor.freezing and dynamo.recompile_limit < 100


class Untraceable(nn.Module):
    def forward(self, images):
        flat = images.flatten(1)[:, :4]
        return flat if float(images.sum()) > 0 else -flat


def test_what_cannot_be_compiled_runs_as_it_is_with_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        chosen = choose_evaluation(Untraceable(), SHAPE, precision="fp32", device=CPU, compile="on")
    assert not chosen.compiled and chosen.draws_per_second > 0
    lines = [each.message for each in caplog.records if "not compiled" in each.message]
    assert len(lines) == 1 and "\n" not in lines[0]


def test_a_recorded_compiled_evaluation_is_never_counted_uncompiled():
    with pytest.raises(CompileError):
        Sampler(Untraceable(), COMPILED, image_shape=SHAPE, num_classes=4, sigma=0.4, seed=1)


def test_without_a_compiler(tiny, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with caplog.at_level(logging.WARNING):
        chosen = choose_evaluation(tiny(), SHAPE, precision="fp32", device=CPU, compile="on")
    assert not chosen.compiled
    assert "not compiled" in caplog.text


def test_wrong_compiled_logits_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(compiled_module.torch, "compile", lambda net, **_: lambda x: net(x) + 1)
    with pytest.raises(CompileError, match="differ"):
        EvaluatedNetwork(tiny(), COMPILED, SHAPE)


def test_compiled_logits_may_be_as_far_off_as_bfloat16_is_and_no_further(tiny, monkeypatch):
    evaluation = replace(COMPILED, precision="bf16")
    for factor, is_fine in ((1.0, True), (1.001, True), (1.1, False), (float("nan"), False)):
        monkeypatch.setattr(
            compiled_module.torch, "compile", lambda net, f=factor, **_: lambda x: net(x) * f
        )
        if is_fine:
            EvaluatedNetwork(tiny(), evaluation, SHAPE)
        else:
            with pytest.raises(CompileError, match="differ"):
                EvaluatedNetwork(tiny(), evaluation, SHAPE)


@pytest.mark.parametrize(
    ("compile", "seconds", "expected"),
    [
        ("on", 0, True), ("off", 1e9, False),
        ("auto", PAYS_SECONDS - 1, False), ("auto", PAYS_SECONDS, True),
    ],
)  # fmt: skip
def test_when_it_pays(compile, seconds, expected):
    assert is_worth_compiling(compile, seconds) == expected


def test_nominal_speed_counts_operations_and_values():
    layer = nn.Linear(10, 5)  # 2 * 10 * 5 operations; with Flatten, 10 + 5 values
    speed = nominal_speed(nn.Sequential(nn.Flatten(), layer), (1, 2, 5), "bf16", "cpu")
    operations, values = compiled_module._NOMINAL["cpu", "bf16"]
    assert speed == pytest.approx(1 / (100 / operations + 15 / values))
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))  # 2 * (4 / 2 * 3 * 3) each of 8 * 2 * 2
    speed = nominal_speed(grouped, (4, 4, 4), "fp32", "cpu")
    operations, values = compiled_module._NOMINAL["cpu", "fp32"]
    assert speed == pytest.approx(1 / (36 * 32 / operations + 32 / values))


def test_compiled_batches_are_constants():
    assert [compiled_batch(s, "cpu") for s in ((1, 28, 28), (3, 32, 32), (3, 224, 224))] == [
        128,
        96,
        8,
    ]


def short_of_memory(limit):
    def measure(model, evaluation, image_shape):
        if evaluation.batch_size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 100.0, torch.zeros(2, 2)

    return measure


@pytest.mark.parametrize("limit", [1024, 300, 1])
@pytest.mark.parametrize("compile", ["on", "off"])
def test_batches_are_halved_until_they_fit(monkeypatch, limit, compile):
    monkeypatch.setattr(evaluation_module, "_measure", short_of_memory(limit))
    monkeypatch.setattr(evaluation_module, "device_name", lambda device: "a GPU")
    device = torch.device("cuda")
    chosen = choose_evaluation(
        nn.Identity(), SHAPE, precision="fp32", device=device, compile=compile
    )
    assert chosen.batch_size == 2 ** int(np.log2(limit)) and chosen.compiled == (compile == "on")


@pytest.mark.parametrize("compile", ["on", "off"])
def test_no_memory_at_all(monkeypatch, compile):
    monkeypatch.setattr(evaluation_module, "_measure", short_of_memory(0))
    monkeypatch.setattr(evaluation_module, "device_name", lambda device: "a GPU")
    with pytest.raises(UserError, match="no memory"):
        choose_evaluation(
            nn.Identity(), SHAPE, precision="fp32", device=torch.device("cuda"), compile=compile
        )


def test_memory_that_runs_out_in_the_middle_is_a_clear_error(tiny):
    evaluation = Evaluation("cpu", "fp32", "channels_last", 16)
    sampler = Sampler(tiny(), evaluation, image_shape=SHAPE, num_classes=4, sigma=0.4, seed=1)

    def logits():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    sampler._network.logits = logits
    with pytest.raises(ShortOfMemoryError, match="16 draws a batch"):
        sampler.counts(np.zeros(SHAPE, np.uint8), 0, "estimation", [(0, 20)])


def test_on_a_gpu_no_reduction_is_laid_out_by_timing_it():
    import torch._inductor.config as inductor

    before = inductor.deterministic
    with compile_settings(torch.device("cuda"), is_frozen=True):
        assert inductor.deterministic and inductor.triton.cudagraphs
        assert inductor.compile_threads == COMPILE_PROCESSES_PER_GPU
    assert inductor.deterministic == before
