"""CAT-RS: each image is trained as hard as its confidence allows (Jeong et al., AAAI 2023).

The targets of the robustness term are a teacher's: the smoothed prediction of a network that was
trained before, in the paper one of `gaussian` at sigma 0.25 with 10,000 draws of each training
image. rsray has such predictions as the counts of a CERT of the training split:

    rsray certify RUN --split train --skip 1 --n 10000 --seed 1 --out CERT
    rsray train --objective catrs --set teacher=CERT ...

`catrs-self` is a variant of our own without a teacher: the targets are the network's own smoothed
prediction, and its figures are not the paper's.
"""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsray.objectives._base import Network, Objective, Step, Terms, noisy_logits, setting
from rsray.objectives.attacks.steps import (
    TINY,
    direction,
    frozen,
    norm,
    scaled_gradient,
    shrunk,
    with_noise,
)
from rsray.objectives.probabilities import label_entropy, log_mean_softmax
from rsray.objectives.smoothmix import uniform


@dataclass(frozen=True, kw_only=True)
class CatRsSelf(Objective):
    """Cross entropy of the easiest draws; the worst draw, attacked, where all are right.

    Of an image whose draws are right with frequency p, the K ~ Binomial(M, p) draws of smallest
    cross entropy are trained, at least one. Where K = M, the largest divergence of an attacked draw
    from the target is added (paper, equations 8 to 12): the network's own smoothed prediction.
    """

    search_space = {"trade_off": "log(0.1,4)", "epsilon": "log(0.2,4)"}
    smooths_labels = True

    num_draws: int = setting("Noisy copies of each image in a step (M).", 4)
    trade_off: float = setting("Weight of the attacked draws (lambda).", 1.0, least=0)
    epsilon: float = setting("How far the attack moves a draw's noise, l2 in pixels.", 1.0, least=0)
    num_steps: int = setting("Steps of the attack.", 4, least=1)

    def step(
        self,
        network: Network,
        images_BCHW: Tensor,
        labels_B: Tensor,
        noise_BMCHW: Tensor,
        *,
        companion: nn.Module | None = None,
        generator: torch.Generator | None = None,
        targets_BK: Tensor | None = None,
    ) -> Step:
        """Run a pass on the noisy copies, attack their noise, and run one on what it becomes."""
        logits_BMK = noisy_logits(network, images_BCHW, noise_BMCHW.clone())
        target_BK = targets_BK
        if target_BK is None:
            target_BK = self.own_target(logits_BMK.detach())
        attacked_BMCHW = self.attack(network, images_BCHW, target_BK, noise_BMCHW)
        attacked_BMK = noisy_logits(network, images_BCHW, attacked_BMCHW)
        share_B = uniform(labels_B, generator)
        terms = self.confident_terms(logits_BMK, attacked_BMK, target_BK, labels_B, share_B)
        return Step(terms, logits_BMK)

    def own_target(self, logits_BMK: Tensor) -> Tensor:
        """Return the target [B, K] of images that no teacher has looked at."""
        return log_mean_softmax(logits_BMK).exp()

    def attack(
        self, network: Network, images_BCHW: Tensor, target_BK: Tensor, noise_BMCHW: Tensor
    ) -> Tensor:
        """Return noise [B, M, C, H, W] that moves each draw away from the target.

        Steps of 2 epsilon / num_steps along each draw's normalised gradient, projected on the ball
        around the draw; after each the draw gets its own mean and root mean square again.
        """
        shape, own_NCHW = noise_BMCHW.shape, noise_BMCHW.flatten(0, 1)
        attacked_NCHW = own_NCHW
        with frozen(network) as still:
            for _ in range(self.num_steps):
                with torch.enable_grad():
                    leaf_NCHW = attacked_NCHW.detach().requires_grad_()
                    logits_BMK = with_noise(still, leaf_NCHW.view(shape))(images_BCHW)
                    loss = divergences(logits_BMK, target_BK).mean(1).sum()
                    gradient_NCHW = scaled_gradient(loss, leaf_NCHW)
                step_NCHW = direction(gradient_NCHW) * (2 * self.epsilon / self.num_steps)
                moved_NCHW = shrunk(attacked_NCHW + step_NCHW - own_NCHW, self.epsilon)
                attacked_NCHW = _like(own_NCHW + moved_NCHW, own_NCHW)
        return attacked_NCHW.view(shape)

    def confident_terms(
        self,
        logits_BMK: Tensor,
        attacked_BMK: Tensor,
        target_BK: Tensor,
        labels_B: Tensor,
        share_B: Tensor,
    ) -> Terms:
        """Return the mean cross entropy of the K easiest draws, and the attacked draws' term [B].

        `share_B` in [0, 1) decides K: the smallest number with P(Binomial(M, p) <= K) > share.
        """
        draws = logits_BMK.shape[1]
        is_right_BM = logits_BMK.detach().argmax(-1) == labels_B[:, None]
        kept_B = binomial(is_right_BM.double().mean(1), draws, share_B).clamp(min=1)
        log_p_BMK = logits_BMK.log_softmax(-1)
        entropy_BM = label_entropy(log_p_BMK, labels_B, self.label_smoothing)
        is_kept_BM = torch.arange(draws, device=kept_B.device) < kept_B[:, None]
        easy_B = (entropy_BM.sort(1).values * is_kept_BM).sum(1) / draws
        worst_B = divergences(attacked_BMK, target_BK).amax(1)
        return Terms(easy_B, self.trade_off * worst_B * (kept_B == draws))


