"""SmoothedClassifier: certify and predict images with any torch module, without a cluster."""

# Shapes: B draws in a batch, K classes, C H W an image.
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsray.core.bounds import check_settings
from rsray.core.bounds.clopper_pearson import CLOPPER_PEARSON
from rsray.core.decide import predict_hard
from rsray.core.evidence import ABSTAIN, Evidence
from rsray.core.grid_noise import LARGEST_SIGMA, CounterUniform, GridNoise, TorchUniform
from rsray.core.independence import check_independence, first_weight, logits_of
from rsray.core.noise import LEVELS, FloatNoise, Stream
from rsray.errors import UserError

Image = Tensor | NDArray[Any]
# Beyond [0, 1], as resizing leaves it
ROUNDING = 1e-6
# Of pictures: grey, colour
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Certificate:
    """One image's class (-1 = abstain), its l2 radius in pixels of [0, 1], and the evidence."""

    prediction: int
    radius: float
    p_a_lower: float
    p_b_upper: float
    count_a: int
    n0: int
    n: int
    alpha: float
    # "grid", or "float32" for an image that is not whole steps of 1/255: see rsray/core/README.md.
    noise: str

    @property
    def abstained(self) -> bool:
        """Whether no class could be certified."""
        return self.prediction == ABSTAIN


@dataclass(frozen=True)
class Prediction:
    """One image's predicted class (-1 = abstain) and the p-value of the test behind it."""

    prediction: int
    p_value: float
    n: int
    alpha: float


