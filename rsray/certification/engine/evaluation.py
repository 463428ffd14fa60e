"""How the base classifier is evaluated: part of the certified function, chosen once per run.

A certificate speaks of the network as evaluated, so the choice is recorded beside the certificates
and every actor follows it. On a CPU the number of threads was seen not to change a bit of any
logit, and the batch size seldom (tests/bench/README.md, "Kills"), while the memory format does: a
candidate that changes bits must be clearly faster, so that two runs on one machine mostly choose
alike and count alike.
"""

# Shapes: B draws in a batch, C H W an image, K classes.
from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rsray.certification.engine.compiled import (
    CompileError,
    Forward,
    compile_frozen,
    compiled_batch,
    is_worth_compiling,
)
from rsray.certification.engine.fold import fold, with_float32_head, with_pairwise_pools
from rsray.core.hardware import HALF_TYPES, device_name, forbid_tf32
from rsray.core.independence import check_independence, logits_of
from rsray.errors import UserError
from rsray.storage import one_line

log = logging.getLogger(__name__)
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# How much faster an evaluation that changes bits must be
WORTH_IT = 1.25
# Measured per candidate
TRIAL_SECONDS = 0.08
# Noisy images that show whether a network computes in a precision.
PROBES = 4


@dataclass(frozen=True)
class Evaluation:
    """Device type, precision, memory format and batch shape of the evaluated network."""

    device: Annotated[str, Field(pattern="^(cpu|cuda)$")]
    precision: Annotated[str, Field(pattern="^(fp32|bf16|fp16)$")]
    memory_format: Annotated[str, Field(pattern="^(channels_last|contiguous)$")]
    batch_size: Annotated[int, Field(ge=1, le=2**24)]
    compiled: bool = False
    device_name: str = ""
    # Measured when the choice was made, forward pass alone.
    draws_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    # Of an actor: on a part of a GPU cuDNN has less memory, and may choose another algorithm.
    gpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def record(self) -> dict[str, Any]:
        """Return the plain values for certify.yaml and table metadata."""
        return asdict(self)


class EvaluatedNetwork:
    """The network in the form that an Evaluation names; input goes into `buffer`."""

    def __init__(
        self, model: nn.Module, evaluation: Evaluation, image_shape: tuple[int, int, int]
    ) -> None:
        """Fold, convert and place a copy of `model` (already on its device), and compile it.

        Raises CompileError when the evaluation is compiled and this machine cannot: counting with
        the network as it is would mix the counts of two functions.
        """
        forbid_tf32()
        # cuDNN would choose how a convolution is computed by timing it: chance would round.
        torch.backends.cudnn.benchmark = False
        folded = fold(model, image_shape)
        network = folded.network
        half = HALF_TYPES.get(evaluation.precision)
        if half is not None:
            network = with_float32_head(network, half)
        # Compilers fuse the pools
        if evaluation.device == "cpu" and not evaluation.compiled:
            network = with_pairwise_pools(network)
        self.network = network.to(memory_format=FORMATS[evaluation.memory_format])  # type: ignore[call-overload]
        self.device = torch.device(evaluation.device)
        self.mean_C, self.std_C = folded.mean_C, folded.std_C
        shape = (evaluation.batch_size, *image_shape)
        self.buffer_BCHW = make_buffer(
            shape, half or torch.float32, evaluation.memory_format, self.device
        )
        self._forward: Forward = self.network
        if evaluation.compiled:
            self._forward = compile_frozen(self.network, self.buffer_BCHW)

    def logits(self) -> Tensor:
        """Return float32 logits [B, K] of what is in the buffer."""
        # Compiled code is guarded against another mode than it was compiled in: no_grad.
        with torch.inference_mode(False), torch.no_grad():
            logits_BK: Tensor = logits_of(self._forward(self.buffer_BCHW)).float()
            return logits_BK


def make_buffer(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: str, device: torch.device
) -> Tensor:
    """Return an input buffer whose strides say its memory format.

    With one channel both formats share their bytes and torch keeps contiguous strides unless the
    tensor is made this way; the strides decide which kernels run (a factor of 3, as
    tests/bench/README.md shows).
    """
    strides = FORMATS[memory_format]
    return torch.empty(shape, dtype=dtype, device=device, memory_format=strides).zero_()


def choose_evaluation(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    precision: str,
    device: torch.device,
    compile: str = "auto",
    work_seconds: float = 0.0,
) -> Evaluation:
    """Return the fastest evaluation of the network here, by about a second of measuring.

    `compile` is auto, on or off; auto compiles for `work_seconds` of work per actor from
    PAYS_SECONDS on. Take the seconds from compiled.nominal_speed rather than from a measurement,
    and from the machine's cores or GPUs rather than from the number of actors: then two runs of
    the same work choose, and count, alike. Where the network cannot be compiled, or does not
    compute in half precision, one line of warning says so and the evaluation returned is as can be.
    Raises UserError when the device has no memory for a single draw, the network raises on noisy
    images, or its logits depend on more than the image: no certificate can speak of it then.
    """
    try:
        check_independence(model, image_shape)
        if reason := fold(model, image_shape).why_not_folded:
            log.warning("batch norm is not folded and the network runs as it is: %s", reason)
        if precision in HALF_TYPES:
            precision = _precision_that_works(model, image_shape, precision, device)
        if is_worth_compiling(compile, work_seconds):
            chosen = _choose_compiled(model, image_shape, precision, device)
            if chosen is not None:
                return chosen
        return _choose_eager(model, image_shape, precision, device)
    except (UserError, torch.AcceleratorError):  # said already, or the GPU's own trouble
        raise
    except Exception as problem:  # a user's model may raise anything at all
        raise UserError(
            f"the network raises {type(problem).__name__} on noisy images, whose values go beyond "
            f"[0, 1]: {one_line(problem)}"
        ) from problem


