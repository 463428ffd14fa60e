"""Where each result on a page comes from, and what became of checking it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rsray.results.audited import NO_COUNTS, audit_text
from rsray.results.certificates import Certificates
from rsray.results.pages.page import escape, facts_html
from rsray.storage.address import printable_address

UNKNOWN, NOT_AUDITED = "unknown", "not yet: rsray audit CERT RUN"
WRITERS = ("rsray", "torch")


def provenance_html(
    results: Sequence[Certificates], places: Sequence[str], verified: Sequence[str]
) -> str:
    """Return a table for each result; `verified` says of each what `rsray verify` found."""
    each = zip(results, places, verified, strict=True)
    parts = (
        f"<h3>{escape(result.name)}</h3>\n{facts_html(_facts(result, *more))}"
        for result, *more in each
    )
    return f"<h2>Provenance</h2>\n{''.join(parts)}" if results else ""


def _facts(result: Certificates, place: str, verified: str) -> dict[str, str]:
    told, is_own = result.metadata, "format" not in result.metadata
    written = told.get("versions")
    versions: dict[str, Any] = written if isinstance(written, dict) else {}
    digest, denoiser = (str(told.get(name) or "") for name in ("model_digest", "denoiser"))
    facts = {
        "network": [
            str(told.get("model") or ""),
            f"behind the denoiser {printable_address(denoiser)}" if denoiser else "",
            f"SHA-256 {digest[:12]}" if digest else "",
        ],
        "images": [str(told.get(name) or "") for name in ("dataset", "split")],
        "evaluated on": [str(told.get(name) or "") for name in ("device_name", "precision")],
        "made with": [f"{name} {versions[name]}" for name in WRITERS if name in versions],
        "seed": [str(told.get("seed", ""))],
    }
    return {
        "lies in": printable_address(place),
        **{name: ", ".join(filter(None, parts)) or UNKNOWN for name, parts in facts.items()},
        "verified": verified,
        "audit": audit_text(told.get("audit")) or (NOT_AUDITED if is_own else NO_COUNTS),
    }
