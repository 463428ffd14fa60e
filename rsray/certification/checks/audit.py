"""Stored blocks of counts against the same blocks drawn again: which ones, and what it shows."""

# Shapes: R blocks, N images, B blocks of an image as `block_numbers` counts them.
from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.certification.checks.differences import Difference, column_differences
from rsray.certification.checks.verify import Verification
from rsray.certification.counts.check import CheckedCounts
from rsray.certification.counts.pairs import in_order, same_network_p_value, unequal_blocks
from rsray.certification.counts.tables import FIRST_BLOCK, block_keys
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import CERT_FILE, COUNTS_DIGEST, TABLE, Claimed
from rsray.certification.networks.opening import open_source
from rsray.certification.recertify import DRAWN
from rsray.certification.request import CertificationRequest, open_certification
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.work_items import WorkItem
from rsray.config import AuditConfig, CertifyConfig
from rsray.core.bounds.hoeffding import HOEFFDING
from rsray.data.fingerprint import FingerprintRecord, is_same
from rsray.errors import UserError
from rsray.models.factory import refuse_factory_of_a_file
from rsray.results.audited import AUDIT, certificates_digest
from rsray.results.certificates import Certificates
from rsray.storage import Place
from rsray.storage.records import read_as
from rsray.versions import versions

log = logging.getLogger(__name__)
Ints = NDArray[np.int64]
DEFAULT_FRACTION, FEWEST_BLOCKS = 0.01, 20
# Differences that are named in audit.json.
MOST_RECORDED = 100
# Where counts cannot be equal, an audit of the same network fails with this probability at most.
LEVEL = 0.001
CHANGED = (1, 10, 100, 1000)
# Parts of the evaluation that decide the counts, beside the chip.
DECIDING = ("device", "precision", "memory_format", "batch_size", "compiled")


def open_audited(
    cert: Place,
    record: Mapping[str, Any],
    source: str,
    given: Mapping[str, Any],
    *,
    download: bool,
) -> CertificationRequest:
    """Return the certification that certify.yaml records, with the network at `source`.

    UserError when that is another network than the one certified, or anything else differs.
    """
    if record.get("reused_run"):
        raise UserError(
            f"{cert} rests on the counts of {record.get('reuse')}, of another network: audit that "
            "one, and certify without --reuse what is to be audited"
        )
    refuse_factory_of_a_file(record.get("model"), f"{cert}/{CERT_FILE}", given.get("model"))
    refuse_factory_of_a_file(
        record.get("denoiser"), f"{cert}/{CERT_FILE}", given.get("denoiser"), "--denoiser"
    )
    if not record.get("denoiser"):
        _check_digest(cert, record, source, open_source(source).digest)
    # As the counts were drawn: settings that only their bound takes are refused beside another.
    record = {**record, **record.get(DRAWN, {})}
    here = ("actors", "most_actors", "gpus_per_actor", "compile")
    kept = CertifyConfig.of_record(record).model_dump(exclude={*here})
    request = open_certification(source, {**kept, **given}, download=download)
    _check_digest(cert, record, source, request.source.digest)
    told = read_as(FingerprintRecord, record.get("images_fingerprint") or {}, f"{cert}/{CERT_FILE}")
    now = request.config.images_fingerprint or {}
    if not is_same(told.model_dump(exclude_none=True), now):
        raise UserError(
            f"{cert} certifies other images than those that are there now: give the data that were "
            "certified with --data-root"
        )
    if differences := request.config.differences(record):
        raise UserError(f"{source} is not what {cert} certifies: {'; '.join(differences)}")
    return request


def _check_digest(cert: Place, record: Mapping[str, Any], source: str, digest: str) -> None:
    if digest != record["model_digest"]:
        behind = " behind that denoiser" if record.get("denoiser") else ""
        raise UserError(
            f"{source}{behind} is not the network that {cert} certifies: the SHA-256 of its "
            f"weights is {digest[:12]}..., that of the certified ones "
            f"{record['model_digest'][:12]}..."
        )