class SmoothedClassifier:
    """The smoothed classifier g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c) of a base classifier f.

    `model` maps images [B, C, H, W] in [0, 1] plus noise to logits [B, K]; it stays on its device
    and is put in evaluation mode while draws are made. An image whose pixels are all whole steps of
    1/255 gets exact noise on that grid, so that its certificate holds in floating point; any other
    image gets float32 noise, and its certificate says so.
    """

    def __init__(
        self, model: nn.Module, sigma: float, num_classes: int, *, batch_size: int = 400
    ) -> None:
        """Wrap `model`; sigma is the noise standard deviation in pixels of [0, 1]."""
        if not 0 < sigma < math.inf:
            raise UserError(
                f"sigma is {sigma}: the noise standard deviation must be positive and finite"
            )
        if num_classes < 2:
            raise UserError(f"num_classes is {num_classes}: a classifier has at least 2 classes")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be at least 1")
        self.model, self.sigma = model, float(sigma)
        self.num_classes = _whole("num_classes", num_classes)
        self.batch_size = _whole("batch_size", batch_size)
        # Image shapes that were asked for before
        self._checked: set[tuple[int, ...]] = set()

    def certify(
        self,
        image: Image,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        generator: torch.Generator | None = None,
    ) -> Certificate | Any:
        """Return the certificate of an image [C, H, W] (Cohen et al. 2019, CERTIFY).

        With probability at least 1 - alpha over the draws, g predicts `prediction` everywhere
        within l2 distance `radius` of the image. A batch [B, C, H, W] gives a list, and the
        statement holds for each image by itself. Pixels are in [0, 1], or uint8. Raises UserError
        for n or alpha with which nothing could be certified.
        """
        check_settings(n, alpha, n0)
        n, n0, alpha = _whole("n", n), _whole("n0", n0), float(alpha)

        def one(image_CHW: Tensor) -> Certificate:
            selection_1K = self._counts(image_CHW, n0, generator)[None]
            estimation_1K = self._counts(image_CHW, n, generator)[None]
            evidence = Evidence.of_counts(selection_1K, estimation_1K)
            noise, off = self._noise(image_CHW)
            decision = CLOPPER_PEARSON.decide(
                evidence, sigma=self.sigma, alpha=alpha, total_variation=off
            )
            names = ("prediction", "radius", "p_a_lower", "p_b_upper", "count_a")
            decided = {name: getattr(decision, name)[0].item() for name in names}
            return Certificate(**decided, n0=n0, n=n, alpha=alpha, noise=noise)

        return _for_each(image, one)

    def predict(
        self,
        image: Image,
        n: int = 1000,
        alpha: float = 0.001,
        generator: torch.Generator | None = None,
    ) -> Prediction | Any:
        """Return g's class of an image [C, H, W], or -1 (Cohen et al. 2019, PREDICT).

        With probability at least 1 - alpha over the draws, a class that is returned is g's. A
        batch [B, C, H, W] gives a list. Pixels are in [0, 1], or uint8.
        """
        if n < 1 or not 0 < alpha < 1:
            raise UserError(f"n must be at least 1 and alpha in (0, 1), got n {n}, alpha {alpha}")
        n, alpha = _whole("n", n), float(alpha)

        def one(image_CHW: Tensor) -> Prediction:
            counts_1K = self._counts(image_CHW, n, generator)[None]
            off = self._noise(image_CHW)[1]
            prediction, p_value = predict_hard(counts_1K, alpha=alpha, total_variation=off)
            return Prediction(int(prediction[0]), float(p_value[0]), n, alpha)

        return _for_each(image, one)

    def counts(
        self, image: Image, n: int, generator: torch.Generator | None = None
    ) -> NDArray[np.int64] | Any:
        """Return how many of n noisy copies of an image fall in each class [K].

        A batch [B, C, H, W] gives a list. Pixels are in [0, 1], or uint8. UserError for n < 0.
        """
        n = _whole("n", n)
        if n < 0:
            raise UserError(f"n must be at least 0, got {n}")
        return _for_each(image, lambda image_CHW: self._counts(image_CHW, n, generator))

    def _counts(
        self, image_CHW: Tensor, n: int, generator: torch.Generator | None
    ) -> NDArray[np.int64]:
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            if image_CHW.shape not in self._checked:
                check_independence(self.model, image_CHW.shape)
                self._checked.add(image_CHW.shape)
            return self._count(image_CHW, n, generator)
        finally:
            for module, was_training in modes:
                module.training = was_training

    def _noise(self, image_CHW: Tensor) -> tuple[str, float]:
        """Return the noise that an image gets, and its total variation from the exact Gaussian."""
        kind = FloatNoise if self._levels(image_CHW) is None else GridNoise
        return kind.recorded_name, kind.total_variation(self.sigma, tuple(image_CHW.shape))

    @torch.inference_mode()
    def _count(self, image: Tensor, n: int, generator: torch.Generator | None) -> NDArray[np.int64]:
        parameter = first_weight(self.model)
        device = image.device if parameter is None else parameter.device
        dtype = torch.float32 if parameter is None else parameter.dtype
        noisy_copies = self._noisy_copies(image.cpu(), device, generator)
        counts_K = torch.zeros(self.num_classes, dtype=torch.int64, device=device)
        # On a GPU nothing waits before the end.
        is_bad = torch.zeros((), dtype=torch.bool, device=device)
        full = max(1, min(n, self.batch_size))
        for start in range(0, n, full):
            size = min(full, n - start)
            noisy_BCHW = noisy_copies(size).to(dtype)
            if size < full:
                # In a smaller batch a GPU could compute another function.
                filling_BCHW = noisy_BCHW[:1].expand(full - size, -1, -1, -1)
                noisy_BCHW = torch.cat((noisy_BCHW, filling_BCHW))
            logits_BK = logits_of(self.model(noisy_BCHW))
            if logits_BK.shape != (full, self.num_classes):
                raise UserError(
                    f"the model returned shape {tuple(logits_BK.shape)}: expected "
                    f"[{full}, {self.num_classes}] logits"
                )
            logits_BK = logits_BK[:size]
            is_bad |= torch.isnan(logits_BK).any()
            class_B = logits_BK.argmax(1)
            counts_K.index_add_(0, class_B, torch.ones_like(class_B))
        if is_bad:
            raise ArithmeticError("the model returned NaN for a noisy copy of the image")
        return counts_K.cpu().numpy()

    def _noisy_copies(
        self, image_CHW: Tensor, device: torch.device, generator: torch.Generator | None
    ) -> Callable[[int], Tensor]:
        """Return the function that makes the next so many noisy copies, float32 on the device."""
        source = device if generator is None else generator.device
        levels = self._levels(image_CHW)
        if levels is None:
            image = image_CHW.to(device)

            def with_float_noise(count: int) -> Tensor:
                shape = (count, *image.shape)
                noise = torch.randn(shape, generator=generator, device=source).to(device)
                return noise.mul_(self.sigma).add_(image)

            return with_float_noise
        noise, uniform = GridNoise.of(self.sigma), _uniform_numbers(source, generator)
        whole = levels.to(source) if isinstance(uniform, TorchUniform) else levels

        def on_the_grid(count: int) -> Tensor:
            sums_BCHW = noise.draw(uniform, (count, *whole.shape)).add_(whole)
            return sums_BCHW.to(device, torch.float32).div_(LEVELS)

        return on_the_grid

    def _levels(self, image_CHW: Tensor) -> Tensor | None:
        """Return the pixels as whole steps of 1/255, int16; None where noise on them cannot be.

        That is where a pixel is no whole step, and for a sigma too large for such noise.
        """
        image = image_CHW.cpu()
        nearest = image.mul(LEVELS).round()
        # GPUs and torchvision's ToDtype(scale=True) multiply 8-bit levels with 1/255, which is the
        # neighbouring number at half of them.
        made = nearest.div(LEVELS), nearest.mul(1 / LEVELS)
        if self.sigma > LARGEST_SIGMA or not any(torch.equal(each, image) for each in made):
            return None
        return nearest.to(torch.int16)


