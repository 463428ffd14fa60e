"""A network small enough for exact arithmetic, and one call of an objective's step on it."""

import torch
from torch import nn

B, M, K = 6, 4, 5
SHAPE = (1, 4, 4)
SIGMA = 0.25


class Tiny(nn.Module):
    """Two layers with batch norm and dropout, so that eval mode shows."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.hidden = nn.Linear(16, 12)
        self.norm = nn.BatchNorm1d(12)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(12, K)
        self.modes = []

    def forward(self, images):
        self.modes.append(self.training)
        hidden = self.norm(self.hidden(images.flatten(1))).tanh()
        return 4 * self.out(self.drop(hidden))


class TinyDenoiser(Tiny):
    """The same, with images [N, 1, 4, 4] for logits."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.out = nn.Linear(12, 16)

    def forward(self, images):
        return super().forward(images).reshape(-1, *SHAPE)


def network_of(objective, seed=0):
    """Return a network that the objective can train."""
    return TinyDenoiser(seed) if objective.makes_images else Tiny(seed)


def companion_of(objective):
    """Return the network that the trainer would give it beside that one."""
    return Tiny(7) if objective.makes_images else objective.companion(K)


def targets_of(objective):
    """Return what the trainer would give it of its teacher, as arguments of a step."""
    if objective.teacher is None:
        return {}
    generator = torch.Generator().manual_seed(11)
    return {"targets_BK": torch.rand(B, K, generator=generator).softmax(-1)}


def batch(seed=0, num_draws=M):
    """Return images [B, 1, 4, 4] in [0, 1], labels [B] and noise [B, M, 1, 4, 4]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(B, *SHAPE, generator=generator)
    labels = torch.randint(0, K, (B,), generator=generator)
    noise = torch.randn(B, num_draws, *SHAPE, generator=generator) * SIGMA
    return images, labels, noise


def one_step(objective, network, seed=0, **arguments):
    """Run objective.step on the batch of that seed."""
    images, labels, noise = batch(seed, objective.num_draws)
    torch.manual_seed(seed)  # of the dropout
    return objective.step(network, images, labels, noise, **targets_of(objective), **arguments)