def _precision_that_works(
    model: nn.Module, image_shape: tuple[int, int, int], precision: str, device: torch.device
) -> str:
    """Return the precision, or fp32 with a line of warning.

    That is for layers that insist on another type, and for features beyond the largest number of
    float16, 65504.
    """
    try:
        evaluation = Evaluation(device.type, precision, "contiguous", PROBES)
        network = EvaluatedNetwork(model, evaluation, image_shape)
        network.buffer_BCHW.copy_(_noisy_images(PROBES, image_shape))
        logits_BK = network.logits()
        is_finite = precision != "fp16" or bool(logits_BK.isfinite().all())
        why = "" if is_finite else "its logits are no finite numbers"
    except torch.AcceleratorError:
        raise
    except Exception as problem:
        why = one_line(problem)
    if why:
        log.warning("the network is not evaluated in %s but in fp32: %s", precision, why)
    return "fp32" if why else precision


def _noisy_images(number: int, image_shape: tuple[int, int, int]) -> Tensor:
    """Return grey images with noise, the same ones each time [number, C, H, W]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((number, *image_shape), generator=generator).mul_(0.25).add_(0.5)


def _choose_compiled(
    model: nn.Module, image_shape: tuple[int, int, int], precision: str, device: torch.device
) -> Evaluation | None:
    """Return the compiled evaluation, or None, with a warning, where there can be none."""
    batch, name = compiled_batch(image_shape, device.type), device_name(device)
    while batch:
        found = Evaluation(device.type, precision, "channels_last", batch, True, name)
        try:
            return replace(found, draws_per_second=_measure(model, found, image_shape)[0])
        except torch.OutOfMemoryError:
            batch //= 2
        except CompileError as problem:
            log.warning("the network is not compiled and runs as it is: %s", problem)
            return None
        # After the except: what raised still held the memory there.
        torch.cuda.empty_cache()
    raise _no_memory(device, image_shape)


def _choose_eager(
    model: nn.Module, image_shape: tuple[int, int, int], precision: str, device: torch.device
) -> Evaluation:
    """Return the fastest memory format and batch of the network as it is."""
    measured: dict[tuple[str, int], tuple[float, Tensor]] = {}

    def fits(memory_format: str, batch: int) -> bool:
        candidate = Evaluation(device.type, precision, memory_format, batch)
        with contextlib.suppress(torch.OutOfMemoryError):
            measured[memory_format, batch] = _measure(model, candidate, image_shape)
            return True
        torch.cuda.empty_cache()
        return False

    batches = _batch_sizes(image_shape, device)
    fitting = [batch for batch in batches if fits("channels_last", batch)]
    smaller = min(batches) // 2
    # Every batch is too large: halve until one fits
    while not fitting:
        if not smaller:
            raise _no_memory(device, image_shape)
        fitting = [smaller] if fits("channels_last", smaller) else []
        smaller //= 2
    fits("contiguous", fitting[len(fitting) // 2])
    best = pick({key: speed for key, (speed, _) in measured.items()}, _same_bits(measured))
    return Evaluation(
        device.type,
        precision,
        *best,
        device_name=device_name(device),
        draws_per_second=measured[best][0],
    )


def _no_memory(device: torch.device, image_shape: tuple[int, int, int]) -> UserError:
    return UserError(
        f"{device} has no memory for one image of shape {image_shape}: free memory, "
        "or take fewer actors per GPU"
    )


def pick(speeds: dict[tuple[str, int], float], equivalent: set[tuple[str, int]]) -> tuple[str, int]:
    """Return the fastest candidate; one outside `equivalent` must be WORTH_IT times faster."""
    inside = max(equivalent, key=lambda key: speeds[key])
    fastest = max(speeds, key=lambda key: speeds[key])
    return fastest if speeds[fastest] >= WORTH_IT * speeds[inside] else inside


def _same_bits(measured: dict[tuple[str, int], tuple[float, Tensor]]) -> set[tuple[str, int]]:
    """Return the candidates whose logits equal the first one's bit for bit."""
    first, (_, reference) = next(iter(measured.items()))
    # Which does not equal itself where a logit is NaN
    same = {first}
    for key, (_, logits) in measured.items():
        rows = min(len(logits), len(reference))
        if torch.equal(logits[:rows], reference[:rows]):
            same.add(key)
    return same


def _batch_sizes(image_shape: tuple[int, int, int], device: torch.device) -> tuple[int, ...]:
    values = math.prod(image_shape)
    if device.type == "cuda":
        return (4096, 2048, 1024) if values < 10_000 else (512, 256, 128)
    if values < 2_000:
        return (96, 192, 384)
    return (64, 96, 128) if values < 20_000 else (8, 16, 32)


def _measure(
    model: nn.Module, evaluation: Evaluation, image_shape: tuple[int, int, int]
) -> tuple[float, Tensor]:
    """Return (draws per second, logits of a fixed noisy input) of one candidate."""
    network = EvaluatedNetwork(model, evaluation, image_shape)
    network.buffer_BCHW.copy_(_noisy_images(evaluation.batch_size, image_shape))
    logits = network.logits()
    rounds, started = 0, _now(network.device)
    while (elapsed := _now(network.device) - started) < TRIAL_SECONDS or rounds < 2:
        network.logits()
        rounds += 1
    return rounds * evaluation.batch_size / elapsed, logits.cpu()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
