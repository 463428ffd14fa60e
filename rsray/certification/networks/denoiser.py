"""A denoiser before a frozen classifier (Salman et al. 2020): a RUN of ours, or a factory's."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import nn

from rsray import models
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.models import DENOISERS, weights_bytes
from rsray.models.factory import is_factory

log = logging.getLogger(__name__)
# What is compared of its training with the data that are certified: it knows no classes.
COMPARED = ("image_shape", "data_fingerprint")


@dataclass(frozen=True)
class DenoiserSource:
    """A denoiser's network, its weights, and what is known of its training."""

    where: str
    model: str
    # None: those that the factory gives it
    weights: bytes | None = None
    # SHA-256 of the weights; of a factory's network once it is `settled`
    digest: str = ""
    sigma: float | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, where: str, weights: bytes, digest: str, record: Mapping[str, Any]) -> Self:
        """Return the denoiser of a RUN; UserError for a RUN of something else."""
        model = str(record.get("model"))
        if model not in DENOISERS:
            raise UserError(
                f"{where} is of the network {model!r}, no denoiser of rsray's: give a RUN of "
                "--objective denoise, or package.module:factory that returns a trained one"
            )
        trained = {key: record.get(key) for key in COMPARED}
        return cls(where, model, weights, digest, record.get("sigma"), trained)

    @property
    def trainings(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Where it is, and what is compared of its training."""
        return [(self.where, self.trained)]

    def settled(self, split: ImageSplit, sigma: float | None) -> DenoiserSource:
        """Return it with its digest; UserError unless it makes images of the split's shape."""
        if self.sigma is not None and sigma is not None and self.sigma != sigma:
            log.warning("%s was trained with sigma %g, not %g", self.where, self.sigma, sigma)
        network = self._load(split.image_shape, split.num_classes)
        if self.weights is None:
            again = self._load(split.image_shape, split.num_classes)
            models.check_made_alike(network, again, self.model, split.image_shape)
        return replace(self, digest=self.digest or _digest(network))

    def network(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network with its weights, in evaluation mode."""
        network = self._load(image_shape, num_classes)
        if self.weights is None and _digest(network) != self.digest:
            raise UserError(f"denoiser {self.where} has other weights each time that it is made")
        return network.eval()

    def _load(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        network = models.build(self.model, image_shape=image_shape, num_classes=num_classes)
        models.check_denoiser(network, image_shape)
        if self.weights is not None:
            models.load_weights(network, self.weights, self.where)
        return network


def of_factory(name: str) -> DenoiserSource:
    """Return the denoiser that a factory of the user's makes, with the weights that it loads."""
    if not is_factory(name):
        raise UserError(
            f"denoiser {name} does not exist: give a RUN of --objective denoise, or "
            "package.module:factory"
        )
    return DenoiserSource(name, name)


def _digest(network: nn.Module) -> str:
    return hashlib.sha256(weights_bytes(network)).hexdigest()
