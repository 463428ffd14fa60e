"""audit.json: what became of drawing some of a CERT's blocks again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.records import from_json, read_as

log = logging.getLogger(__name__)
AUDIT = "audit.json"
TABLE = "certificates.parquet"
# What becomes of checking a log of other code, or a CERT without its counts.
NO_COUNTS = "not possible: no counts"


class AuditRecord(BaseModel):
    """What is used of audit.json."""

    model_config = ConfigDict(frozen=True, strict=True)

    certificates_digest: str
    passed: bool
    blocks: int = Field(ge=0)
    stored_blocks: int = Field(ge=0)
    num_differences: int = Field(ge=0)
    p_value: float | None = None
    level: float

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        is_like = self.p_value is None or self.p_value >= self.level
        if self.passed != (is_like and not self.num_differences):
            raise ValueError("passed is not what the differences and the p-value say")
        if self.blocks > self.stored_blocks:
            raise ValueError("more blocks were drawn again than are stored")
        return self


def certificates_digest(cert: Place) -> str:
    """Return the SHA-256 of certificates.parquet, by which an audit says what it was of."""
    return hashlib.sha256(cert.read(TABLE)).hexdigest()


def read_audit(cert: Place) -> dict[str, Any] | None:
    """Return what audit.json says; None where there is none of these certificates."""
    if not cert.exists(AUDIT):
        return None
    try:
        found: dict[str, Any] = from_json(cert.read(AUDIT), AUDIT)
        digest = read_as(AuditRecord, found, AUDIT).certificates_digest
    except UserError:
        digest = ""
    if digest != certificates_digest(cert):
        log.warning("%s is no audit of these certificates and is not shown", cert / AUDIT)
        return None
    return found


def audit_text(audit: Mapping[str, Any] | None) -> str | None:
    """Return an audit in a few words, for a table."""
    if audit is None:
        return None
    outcome = "passed" if audit.get("passed") is True else "FAILED"
    return f"{outcome}, {audit.get('blocks'):,} of {audit.get('stored_blocks'):,} blocks"
