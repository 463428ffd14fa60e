"""Whether images are such as a network was trained for, and were not trained on themselves."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rsray.data import DATASETS, ImageSplit
from rsray.data.fingerprint import seen_before
from rsray.data.reading.derived import Relabelled
from rsray.errors import UserError

log = logging.getLogger(__name__)
# Copies under other names that data may have: beyond this part of the images they are refused.
FEW_COPIES = 0.01


def fitted(split: ImageSplit, trained: Mapping[str, Any], where: str) -> ImageSplit:
    """Return the split with its classes numbered as the network at `where` numbers them.

    `trained` is what run.yaml, or a checkpoint's metadata, records of the training data: `dataset`,
    `classes`, `image_shape`, `data_fingerprint`; what it does not record is not compared. Raises
    UserError when the data have a class of another name, or images of another shape, or when
    images of a test split were trained on.
    """
    _check_shape(split, trained.get("image_shape"), where)
    split = _renumbered(split, trained, where)
    if split.split == "test":
        _check_unseen(split, trained.get("data_fingerprint") or {}, where)
    return split


def _check_shape(split: ImageSplit, shape: Sequence[int] | None, where: str) -> None:
    if shape is None or tuple(shape) == split.image_shape:
        return
    channels, height, width = shape
    own = DATASETS[split.name].is_own
    options = [f"--image-size {height}"] if height == width else []
    options += [f"--channels {channels}"] if channels != split.image_shape[0] else []
    hint = f"; {' '.join(options)} would make them so" if own and options else ""
    raise UserError(
        f"{where} was trained on images of {_shown(shape)} (channels x height x width), those of "
        f"{split.name} ({split.split}) are {_shown(split.image_shape)}{hint}"
    )


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _renumbered(split: ImageSplit, trained: Mapping[str, Any], where: str) -> ImageSplit:
    """Return the split with the recorded classes' numbers; UserError for classes of other names."""
    recorded = trained.get("classes")
    if recorded is None or tuple(recorded) == split.classes:
        return split
    unknown = [name for name in split.classes if name not in recorded]
    # A name that both have, at another place, says that the order is another one.
    places, own = _places(split.classes), _places(recorded)
    is_in_order = all(places.get(name, at) == at for name, at in own.items())
    if unknown and is_in_order and _is_numbered_alike(split, trained):
        log.warning(
            "%s calls its classes %s, ...: taken to be those of %s in their order",
            where, ", ".join(recorded[:3]), split.name,
        )  # fmt: skip
        return split
    if unknown:
        missing = [name for name in recorded if name not in split.classes]
        missed = f", and not {missing[0]!r}" if missing else ""
        raise UserError(
            f"{where} knows {len(recorded)} classes ({', '.join(recorded[:3])}, ...); the data "
            f"have {len(split.classes)}, among them {unknown[0]!r}{missed}: classes are told by "
            "their names, give data with the same"
        )
    if twice := [name for name in split.classes if name not in own or name not in places]:
        raise UserError(
            f"two classes are called {twice[0]!r}, and the data number theirs in another order "
            f"than {where}: classes are told by their names, give data in the same order"
        )
    log.warning(
        "%s: its %d classes are not those of %s in their order: they are taken by name",
        split.name, len(split.classes), where,
    )  # fmt: skip
    return Relabelled.by_name(split, tuple(recorded))


def _places(classes: Sequence[str]) -> dict[str, int]:
    """Return the number of each class that has a name of its own."""
    count = Counter(classes)
    return {name: at for at, name in enumerate(classes) if count[name] == 1}


def _is_numbered_alike(split: ImageSplit, trained: Mapping[str, Any]) -> bool:
    """Tell whether classes of other names are in one order: a known data set's, or ImageNet's."""
    spec = DATASETS[split.name]
    if not trained.get("dataset"):
        return not spec.is_own
    are_all = len(trained["classes"]) == split.num_classes == spec.ordered_classes
    return are_all and trained["dataset"] == split.name


def _check_unseen(split: ImageSplit, fingerprint: Mapping[str, Any], where: str) -> None:
    """Raise UserError for test images that the fingerprint's sample shows to be trained on.

    An image of the same name and content was trained on. Copies under other names occur in many
    collections: a few are named in a warning, many are refused.
    """
    seen = seen_before(split, fingerprint)
    found = (*seen.by_name, *seen.by_content)
    if not found:
        return
    example = split.image_names[found[0]]
    message = (
        f"{len(found)} of {seen.looked_at} test images looked at are images that {where} was "
        f"trained on (for example {example})"
    )
    if seen.by_name or len(found) > FEW_COPIES * seen.looked_at:
        raise UserError(f"{message}: give other test data, or say --split train")
    log.warning("%s", message)