@dataclass(frozen=True, kw_only=True)
class CatRs(CatRsSelf):
    """The same with the targets of a teacher: the share of its draws in each class."""

    earlier_results = ("teacher",)

    teacher: str = setting("CERT of a trained network on the training split: its counts.", "")

    def own_target(self, logits_BMK: Tensor) -> Tensor:
        """Raise ValueError: every image has a target of its teacher's."""
        raise ValueError("catrs needs targets_BK, what its teacher predicts of each image")


def divergences(logits_BMK: Tensor, target_BK: Tensor) -> Tensor:
    """Return KL(target || softmax of each draw) [B, M], in nats."""
    entropy_B1 = torch.special.entr(target_BK).sum(-1, keepdim=True)
    divergence_BM: Tensor = -(target_BK[:, None] * logits_BMK.log_softmax(-1)).sum(-1) - entropy_B1
    return divergence_BM


def binomial(p_B: Tensor, trials: int, share_B: Tensor) -> Tensor:
    """Return the smallest k with P(Binomial(trials, p) <= k) > share [B]: one draw each."""
    k_K = torch.arange(trials + 1, device=p_B.device, dtype=torch.float64)
    n = torch.full((), trials, dtype=torch.float64, device=p_B.device)
    ways_K = torch.lgamma(n + 1) - torch.lgamma(k_K + 1) - torch.lgamma(n - k_K + 1)
    p_B1 = p_B.double()[:, None]
    log_BK = ways_K + torch.xlogy(k_K, p_B1) + torch.xlogy(n - k_K, 1 - p_B1)
    below_BK = log_BK.exp().cumsum(-1)[:, :-1] <= share_B.double()[:, None]
    return below_BK.sum(-1)


def _like(noise_NCHW: Tensor, own_NCHW: Tensor) -> Tensor:
    """Return each draw with the mean and the root mean square that its own noise has."""
    mean_N111, own_N111 = (x.mean((1, 2, 3), keepdim=True) for x in (noise_NCHW, own_NCHW))
    centred_NCHW = noise_NCHW - mean_N111
    spread_N111 = norm(own_NCHW - own_N111) / norm(centred_NCHW).clamp(TINY)
    return centred_NCHW * spread_N111 + own_N111
