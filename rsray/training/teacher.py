"""The targets that a teacher gives each training image: its counts in a CERT of the same images."""

# Shapes: N images, K classes, R rows of counts.
from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsray.certification.counts.store import Selected
from rsray.certification.counts.tables import class_entries, column
from rsray.certification.folder import TABLE, Claimed, finished_record, reopen
from rsray.data import ImageSplit
from rsray.data.fingerprint import FingerprintRecord, fingerprint, is_same
from rsray.errors import UserError
from rsray.objectives import Objective
from rsray.results.certificates import read_certificates
from rsray.storage import Place
from rsray.storage.records import read_as

Indices = NDArray[np.int64]
log = logging.getLogger(__name__)


def targets_of(
    objective: Objective, split: ImageSplit, indices_N: Indices, *, warn: bool = False
) -> Tensor | None:
    """Return the share of the teacher's draws in each class [N, K], None for no teacher.

    All draws of an image count, those of the selection too; `warn` says where some images have
    fewer than others. UserError where the CERT is not of these images, or of not all of them.
    """
    if objective.teacher is None:
        return None
    refuse_without_teacher(objective)
    cert = Place.of(objective.teacher)
    was = reopen(cert, finished_record(cert))
    _check_images(was, split)
    shares_NK, draws_N = _shares(was, indices_N, split.num_classes)
    is_short_N = draws_N < draws_N.max()
    if warn and is_short_N.any():
        log.warning(
            "teacher %s: the targets of %s of %s images are of fewer draws than %s, the least of "
            "%s: its sampling is %s; certify with --sampling fixed for equal ones",
            cert, f"{is_short_N.sum():,}", f"{len(draws_N):,}",
            f"{draws_N.max():,.0f}", f"{draws_N.min():,.0f}", was.config.sampling,
        )  # fmt: skip
    return torch.from_numpy(shares_NK)


def refuse_without_teacher(objective: Objective) -> None:
    """Raise UserError for an objective that wants a teacher and was given none."""
    if objective.teacher == "":
        raise UserError(
            "the objective has no teacher: give --set teacher=CERT, of `rsray certify RUN --split "
            "train`; catrs-self does without"
        )


def _check_images(was: Claimed, split: ImageSplit) -> None:
    """Raise UserError unless a certification is of the images of this split, as it stands."""
    config, cert = was.config, was.folder
    if config.reused_run:
        raise UserError(f"teacher {cert} was made with --reuse: half of its counts are another's")
    recorded: Any = config.images_fingerprint
    if config.split != split.split or recorded is None:
        raise UserError(f"teacher {cert} is of the {config.split} split: certify --split train")
    if config.dataset != split.name:
        raise UserError(f"teacher {cert} is of {config.dataset}, not of {split.name}")
    read_as(FingerprintRecord, recorded, f"{cert}: images_fingerprint")
    if tuple(config.classes) != split.classes or config.image_shape != split.image_shape:
        raise UserError(f"teacher {cert} has other classes or shapes of images than {split.name}")
    if not is_same(recorded, fingerprint(split, sampled=False)):
        raise UserError(
            f"teacher {cert} is of other images than those to train on: {recorded.get('images')} "
            f"then, {len(split)} now, or others of the same number"
        )


def _shares(
    was: Claimed, indices_N: Indices, num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the share of the draws in each class [N, K], and the draws of each image [N].

    Raises UserError for an image without all its draws.
    """
    found = read_certificates(was.folder / TABLE)
    lost = np.setdiff1d(indices_N, found.index)
    if len(lost):
        raise UserError(
            f"teacher {was.folder} has no counts of {len(lost):,} of the {len(indices_N):,} images "
            f"to train on, such as image {lost[0]}: certify all of them (--split train --skip 1)"
        )
    # A failed image has counts, but no certificate.
    indices = found.selected.astype(np.int64)
    selected = Selected(indices, np.full(len(indices), -1))
    shares_NK = np.zeros((len(indices), num_classes), dtype=np.float32)
    for table in was.store.blocks(selected):
        entries = class_entries(table)
        cell = (selected.positions(column(table, "index"))[entries.row_E], entries.class_E)
        np.add.at(shares_NK, cell, entries.values["counts"])
    draws_N = shares_NK.sum(1)
    is_whole = draws_N[selected.positions(found.index)] >= found.n0 + found.n
    if not is_whole.all():
        raise UserError(
            f"teacher {was.folder} lacks counts of image {found.index[~is_whole][0]}: run "
            "`rsray certify` again with its --out"
        )
    shares_NK /= draws_N[:, None].clip(1)
    positions_N = selected.positions(indices_N)
    return shares_NK[positions_N], draws_N[positions_N]