@dataclass(frozen=True)
class Choice:
    """The blocks that are drawn again, and how they were chosen."""

    seed: int
    is_seed_given: bool
    num_stored: int
    index_R: Ints
    # As `block_numbers` counts them.
    block_R: Ints

    def __len__(self) -> int:
        """Return the number of chosen blocks."""
        return len(self.index_R)

    @property
    def keys(self) -> Ints:
        """What `block_keys` returns of them."""
        return (self.index_R << 32) + self.block_R

    def items(self, labels: Mapping[int, int]) -> list[WorkItem]:
        """Return the work that draws them again, an item for each."""
        pairs = zip(self.index_R.tolist(), self.block_R.tolist(), strict=True)
        return [
            WorkItem(index, labels[index], block - FIRST_BLOCK, 1, False, 0)
            if block >= FIRST_BLOCK
            else WorkItem(index, labels[index], 0, 0, True, -1)
            for index, block in pairs
        ]


def choose_blocks(counts: CheckedCounts, failed: Sequence[int], settings: AuditConfig) -> Choice:
    """Return stored blocks, chosen at random; of images that failed none.

    Without a seed of the user's nobody can know them beforehand.
    """
    is_there_NB = counts.copies_NB > 0
    is_there_NB[np.isin(counts.selected.indices, failed)] = False
    cells = np.flatnonzero(is_there_NB)
    wanted = settings.blocks or round((settings.fraction or DEFAULT_FRACTION) * len(cells))
    if settings.blocks is None and settings.fraction is None:
        wanted = min(len(cells), max(wanted, FEWEST_BLOCKS))
    wanted = max(1, wanted)
    if wanted > len(cells):
        raise UserError(f"blocks is {wanted}, but only {len(cells)} are stored")
    seed = secrets.randbits(48) if settings.seed is None else settings.seed
    chosen = np.sort(np.random.default_rng(seed).choice(cells, wanted, replace=False))
    position_R, block_R = np.unravel_index(chosen, is_there_NB.shape)
    index_R = counts.selected.indices[position_R]
    return Choice(seed, settings.seed is not None, len(cells), index_R, block_R.astype(np.int64))


def plan_of_blocks(claimed: Claimed) -> SamplingPlan:
    """Return the plan that draws a block alone; at-radius would draw all those before it.

    Sums that are stored are drawn too, though a bound made from them later needs none.
    """
    plan = replace(claimed.plan, at_radius=())
    has_more = claimed.store.has_sums() and not plan.bound.is_soft
    return replace(plan, bound_name=HOEFFDING.name) if has_more else plan


@dataclass(frozen=True)
class Audit:
    """What became of drawing blocks again."""

    path: str
    num_audited: int
    num_stored: int
    seed: int | None
    is_seed_given: bool
    differences: tuple[Difference, ...]
    # Blocks that had to be equal; the others were tested, for the reasons in `unlike`.
    num_exact: int
    p_value: float | None = None
    unlike: tuple[str, ...] = ()

    @classmethod
    def of_differences(cls, verified: Verification, differences: Sequence[Difference]) -> Audit:
        """Return the audit of a CERT of which nothing needs to be drawn again."""
        return cls(verified.path, 0, verified.num_blocks, None, False, tuple(differences), 0)

    @property
    def is_passed(self) -> bool:
        """Whether the stored counts are those of this network."""
        return not self.differences and (self.p_value is None or self.p_value >= LEVEL)

    def escape(self, changed: int) -> float:
        """Return how likely it is that none of so many changed blocks was drawn again."""
        left = self.num_stored - self.num_audited
        return math.prod(max(0, left - i) / (self.num_stored - i) for i in range(changed))

    def lines(self) -> list[str]:
        """Return the outcome in lines for people."""
        outcome = "passed" if self.is_passed else "FAILED"
        if not self.num_audited:
            return [
                f"{self.path}: audit {outcome}; nothing was drawn again, for what is stored does "
                "not agree"
            ]
        found = [
            f"{self.path}: audit {outcome}; {self.num_audited:,} of {self.num_stored:,} blocks "
            f"drawn again, chosen by seed {self.seed}",
            f"compared for equality: {self.num_exact:,} blocks; differences: "
            f"{len(self.differences):,}",
        ]
        if self.p_value is not None:
            found += [
                f"tested for homogeneity: {self.num_audited - self.num_exact:,} blocks, p-value "
                f"{self.p_value:.3g} (fails below {LEVEL:g}); not equal because "
                f"{'; '.join(self.unlike)}"
            ]
        risks = ", ".join(f"{changed:,}: {self.escape(changed):.2g}" for changed in self._changed)
        seen = "" if self.p_value is None else " (of the tested ones, if the test sees the change)"
        return [
            *found,
            f"probability that no changed block is drawn, by their number: {risks}{seen}",
        ]

    @property
    def _changed(self) -> list[int]:
        """Numbers of changed blocks of which it is said how likely they escape."""
        return [changed for changed in CHANGED if changed <= self.num_stored]

    def record(self) -> dict[str, Any]:
        """Return what audit.json says, but for what it is of."""
        return {
            "passed": self.is_passed,
            "blocks": self.num_audited,
            "stored_blocks": self.num_stored,
            "seed": self.seed,
            "seed_was_given": self.is_seed_given,
            "compared_exactly": self.num_exact,
            "num_differences": len(self.differences),
            "differences": [str(difference) for difference in self.differences[:MOST_RECORDED]],
            "p_value": self.p_value,
            "level": LEVEL,
            "not_exact_because": list(self.unlike),
            "escape_probability": {str(changed): self.escape(changed) for changed in self._changed},
        }


