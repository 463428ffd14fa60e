"""What is to be certified: a RUN of ours, or a checkpoint file with its architecture named."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from torch import nn

from rsray import models
from rsray.certification.clean_accuracy import clean_accuracies
from rsray.certification.networks.denoiser import DenoiserSource
from rsray.config import READING
from rsray.data import DATASETS, ImageSplit
from rsray.data.splits import normal
from rsray.errors import UserError
from rsray.models import DENOISERS
from rsray.models.factory import is_of_a_library, refuse_factory_of_a_file
from rsray.models.normalise import FACTORYS_OWN, NOTHING, Normalisation, Statistics, explained
from rsray.models.published import Checkpoint, LayerBefore

# What a RUN says of itself unless it is given.
KNOWN = ("model", "model_args", "dataset", "data_root", *READING, "sigma")
# Of clean accuracy: so much better than by what the layout suggests, and the user is asked. A
# factory most often normalises images itself: chance alone must not raise a doubt of it.
DOUBT = 0.05


@dataclass(frozen=True)
class ClassifierSource:
    """A base classifier's weights and what is known of it; None where it must be given."""

    where: str
    weights: bytes
    # A file of another code base
    published: bool
    # SHA-256 of the weights file
    digest: str
    model: str | None = None
    # For a factory
    model_args: Mapping[str, Any] | None = None
    dataset: str | None = None
    data_root: str | None = None
    image_size: int | None = None
    channels: int | None = None
    label_column: str | None = None
    sigma: float | None = None
    # What is recorded of its training
    trained: Mapping[str, Any] = field(default_factory=dict)
    # By label, where a file beside it has them
    class_names: tuple[str, ...] | None = None
    # What the user states: a word of normalise.CHOICES or MEAN/STD
    normalise: str | None = None
    # What was decided, once `settled`
    normalisation: Normalisation | None = None
    # What stands before the network and its normalisation
    denoiser: DenoiserSource | None = None

    @property
    def trainings(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Where each of its networks is, and what is recorded of its training."""
        if self.trained or not self.published:
            return [(self.where, self.trained)]
        names = self._class_names()
        return [(self.where, {"classes": names} if names else {})]

    def _class_names(self) -> list[str]:
        """Return what the file, or the one beside it, calls the classes; none where neither does.

        Raises UserError where they call them differently.
        """
        inside = list(map(normal, self._checkpoint().classes or ()))
        beside = list(map(normal, self.class_names or ()))
        if inside and beside and inside != beside:
            pairs = enumerate(zip_longest(inside, beside, fillvalue="not there"))
            label, here, there = next((k, *pair) for k, pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"{self.where} and the config.json beside it name the classes differently: class "
                f"{label} is {here} in the one, {there} in the other; correct or remove config.json"
            )
        return inside or beside

    def settled(self, split: ImageSplit) -> ClassifierSource:
        """Return the source with its normalisation decided; UserError where nothing says it.

        The weights are loaded into the network to see that they fit the split's images.
        """
        network, layer = self._load(split.image_shape, split.num_classes)
        if ":" in str(self.model):
            again, _ = self._load(split.image_shape, split.num_classes)
            models.check_made_alike(network, again, str(self.model), split.image_shape)
        normalisation = self._decide(layer)
        # Only a layout, or the silence of a user's factory, says that images were not normalised:
        # many networks in such files had theirs normalised by the code that read them.
        is_silent = self.published and normalisation is FACTORYS_OWN
        if normalisation is None or (
            self.normalise is None and (is_silent or not layer.is_certain)
        ):
            accuracies, images = self._accuracies(network, split)
            doubt = DOUBT + (max(images, 1) ** -0.5 if self._is_own_factory else 0.0)
            if normalisation is None or max(accuracies.values()) > accuracies["none"] + doubt:
                raise UserError(self._question(layer, accuracies, images))
        normalisation.before(network, split.image_shape[0])
        return replace(self, normalisation=normalisation)

    def build(self, split: ImageSplit) -> nn.Module:
        """Return the model for the split's images with the weights loaded, in evaluation mode."""
        source = self.settled(split) if self.normalisation is None else self
        return source.network(split.image_shape, split.num_classes)

    def behind(self, denoiser: DenoiserSource, split: ImageSplit) -> ClassifierSource:
        """Return the source, settled before, with a denoiser before it; the digest covers both."""
        denoiser = denoiser.settled(split, self.sigma)
        text = f"denoised\n{denoiser.digest}\n{self.digest}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        return replace(self, denoiser=denoiser, digest=digest)

    @property
    def is_users_code(self) -> bool:
        """Whether a factory of the user's own makes a part of the network."""
        models = [self.model, None if self.denoiser is None else self.denoiser.model]
        return any(":" in str(model) for model in models)

    def network(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the same for images of this shape (C, H, W) and so many classes."""
        classifier = self._classifier(image_shape, num_classes)
        if self.denoiser is None:
            return classifier
        denoiser = self.denoiser.network(image_shape, num_classes)
        return nn.Sequential(OrderedDict(denoiser=denoiser, classifier=classifier)).eval()

    def _classifier(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network behind its normalisation."""
        network, layer = self._load(image_shape, num_classes)
        normalisation = self.normalisation or self._decide(layer)
        if normalisation is None:
            raise UserError(f"{self.where} does not say how it normalises images: give normalise")
        return normalisation.before(network, image_shape[0]).eval()

    def _load(
        self, image_shape: tuple[int, int, int], num_classes: int
    ) -> tuple[nn.Module, LayerBefore]:
        """Return the network with its weights, and what the file says of the layer before it."""
        if self.model is None:
            raise UserError(f"{self.where} does not say its architecture: give --model")
        if self.model in DENOISERS:
            raise UserError(
                f"{self.where} is a denoiser, no classifier: give it with --denoiser, and a "
                "classifier behind it"
            )
        network = models.build(
            self.model,
            image_shape=image_shape,
            num_classes=num_classes,
            arguments=self.model_args,
        )
        models.check(network, image_shape, num_classes)
        return network, self._checkpoint().load_into(network)

    def _checkpoint(self) -> Checkpoint:
        is_safetensors = not self.published or self.where.endswith(".safetensors")
        return Checkpoint.read(self.weights, self.where, is_safetensors=is_safetensors)

    @property
    def _statistics(self) -> Statistics | None:
        return DATASETS[self.dataset].statistics if self.dataset else None

    def _decide(self, layer: LayerBefore) -> Normalisation | None:
        """Return what is done to images: as the file says, else as the user states, or None.

        Raises UserError where they say different things.
        """
        is_factory = self.model is not None and ":" in self.model
        known = layer.normalisation
        # Of ours, without a layer
        if known is None and not self.published:
            known = FACTORYS_OWN if is_factory else NOTHING
        if self.normalise is not None:
            stated = Normalisation.stated(self.normalise, self._statistics)
            if known is None or not layer.is_certain:
                return stated
            if not known.is_as(stated):
                raise UserError(
                    f"{self.where} normalises images with {known.text}, "
                    f"but normalise {self.normalise} is {stated.text}"
                )
        is_own = known is None and self._is_own_factory and not layer.is_missing
        return FACTORYS_OWN if is_own else known

    @property
    def _is_own_factory(self) -> bool:
        """Whether a factory makes it that may normalise images itself."""
        return ":" in str(self.model) and not is_of_a_library(str(self.model))

    def _accuracies(self, network: nn.Module, split: ImageSplit) -> tuple[dict[str, float], int]:
        """Return the clean accuracy behind each layer that there can be, and of how many images."""
        names = ["dataset", "centre"] if self._statistics else []
        names = [*names, *(["imagenet"] if split.image_shape[0] == 3 else []), "none"]
        stated = {name: Normalisation.stated(name, self._statistics) for name in names}
        return clean_accuracies(network, stated, split)

    def _question(self, layer: LayerBefore, accuracies: Mapping[str, float], images: int) -> str:
        """Return the refusal of a file that does not say what was done to images before it."""
        hint = ", ".join(f"{name}: {accuracy:.0%}" for name, accuracy in accuracies.items())
        lacks = "which layer stood before its network" if layer.is_missing else "how it normalises"
        return (
            f"{self.where} does not say {lacks}: give --normalise "
            f"{explained([*accuracies, 'MEAN/STD'])} (clean accuracy on {images} images by {hint})"
        )

    def complete(self) -> ClassifierSource:
        """Return the source if all is known of it that certifying needs; UserError otherwise."""
        source = self
        if self.model is None and self.published:
            source = replace(self, model=self._named_architecture())
        for name in ("model", "dataset", "sigma"):
            if getattr(source, name) is None:
                raise UserError(f"{self.where} does not say its {name}: give --{name}")
        return source

    def _named_architecture(self) -> str | None:
        """Return the network that a checkpoint names, of rsray's own: a file imports no code."""
        name = self._checkpoint().architecture
        if name is None or name in models.MODELS:
            return name
        raise UserError(
            f"{self.where} says that its architecture is {name!r}, which is none of "
            f"{', '.join(models.MODELS)}: give --model package.module:factory"
        )

    def identity(self) -> dict[str, Any]:
        """Return what a certification's settings hold of it, once it is settled."""
        assert self.normalisation is not None
        return {
            **{name: getattr(self, name) for name in KNOWN},
            "model_digest": self.digest,
            "model_args": dict(self.model_args or {}),
            "normalisation": self.normalisation.text,
        }

    def given(self, **known: Any) -> ClassifierSource:
        """Return the source with what the user said in place of what the files say.

        Raises UserError where a file alone names a factory: that is code, which only the user's
        own word imports.
        """
        refuse_factory_of_a_file(self.model, self.where, known.get("model"))
        return replace(self, **{key: value for key, value in known.items() if value is not None})

    def of_other_data(self) -> ClassifierSource:
        """Return the source without what it says of how its own data set is read."""
        return replace(self, channels=None, label_column=None)
