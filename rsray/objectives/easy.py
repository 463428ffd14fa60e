"""Easy: train the images that are robust already, on adversarial noise (Sun et al., ICML 2025)."""

# Shapes: N training images, B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import betaincinv, ndtri
from torch import Tensor

from rsray.objectives._base import Network, Objective, Terms, setting
from rsray.objectives.attacks.steps import (
    TINY,
    direction,
    frozen,
    norm,
    scaled_gradient,
    with_noise,
)
from rsray.objectives.probabilities import cross_entropy

# Draws by which images are dropped, and by which they are weighed.
DROPPING_DRAWS, WEIGHING_DRAWS = 100, 16
# Images with a smaller share of right draws weigh as if they had this one.
LEAST_SHARE = 0.75
# Of the lower confidence bound that the weights are made of.
ALPHA = 0.1


@dataclass(frozen=True, kw_only=True)
class Easy(Objective):
    """Cross entropy of the draws; after the warm-up, on attacked noise and chosen images.

    The paper shows with it that ACR rewards easy images: it buys ACR with clean accuracy.
    """

    search_space = {"epsilon": "log(0.05,2)", "threshold": "uniform(0,0.7)"}
    smooths_labels = True
    weighs_images = True

    num_draws: int = setting("Noisy copies of each image in a step.", 4)
    epsilon: float = setting("Step of the attack on the noise, l2 in pixels.", 0.25, least=0)
    num_steps: int = setting("Steps of the attack.", 3, least=0)
    warm_up_epochs: int = setting("Epochs without attack, and with all images.", 10, least=0)
    threshold: float = setting(
        "Images with a smaller share of right draws are dropped then.", 0.5, least=0, most=1
    )
    reweigh_every: int = setting("Epochs after which images are weighed again.", 10, least=1)

    @property
    def acts_from(self) -> int:
        """The epoch at which attack and choice of images begin."""
        return self.warm_up_epochs

    def at_epoch(self, epoch: int, lr_drops: tuple[int, ...]) -> Easy:
        """Return the objective without its attack during the warm-up."""
        return self if epoch >= self.warm_up_epochs else replace(self, num_steps=0)

    def image_weights(
        self, epoch: int, before_N: Tensor | None, count_right: Callable[[int], Tensor]
    ) -> Tensor | None:
        """Drop images at the end of the warm-up; weigh the others then and every so often.

        A weight is Phi^-1 of the lower confidence bound of the share of right draws.
        """
        if epoch < self.warm_up_epochs or (epoch - self.warm_up_epochs) % self.reweigh_every:
            return before_N
        if before_N is None:
            is_kept_N = count_right(DROPPING_DRAWS) >= self.threshold * DROPPING_DRAWS
            # Where nothing would be left, nothing is dropped.
            is_kept_N = is_kept_N | (is_kept_N.sum() == 0)
        else:
            is_kept_N = before_N > 0
        right_N = count_right(WEIGHING_DRAWS)
        return weights_by_count().to(right_N.device)[right_N] * is_kept_N

    def terms(self, logits_BMK: Tensor, labels_B: Tensor) -> Terms:
        """Return the cross entropy [B] in nats; there is no robustness term."""
        classification_B = cross_entropy(logits_BMK, labels_B, self.label_smoothing)
        return Terms(classification_B, torch.zeros_like(classification_B))

    def attacked(
        self, network: Network, images_BCHW: Tensor, labels_B: Tensor, noise_BMCHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the images and noise [B, M, C, H, W] of the draws' norms that the network errs on.

        Each draw keeps the first noise at which the network errs, or the last one: steps of
        epsilon along the normalised gradient of its cross entropy, set back to its own norm.
        """
        shape, own_NCHW = noise_BMCHW.shape, noise_BMCHW.flatten(0, 1)
        attacked_NCHW = found_NCHW = own_NCHW
        is_found_N111 = torch.zeros_like(norm(own_NCHW), dtype=torch.bool)
        with frozen(network) as still:
            for _ in range(self.num_steps):
                with torch.enable_grad():
                    leaf_NCHW = attacked_NCHW.detach().requires_grad_()
                    logits_BMK = with_noise(still, leaf_NCHW.view(shape))(images_BCHW)
                    loss = cross_entropy(logits_BMK, labels_B).sum()
                    gradient_NCHW = scaled_gradient(loss, leaf_NCHW)
                is_wrong_BM = logits_BMK.argmax(-1) != labels_B[:, None]
                is_new_N111 = is_wrong_BM.view(-1, 1, 1, 1) & ~is_found_N111
                found_NCHW = torch.where(is_new_N111, attacked_NCHW, found_NCHW)
                is_found_N111 = is_found_N111 | is_new_N111
                moved_NCHW = attacked_NCHW + direction(gradient_NCHW) * self.epsilon
                attacked_NCHW = moved_NCHW * (norm(own_NCHW) / norm(moved_NCHW).clamp(TINY))
        return images_BCHW, torch.where(is_found_N111, found_NCHW, attacked_NCHW).reshape(shape)


def weights_by_count() -> Tensor:
    """Return the weight of an image by how many of WEIGHING_DRAWS draws are right (float32)."""
    counts = np.arange(WEIGHING_DRAWS + 1).clip(int(LEAST_SHARE * WEIGHING_DRAWS))
    lower = betaincinv(counts, WEIGHING_DRAWS - counts + 1, ALPHA)
    return torch.from_numpy(ndtri(lower)).float()