def compare(
    claimed: Claimed,
    choice: Choice,
    redrawn: Sequence[tuple[pa.Table, str]],
    evaluation: Evaluation,
) -> Audit:
    """Return how the chosen blocks compare with `redrawn`: tables, and the chip that counted each.

    They must be equal where evaluation, software and chip are those of the CERT; elsewhere it is
    tested whether both may come from one network.
    """
    was, reasons = claimed.evaluation.device_name, _unlike(claimed, evaluation)
    exact = [table for table, chip in redrawn if not reasons and was and chip == was]
    chips = sorted({chip for _, chip in redrawn if chip != was or not was})
    reasons += [f"{chip} counts, {was or 'an unknown chip'} did" for chip in chips]
    empty = plan_of_blocks(claimed).counts_schema.empty_table()
    parts = (in_order(part, choice.keys) for part in claimed.store.parts())
    stored = in_order(pa.concat_tables([empty, *parts]), choice.keys)
    whole = in_order(pa.concat_tables([empty, *(table for table, _ in redrawn)]), choice.keys)
    exact_keys = block_keys(pa.concat_tables([empty, *exact]))
    other_keys = np.setdiff1d(choice.keys, exact_keys)
    pairs = [(in_order(stored, keys), in_order(whole, keys)) for keys in (exact_keys, other_keys)]
    return Audit(
        str(claimed.folder),
        len(choice),
        choice.num_stored,
        choice.seed,
        choice.is_seed_given,
        tuple(unequal_blocks(*pairs[0])),
        len(exact_keys),
        same_network_p_value(*pairs[1]) if len(other_keys) else None,
        tuple(reasons),
    )


def _unlike(claimed: Claimed, evaluation: Evaluation) -> list[str]:
    """Return what keeps counts from being repeated exactly, apart from the chip."""
    mine, theirs = evaluation.record(), claimed.evaluation.record()
    found = [f"{n} is {mine[n]}, was {theirs[n]}" for n in DECIDING if mine[n] != theirs[n]]
    torch, was = versions().get("torch"), claimed.versions.get("torch")
    return [*found, *([f"torch is {torch}, was {was}"] if torch != was else [])]


def image_differences(request: CertificationRequest, stored: Certificates) -> list[Difference]:
    """Return what differs in the images from those of the data, and in their labels."""
    right = request.selected
    if not np.array_equal(stored.selected, right.indices):
        asked = f"the {len(right.indices)} that the settings select from the data"
        return [Difference(TABLE, "index", f"{len(stored.selected)} images", asked)]
    labels_N = right.labels[right.positions(stored.index)]
    return [*column_differences(TABLE, stored.index, {"label": stored.label}, {"label": labels_N})]


def is_of_counts_alone(difference: Difference) -> bool:
    """Tell whether a difference says that some count was changed, and no more."""
    return difference.what in (COUNTS_DIGEST, f"metadata {COUNTS_DIGEST}")


def write_audit(cert: Place, audit: Audit, model_digest: str) -> None:
    """Write audit.json; a CERT that cannot be written to keeps none, and a warning says so."""
    record = {
        **audit.record(),
        "versions": versions(),
        "model_digest": model_digest,
        "certificates_digest": certificates_digest(cert),
    }
    try:
        cert.write(AUDIT, json.dumps(record, indent=2).encode())
    except (OSError, UserError) as problem:
        log.warning("%s could not be written: %s", cert / AUDIT, problem)
