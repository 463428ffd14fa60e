"""Where each result on a page comes from, and what became of checking it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rsray.results.audited import audit_text
from rsray.results.certificates import Certificates
from rsray.results.pages.page import table_html
from rsray.storage.address import printable_address

HEADER = (
    "result",
    "lies in",
    "network",
    "images",
    "evaluated on",
    "made with",
    "verified",
    "audit",
)
UNKNOWN, NOT_AUDITED = "unknown", "not yet: rsray audit CERT RUN"
# Of a log of other code.
NO_COUNTS = "not possible: no counts"


def provenance_html(
    results: Sequence[Certificates], places: Sequence[str], verified: Sequence[str]
) -> str:
    """Return a table of the results; `verified` says of each what `rsray verify` found."""
    rows = [_row(*each) for each in zip(results, places, verified, strict=True)]
    return f"<h2>Provenance</h2>\n{table_html(HEADER, rows)}\n" if rows else ""


def _row(result: Certificates, place: str, verified: str) -> list[str]:
    told, is_own = result.metadata, "format" not in result.metadata
    written = told.get("versions")
    versions: dict[str, Any] = written if isinstance(written, dict) else {}
    digest = str(told.get("model_digest") or "")
    network = [str(told.get("model") or ""), f"SHA-256 {digest[:12]}" if digest else ""]
    images = [str(told.get(name) or "") for name in ("dataset", "split")]
    hardware = [str(told.get(name) or "") for name in ("device_name", "precision")]
    made_with = [f"{name} {versions[name]}" for name in ("rsray", "torch") if name in versions]
    seed = [f"seed {told['seed']}"] if told.get("seed") is not None else []
    audit = audit_text(told.get("audit")) or (NOT_AUDITED if is_own else NO_COUNTS)
    parts = (network, images, hardware, [*made_with, *seed])
    facts = (", ".join(filter(None, part)) or UNKNOWN for part in parts)
    return [result.name, printable_address(place), *facts, verified, audit]