def _uniform_numbers(
    source: torch.device, generator: torch.Generator | None
) -> CounterUniform | TorchUniform:
    """Return where the next numbers of exact noise come from: CUDA, for all other devices the CPU.

    What else there is (Apple's and Intel's GPUs) is not known to make 64 random bits.
    """
    if source.type == "cuda":
        return TorchUniform(generator or torch.cuda.default_generators[source.index or 0])
    device = torch.device("cpu") if generator is None else source
    name = torch.randint(2**62, (2,), generator=generator, device=device).tolist()
    return CounterUniform(Stream(name[0], name[1], "estimation", 0))


def _whole(name: str, number: float) -> int:
    """Return a whole number as an int, 1e5 too; UserError for any other."""
    if not float(number).is_integer():
        raise UserError(f"{name} is {number}: it must be a whole number")
    return int(number)


def _for_each(image: Image, ask: Callable[[Tensor], Any]) -> Any:
    """Return the answer for one image [C, H, W], or a list for each of a batch."""
    pixels = _in_unit_range(image)
    if pixels.dim() >= 3 and pixels.shape[-1] in CHANNELS and pixels.shape[-3] not in CHANNELS:
        raise UserError(
            f"image has shape {tuple(pixels.shape)}, which looks like [H, W, C]: expected [C, H, W]"
        )
    if pixels.dim() == 4:
        return [ask(each) for each in pixels]
    if pixels.dim() != 3:
        raise UserError(
            f"image has shape {tuple(pixels.shape)}: expected [C, H, W], or [B, C, H, W]"
        )
    return ask(pixels)


def _in_unit_range(image: Image) -> Tensor:
    """Return the pixels in [0, 1], float32; uint8 is divided by 255. UserError for any other."""
    if not isinstance(image, Tensor):
        array = np.ascontiguousarray(image)
        # FITS and other scientific formats keep the order of bytes that torch refuses.
        image = torch.tensor(array.astype(array.dtype.newbyteorder("="), copy=False))
    pixels = image
    if pixels.dtype == torch.uint8:
        # Not on a GPU: see _levels.
        return (pixels.cpu().float() / LEVELS).to(pixels.device)
    if not pixels.is_floating_point():
        raise UserError(f"image is of {pixels.dtype}: expected pixels in [0, 1], or uint8")
    pixels = pixels.float()
    if pixels.numel() and not (pixels.min() >= -ROUNDING and pixels.max() <= 1 + ROUNDING):
        raise UserError(
            f"image has values from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}: "
            "expected pixels in [0, 1], or uint8; normalisation belongs into the model"
        )
    return pixels
