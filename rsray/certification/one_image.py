"""What a finished CERT holds of one image: its counts, the picture, and noisy copies of it."""

# Shapes: S copies, H W C an image.
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from rsray import data
from rsray.certification.data_check import fitted
from rsray.certification.folder import CERT_FILE, TABLE, finished_record, reopen
from rsray.config import READING, CertifyConfig
from rsray.core import NOISES
from rsray.core.noise import Affine, Stream
from rsray.data.fingerprint import FingerprintRecord, fingerprint, is_same
from rsray.errors import UserError
from rsray.results.certificates import read_certificates
from rsray.storage import Place
from rsray.storage.records import read_as


def estimation_counts(cert: Place, index: int) -> dict[int, int]:
    """Return how many estimation draws of an image fell on each class, most first."""
    store = reopen(cert, finished_record(cert)).store
    own = (pc.field("index") == index) & (pc.field("stage") == "estimation")
    # By block: a write that was broken off and repeated may have stored one twice.
    blocks = {row["block"]: row for part in store.parts() for row in part.filter(own).to_pylist()}
    counts: Counter[int] = Counter()
    for row in blocks.values():
        counts.update(dict(zip(row["classes"], row["counts"], strict=True)))
    return dict(counts.most_common())


class Pictures(NamedTuple):
    """An image and noisy copies of it; pixels of the copies are of [0, 1] plus noise."""

    image_HWC: NDArray[np.uint8]
    copies_SHWC: NDArray[np.float32]


def noisy_copies(
    cert: Place, indices: Sequence[int], *, copies: int, data_root: str | None = None
) -> list[Pictures]:
    """Return images and of each the first noisy copies that were counted.

    The images are looked for where the run found them, or below `data_root`. UserError when they
    are not there, or not those that were certified.
    """
    record = finished_record(cert)
    config = CertifyConfig.of_record(record)
    root = data_root if data_root is not None else config.data_root
    reading: dict[str, Any] = {name: getattr(config, name) for name in READING}
    split = data.open_split(config.dataset, config.split, root, **reading)
    known = {name: record.get(name) for name in ("dataset", "classes", "image_shape")}
    split = fitted(split, known, str(cert))
    certified = read_certificates(cert / TABLE)
    labels = dict(zip(certified.index.tolist(), certified.label.tolist(), strict=True))
    told = read_as(FingerprintRecord, config.images_fingerprint or {}, f"{cert}/{CERT_FILE}")
    is_known = is_same(told.model_dump(exclude_none=True), fingerprint(split, sampled=False))
    for index in indices:
        is_there = is_known and index < len(split)
        if not is_there or labels.get(index, split.labels[index]) != split.labels[index]:
            raise UserError(
                f"image {index} of {config.dataset} is not the one that {cert} certifies: give the "
                "data that were certified with --data-root"
            )
    images_NHWC = np.ascontiguousarray(split.images(indices).transpose(0, 2, 3, 1))
    noise, found = NOISES[config.noise].of(config.sigma), []
    for index, image_HWC in zip(indices, images_NHWC, strict=True):
        streams = [(Stream(config.seed, index, "estimation", 0), copies)]
        slabs = noise.noisy_slabs(torch.from_numpy(image_HWC), streams, Affine())
        shown = torch.cat([slab_SCHW.permute(0, 2, 3, 1).clone() for slab_SCHW in slabs])
        found.append(Pictures(image_HWC, shown.numpy()))
    return found
