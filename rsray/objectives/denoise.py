"""Denoised smoothing: a denoiser before a frozen classifier (Salman et al., NeurIPS 2020)."""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsray.objectives._base import Network, Objective, Step, Terms, setting
from rsray.objectives.attacks.steps import frozen
from rsray.objectives.probabilities import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Denoise(Objective):
    """Squared error of the denoised copies, and the cross entropy of a classifier on them.

    The classifier was trained before and stays as it is; its targets are its own predictions of
    the clean images. The squared error is the mean over pixels divided
    by 2 sigma^2, so that a network that changes nothing has about 1/2 at every sigma.
    """

    makes_images = True
    earlier_results = ("classifier",)
    # As the authors train theirs: with Adam, from a rate of 0.001.
    training = {
        "model": "dncnn6",
        "optimizer": "adam",
        "lr": 0.001,
        "weight_decay": 1e-4,
    }
    search_space = {"lr": "log(1e-4,1e-2)", "trade_off": "log(0.01,10)"}

    trade_off: float = setting(
        "Weight of the classifier's cross entropy (stability).", 1.0, least=0
    )
    classifier: str = setting("RUN of the classifier; without one the squared error is all.", "")

    @property
    def why_unused(self) -> str:
        """Why trade_off, where it is neither 0 nor the usual 1, has no effect."""
        if self.classifier or self.trade_off in (0.0, 1.0):
            return ""
        return (
            f"trade_off is {self.trade_off:g}, but there is no classifier whose cross entropy it "
            "would weigh: give --set classifier=RUN, or leave trade_off out"
        )

    @property
    def guide(self) -> str | None:
        """Where the frozen classifier is."""
        return self.classifier or None

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
        """Denoise the noisy copies; `companion` is the frozen classifier."""
        noisy_BMCHW = noise_BMCHW.add_(images_BCHW.unsqueeze(1))
        denoised_NCHW = network(noisy_BMCHW.flatten(0, 1)).float()
        denoised_BMCHW = denoised_NCHW.reshape(noise_BMCHW.shape)
        error_B = (denoised_BMCHW - images_BCHW.unsqueeze(1)).square().flatten(1).mean(1)
        restoration_B = error_B / (2 * self.sigma**2)
        if companion is None:
            logits_BMK = restoration_B.new_zeros((*noise_BMCHW.shape[:2], 0))
            return Step(Terms(restoration_B, torch.zeros_like(restoration_B)), logits_BMK)
        with frozen(companion) as classifier:
            with torch.no_grad():
                target_B = classifier(images_BCHW).argmax(-1)
            logits_NK = classifier(denoised_NCHW).float()
        logits_BMK = logits_NK.reshape(*noise_BMCHW.shape[:2], -1)
        stability_B = cross_entropy(logits_BMK, target_B) * self.trade_off
        return Step(Terms(restoration_B, stability_B), logits_BMK)
