"""The README.md of a trained network: what it is, what is certified of it, and how to load it.

Its head is what model hubs read (YAML between `---` lines, with a Hugging Face `model-index`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from rsray.config import TrainConfig
from rsray.core.radius import round_down
from rsray.errors import printable
from rsray.storage.yaml_files import to_yaml

# Settings that are listed in this order; others behind them where they are not as usual.
SETTINGS = (
    "dataset", "model", "objective", "sigma", "settings", "epochs", "batch_size", "optimizer",
    "lr", "lr_schedule", "lr_drops", "weight_decay", "precision", "seed", "preset", "normalisation",
)  # fmt: skip
PROTOCOL = {
    "split": "images of",
    "dataset": "data set",
    "sigma": "sigma",
    "n0": "selection draws",
    "n": "estimation draws",
    "alpha": "alpha",
    "bound": "bound",
    "noise": "noise",
    "sampling": "sampling",
    "precision": "precision",
}
# Characters that mean something in Markdown.
_MARKED = re.compile(r"([\\`*_{}\[\]<>#|~!])")
EXACT = "The noise is exact on the grid of 8-bit images, so that this holds in floating point too."
ROUNDED = (
    "The noise is rounded in floating point: a network made to exploit that could be given a "
    "certificate that is false (Voracek and Hein, ICLR 2023)."
)


def model_card(
    record: Mapping[str, Any],
    *,
    name: str,
    method: str,
    summary: Mapping[str, Any] | None = None,
) -> str:
    """Return the card of a RUN, of which `record` is what run.yaml holds.

    `method` is the objective in a line, with its paper. `summary` is what summary.json of its
    certificates holds, None before it is certified.
    """
    model, classes = str(record["model"]), [text_of(each) for each in record["classes"]]
    known = summary or {}
    template = resources.files(__package__).joinpath("model_card.txt").read_text()
    return template.format(
        head=to_yaml(_front_matter(record, name, summary)).decode(),
        name=text_of(name),
        model=text_of(model),
        sigma=record["sigma"],
        images=" x ".join(map(str, record["image_shape"])),
        classes=", ".join(classes[:20])
        + (f", ... ({len(classes)} in all)" if classes[20:] else ""),
        dataset=text_of(record["dataset"]),
        method=text_of(method),
        certified=_certified(summary),
        alpha=known.get("alpha", 0.001),
        smoothed=_smoothed(known, record["sigma"]),
        noise=EXACT if known.get("noise", "grid") == "grid" else ROUNDED,
        named_model=f'model="{printable(model)}"' if ":" in model else "",
        num_classes=len(classes),
        settings="\n".join(f"| {key} | {text_of(value)} |" for key, value in _settings(record)),
    )


def is_same_but_for_figures(card: str, other: str) -> bool:
    """Tell whether two cards differ in nothing but what is certified: nobody has edited either."""

    def rest(text: str) -> list[str]:
        intro, *sections = text.partition("\n---\n")[2].split("\n## ")
        return [intro, *sections[2:]]

    return rest(card) == rest(other)


def certified_in(card: str) -> tuple[int, bool, int]:
    """Return of how many images a card's figures are, whether an ACR is one, and of how many draws.

    A card without figures is of 0 images.
    """
    found = re.search(r"^([\d,]+) images; images of (.*)", card, re.MULTILINE)
    if not found:
        return 0, False, 0
    draws = re.search(r"\bestimation draws (\d+)", found[2])
    images, has_acr = int(found[1].replace(",", "")), "| average certified radius (ACR) |" in card
    return images, has_acr, int(draws[1]) if draws else 0


def text_of(value: Any) -> str:
    """Return a value as one line of plain Markdown, whoever named it."""
    return _MARKED.sub(r"\\\1", printable(str(value)))


def _smoothed(summary: Mapping[str, Any], sigma: float) -> str:
    """Return which class the certified classifier gives, and under which noise."""
    noise = f"under noise of standard deviation {summary.get('sigma', sigma):g}"
    if summary.get("smoothing") == "soft":
        return f"the class that this network gives the largest mean probability {noise}"
    return f"the class that this network gives most often {noise}"


def _front_matter(
    record: Mapping[str, Any], name: str, summary: Mapping[str, Any] | None
) -> dict[str, Any]:
    tags = ["randomized-smoothing", "certified-robustness", "adversarial-robustness"]
    found: dict[str, Any] = {
        "library_name": "rsray",
        "pipeline_tag": "image-classification",
        "tags": [*tags, str(record["objective"]), str(record["dataset"])],
    }
    if summary is not None:
        found["model-index"] = [{"name": printable(name), "results": [_result(summary)]}]
    return found


def _result(summary: Mapping[str, Any]) -> dict[str, Any]:
    data = str(summary["dataset"])
    figures = [
        ("certified accuracy", f" at l2 radius {r}", a) for r, a in _accuracies(summary).items()
    ]
    if _has_acr(summary):
        figures.insert(0, ("average certified radius", "", summary["acr"]))
    return {
        "task": {"type": "image-classification", "name": "certified image classification"},
        "dataset": {"name": data, "type": data, "split": str(summary.get("split", "test"))},
        "metrics": [
            {"type": kind.replace(" ", "_"), "name": f"{kind}{at}", "value": float(value)}
            for kind, at, value in figures
        ],
    }


def _accuracies(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return certified accuracy by radius, where it is known."""
    known = summary.get("at_radius") or summary["certified_accuracy"]
    return {radius: accuracy for radius, accuracy in known.items() if accuracy is not None}


def _has_acr(summary: Mapping[str, Any]) -> bool:
    """Tell whether there is an ACR: not of a run that decided a few radii alone."""
    return summary.get("acr") is not None and not summary.get("at_radius")


def _certified(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "Not yet: `rsray certify` measures it, and writes it here."
    rows = {
        f"certified accuracy at radius {radius}": f"{accuracy:.1%}"
        for radius, accuracy in _accuracies(summary).items()
    }
    if _has_acr(summary):
        error = summary.get("acr_standard_error")
        margin = f" (standard error {error:.4f})" if error is not None else ""
        acr = f"{float(round_down(summary['acr'], 4)):.4f}{margin}"
        rows = {"average certified radius (ACR)": acr, **rows}
    known = {words: summary[key] for key, words in PROTOCOL.items() if summary.get(key) is not None}
    protocol = ", ".join(f"{words} {text_of(value)}" for words, value in known.items())
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    return (
        f"{summary['num_selected']:,} images; {protocol}. Radii are l2, in pixels "
        "of [0, 1]. An image that is classified wrong, abstained on or failed counts 0.\n\n"
        f"| | |\n|---|---:|\n{table}"
    )


def _settings(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are listed, those of the objective by their own names."""
    for key in SETTINGS:
        value = record.get(key)
        if isinstance(value, Mapping):
            yield from value.items()
        elif value is not None and value != []:
            yield key, value
    if record.get("init"):
        yield "init", _start(record)
    for key, field in TrainConfig.model_fields.items():
        usual = [None, field.default]
        if key not in (*SETTINGS, *TrainConfig.where_fields) and record.get(key) not in usual:
            yield key, record[key]


def _start(record: Mapping[str, Any]) -> str:
    """Return whose weights it began with: the folder's name and digest, not the way there."""
    name = str(record["init"]).rstrip("/").rpartition("/")[2]
    known = record.get("earlier_results")
    digest = known.get("init") if isinstance(known, Mapping) else None
    return f"the weights of {name}" + (f", SHA-256 {digest}" if digest else "")
