"""What every training objective is: a frozen set of settings and a loss for each image.

An objective that is a function of the logits alone overrides `terms`, one with an attack before
that `attacked`. One that needs more of the network (a clean copy, a second pass) overrides `step`;
a weight that changes during training overrides `at_epoch`, and `without_drop` or `acts_from` where
it waits for a learning-rate drop or an epoch; a second network with its own optimiser overrides
`companion` and `companion_loss`, and `guide` names a trained one that stays as it is. One
whose images have targets of their own says with `teacher` whose counts make them, and `step` takes
them as `targets_BK`. One that drops or repeats images says how often each is seen with
`image_weights`; one that trains a denoiser says that its network `makes_images`. The trainer knows
nothing else about any method.
"""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

# Images [N, C, H, W] in [0, 1] -> logits [N, K]
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Terms:
    """Each image's loss in two parts [B], in nats; their sum is minimised."""

    classification_B: Tensor
    # Already multiplied by its weight
    robustness_B: Tensor

    @property
    def total_B(self) -> Tensor:
        """The loss of each image [B] in nats."""
        return self.classification_B + self.robustness_B


@dataclass(frozen=True)
class Step:
    """What a training pass returns: the loss of each image, and the logits of its noisy copies.

    K is 0 where no classifier takes part.
    """

    terms: Terms
    logits_BMK: Tensor


def setting(
    help: str,
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """Return the field of an objective's setting: what it means in words, and its limits."""
    limits = {"least": least, "above": above, "most": most}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Settings and loss of a training method. `sigma` is in pixel units of images in [0, 1].

    `search_space` is what `rsray tune` varies unless told: {setting: range}, each around the
    paper's value and wide enough to hold the best of its ablations.
    """

    search_space: ClassVar[Mapping[str, str]] = {
        "lr": "log(0.003,0.2)",
        "weight_decay": "log(1e-5,1e-2)",
    }

    # Whether its cross entropy against labels takes label_smoothing; others refuse it.
    smooths_labels: ClassVar[bool] = False
    # Whether the network that is trained returns images in place of logits.
    makes_images: ClassVar[bool] = False
    # Whether `image_weights` makes some images more frequent than others.
    weighs_images: ClassVar[bool] = False
    # Settings of a training run that this method wants in place of the data set's.
    training: ClassVar[Mapping[str, Any]] = {}
    # Settings that name a RUN or a CERT.
    earlier_results: ClassVar[tuple[str, ...]] = ()

    sigma: float = setting("Standard deviation of the noise, pixels in [0, 1].", MISSING, above=0)
    label_smoothing: float = setting("Share of the target that all classes have in common.", 0.0)
    num_draws: int = setting("Noisy copies of each image in a step.", 1)

    def __post_init__(self) -> None:
        """Refuse settings beyond their limits, and what no method allows."""
        for each in fields(self):
            value = getattr(self, each.name)
            least, above, most = (each.metadata.get(key) for key in ("least", "above", "most"))
            if value is not None and least is not None and value < least:
                raise ValueError(f"{each.name} must be at least {least}, got {value}")
            if above is not None and not value > above:
                raise ValueError(f"{each.name} must be greater than {above}, got {value}")
            if value is not None and most is not None and value > most:
                raise ValueError(f"{each.name} must be at most {most}, got {value}")
        if self.num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {self.num_draws}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.label_smoothing and not self.smooths_labels:
            raise ValueError(
                f"label_smoothing must be 0, got {self.label_smoothing}: the loss has no cross "
                "entropy against labels that could be smoothed"
            )
        # Workers may run in another folder.
        for name in self.earlier_results:
            where = getattr(self, name)
            if where and "://" not in where:
                whole = os.path.abspath(os.path.expanduser(where))
                object.__setattr__(self, name, whole)

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the loss of each image from the logits of its M noisy copies."""
        raise NotImplementedError(f"{type(self).__name__} needs the network: use step()")

    def loss(self, logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
        """Return each image's loss [B] in nats, for use in a training loop of one's own."""
        return self.terms(logits_BMK, labels_B).total_B

    def attacked(
        self, network: Network, images_BCHW: Tensor, labels_B: Tensor, noise_BMCHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return images and noise as `step` trains on them; an attack moves the one or the other.

        What is given is kept.
        """
        return images_BCHW, noise_BMCHW

    def step(
        self,
        network: Network,
        images_BCHW: Tensor,
        labels_B: Tensor,
        noise_BMCHW: Tensor,
        *,
        companion: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        """Run one training pass. `noise_BMCHW` ~ N(0, sigma^2) is consumed (overwritten)."""
        images_BCHW, noise_BMCHW = self.attacked(network, images_BCHW, labels_B, noise_BMCHW)
        logits_BMK = noisy_logits(network, images_BCHW, noise_BMCHW)
        return Step(self.terms(logits_BMK, labels_B), logits_BMK)

    def at_epoch(self, epoch: int, lr_drops: tuple[int, ...]) -> Objective:
        """Return the objective as it stands in `epoch` (counted from 0); schedules go here."""
        return self

    def image_weights(
        self, epoch: int, before_N: Tensor | None, count_right: Callable[[int], Tensor]
    ) -> Tensor | None:
        """Return how often each training image [N] is drawn in `epoch`; None: all of them once.

        Weights are relative to one another, and 0 drops an image. `before_N` is what was returned
        for the epoch before; `count_right(M)` returns on how many of M noisy copies of each image
        the network is right [N].
        """
        return before_N

    @property
    def without_drop(self) -> str:
        """What does without a learning-rate drop, `setting=value`; empty: it waits for none."""
        return ""

    @property
    def acts_from(self) -> int:
        """The epoch (from 0), the end of `warm_up_epochs`, before which it is cross entropy."""
        return 0

    @property
    def why_unused(self) -> str:
        """Why a setting has no effect beside the others, in a line; empty: each has one."""
        return ""

    @property
    def guide(self) -> str | None:
        """Where a trained classifier is that `step` gets as its frozen companion, or None."""
        return None

    @property
    def teacher(self) -> str | None:
        """Where the CERT is whose counts make the images' targets; None: they have labels alone."""
        return None

    def companion(self, num_classes: int) -> nn.Module | None:
        """Return a second network that is trained beside the classifier, or None."""
        return None

    def companion_due(self, step: int) -> bool:
        """Tell whether the companion takes a step of its own after training step `step`."""
        return False

    def companion_loss(
        self,
        network: Network,
        companion: nn.Module,
        images_BCHW: Tensor,
        labels_B: Tensor,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """Return the companion's own loss (a scalar); the classifier is frozen meanwhile.

        `noise(M)` returns M new draws N(0, sigma^2) for each image [B, M, C, H, W]; by default
        they come from torch's own generator.
        """
        raise NotImplementedError(f"{type(self).__name__} has no companion")


def noisy_logits(network: Network, images_BCHW: Tensor, noise_BMCHW: Tensor) -> Tensor:
    """Return logits [B, M, K] of image + noise in one forward pass; overwrites the noise buffer."""
    noisy_BMCHW = noise_BMCHW.add_(images_BCHW.unsqueeze(1))
    logits_NK = network(noisy_BMCHW.flatten(0, 1))
    return logits_NK.reshape(*noise_BMCHW.shape[:2], -1).float()
