"""Several classifiers that are certified as one: the mean of their logits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from rsray.certification.networks.source import ClassifierSource
from rsray.config import READING
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.models.factory import refuse_factory_of_a_file
from rsray.models.mean_logits import MeanLogits
from rsray.models.normalise import Normalisation

log = logging.getLogger(__name__)
# What members must have in common, as their RUNs and files record it; what none records is not
# compared.
SHARED = ("dataset", "classes", "image_shape", *READING)
# Where a network is, and what is recorded of its training
Training = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class JointNormalisation(Normalisation):
    """The layers before the networks of an ensemble, where they differ."""

    members: tuple[Normalisation, ...] = ()

    @property
    def text(self) -> str:
        """What --normalise takes to state the same once more: the members', between semicolons."""
        return ";".join(member.text for member in self.members)

    def __str__(self) -> str:
        """Return what is done before each member, for people."""
        return "; ".join(map(str, self.members))


@dataclass(frozen=True)
class EnsembleSource(ClassifierSource):
    """Classifiers of the same classes of images; each keeps its architecture and normalisation.

    `model` names the members' networks with a plus sign between them, and `normalise` their
    normalisations with a semicolon; a single one stands for all members.
    """

    members: tuple[ClassifierSource, ...] = ()

    @classmethod
    def of(cls, where: str, members: tuple[ClassifierSource, ...]) -> EnsembleSource:
        """Return the ensemble; UserError for one member, or members that do not go together."""
        if len(members) < 2:
            raise UserError(f"{where}: an ensemble has at least two members, RUN,RUN,...")
        trainings = [pair for member in members for pair in member.trainings]
        for name in SHARED:
            _refuse_unlike(name, trainings)
        _refuse_other_labels(trainings)
        _refuse_one_twice(members)
        _say_whose_classes(trainings)
        described = next((each for each in members if each.trained), members[0])
        prints = [each.trained.get("data_fingerprint") for each in members]
        trained = {**described.trained}
        if any(each != prints[0] for each in prints):
            trained.pop("data_fingerprint", None)
        text = "\n".join(["ensemble", *(each.digest for each in members)])
        reading: dict[str, Any] = {name: _first(name, members) for name in READING}
        found = cls(
            where,
            b"",
            False,
            hashlib.sha256(text.encode()).hexdigest(),
            dataset=described.dataset,
            data_root=described.data_root,
            **reading,
            sigma=members[0].sigma if len({each.sigma for each in members}) == 1 else None,
            trained=trained,
        )
        return found._with(members)

    @property
    def trainings(self) -> list[tuple[str, Any]]:
        """Where each member is, and what is recorded of its training."""
        return [pair for member in self.members for pair in member.trainings]

    def given(self, **known: Any) -> EnsembleSource:
        """Return the ensemble with what the user said in place of what the members' files say."""
        refuse_factory_of_a_file(self.model, self.where, known.get("model"))
        models = self._parts("model", known.pop("model", None), "+")
        stated = self._parts("normalise", known.pop("normalise", None), ";")
        arguments = known.pop("model_args", None)
        members = tuple(
            member.given(
                **known,
                model=model,
                normalise=normalise,
                model_args=arguments if ":" in str(model or member.model) else None,
            )
            for member, model, normalise in zip(self.members, models, stated, strict=True)
        )
        shared = {key: value for key, value in known.items() if value is not None}
        return replace(self, **shared)._with(members)

    def _parts(self, name: str, value: str | None, separator: str) -> Sequence[str | None]:
        """Return what is given for each member."""
        parts = [None] if value is None else value.split(separator)
        if len(parts) == 1:
            return parts * len(self.members)
        if len(parts) != len(self.members):
            raise UserError(
                f"{name} {value!r} names {len(parts)}, {self.where} has {len(self.members)}"
            )
        return parts

    def complete(self) -> EnsembleSource:
        """Return the ensemble if all is known of each member that certifying needs."""
        if self.sigma is None:
            found = ", ".join(str(member.sigma) for member in self.members)
            raise UserError(f"{self.where}: its members say sigma {found}: give --sigma")
        return self._with(
            tuple(
                replace(member, dataset=self.dataset, sigma=self.sigma).complete()
                for member in self.members
            )
        )

    def settled(self, split: ImageSplit) -> EnsembleSource:
        """Return the ensemble with each member's normalisation decided."""
        found = self._with(tuple(member.settled(split) for member in self.members))
        known = [member.normalisation for member in found.members if member.normalisation]
        is_one = len({(each.mean, each.std) for each in known}) == 1
        joint = known[0] if is_one else JointNormalisation("joint", members=tuple(known))
        return replace(found, normalisation=joint)

    def _classifier(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the members' mean for images of this shape (C, H, W) and so many classes.

        A normalisation that all have stands before the whole, where the engine applies it.
        """
        networks = [member.network(image_shape, num_classes) for member in self.members]
        if isinstance(self.normalisation, JointNormalisation) or self.normalisation is None:
            return MeanLogits(networks).eval()
        bare = [
            getattr(net, "network", net) if self.normalisation.mean else net for net in networks
        ]
        return self.normalisation.before(MeanLogits(bare), image_shape[0]).eval()

    def of_other_data(self) -> EnsembleSource:
        """Return the ensemble without what it says of how its own data set is read."""
        members = tuple(member.of_other_data() for member in self.members)
        return replace(self, channels=None, label_column=None)._with(members)

    def _with(self, members: tuple[ClassifierSource, ...]) -> EnsembleSource:
        """Return the ensemble of these members, which are named and settled as they are."""
        arguments = [dict(each.model_args or {}) for each in members if ":" in str(each.model)]
        if any(each != arguments[0] for each in arguments):
            raise UserError(
                f"{self.where}: its members have different model-args, which nothing would record"
            )
        names = [member.model for member in members]
        model = None if None in names else "+".join(map(str, names))
        return replace(
            self, members=members, model=model, model_args=arguments[0] if arguments else None
        )


def _refuse_unlike(name: str, trainings: Sequence[Training]) -> None:
    """Raise UserError where two members record different values."""
    known = [(where, trained[name]) for where, trained in trainings if trained.get(name)]
    for where, value in known[1:]:
        if value != known[0][1]:
            raise UserError(
                f"an ensemble needs the same {name}: {known[0][0]} was trained with "
                f"{_short(known[0][1])}, {where} with {_short(value)}"
            )


def _refuse_other_labels(trainings: Sequence[Training]) -> None:
    """Raise UserError where one member was trained on a column of its own, another on the usual."""
    own = next((pair for pair in trainings if pair[1].get("label_column")), None)
    for where, trained in trainings:
        if own and "label_column" in trained and trained["label_column"] is None:
            raise UserError(
                f"an ensemble needs the same label_column: {own[0]} was trained with "
                f"{own[1]['label_column']}, {where} without one"
            )


def _refuse_one_twice(members: tuple[ClassifierSource, ...]) -> None:
    """Raise UserError for members with the same weights: the mean would be one's own."""
    first: dict[str, ClassifierSource] = {}
    for member in members:
        other = first.setdefault(member.digest, member)
        if other is not member:
            raise UserError(
                f"an ensemble names each network once: {other.where} and {member.where} hold the "
                "same weights"
            )


def _first(name: str, members: tuple[ClassifierSource, ...]) -> Any:
    """Return the value of the first member that has one."""
    return next((v for v in (getattr(each, name) for each in members) if v is not None), None)


def _say_whose_classes(trainings: Sequence[Training]) -> None:
    """Say which members do not name their classes, where others do."""
    naming = [where for where, trained in trainings if trained.get("classes")]
    for where, trained in trainings:
        if naming and not trained.get("classes"):
            log.warning(
                "%s does not name its classes: taken to be those of %s in their order",
                where, naming[0],
            )  # fmt: skip


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
