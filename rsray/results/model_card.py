"""The README.md of a trained network: what it is, what is certified of it, and how to load it.

Its head is what model hubs read (YAML between `---` lines, with a Hugging Face `model-index`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rsray.core.radius import round_down
from rsray.errors import printable
from rsray.storage.yaml_files import to_yaml

# Settings that are listed, in this order; what decides less stands in run.yaml.
SETTINGS = (
    "dataset", "model", "objective", "sigma", "settings", "epochs", "batch_size", "optimizer",
    "lr", "lr_schedule", "lr_drops", "weight_decay", "precision", "seed", "preset", "normalisation",
)  # fmt: skip
PROTOCOL = {
    "split": "images of",
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
COHEN = (
    "Cohen, Rosenfeld, Kolter: Certified Adversarial Robustness via Randomized Smoothing, ICML 2019"
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
    head = to_yaml(_front_matter(record, name, summary)).decode()
    sections = (
        _about(record, name, method),
        _certified(summary),
        _guarantee(record, summary),
        _loading(record),
        _settings(record),
        _citation(method),
    )
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


def text_of(value: Any) -> str:
    """Return a value as one line of plain Markdown, whoever named it."""
    return _MARKED.sub(r"\\\1", printable(str(value)))


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
    metrics = [
        {
            "type": "certified_accuracy",
            "name": f"certified accuracy at l2 radius {radius}",
            "value": float(accuracy),
        }
        for radius, accuracy in _accuracies(summary).items()
    ]
    if _has_acr(summary):
        acr = {
            "type": "average_certified_radius",
            "name": "average certified radius",
            "value": float(summary["acr"]),
        }
        metrics.insert(0, acr)
    return {
        "task": {"type": "image-classification", "name": "certified image classification"},
        "dataset": {"name": data, "type": data, "split": str(summary.get("split", "test"))},
        "metrics": metrics,
    }


def _accuracies(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return certified accuracy by radius, where it is known."""
    known = summary.get("at_radius") or summary["certified_accuracy"]
    return {radius: accuracy for radius, accuracy in known.items() if accuracy is not None}


def _has_acr(summary: Mapping[str, Any]) -> bool:
    """Tell whether there is an ACR: not of a run that decided a few radii alone."""
    return summary.get("acr") is not None and not summary.get("at_radius")


def _about(record: Mapping[str, Any], name: str, method: str) -> str:
    channels, height, width = record["image_shape"]
    classes = [text_of(each) for each in record["classes"]]
    shown = ", ".join(classes[:20]) + (f", ... ({len(classes)} in all)" if classes[20:] else "")
    return (
        f"# {text_of(name)}\n\n"
        f"An image classifier ({text_of(record['model'])}) that was trained to be smoothed with "
        f"Gaussian noise of standard deviation {record['sigma']:g}, in pixels of [0, 1], so that "
        "the smoothed classifier has certified l2 radii.\n\n"
        f"- Images: {channels} x {height} x {width} (channels, height, width), values in [0, 1].\n"
        f"- Classes: {shown}.\n"
        f"- Data: {text_of(record['dataset'])}.\n"
        f"- Method: {text_of(method)}"
    )


def _certified(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return (
            "## Certified\n\nNot yet: `rsray certify` measures it, `rsray export` writes it here."
        )
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
        f"## Certified\n\n{summary['num_selected']:,} images; {protocol}. Radii are l2, in pixels "
        "of [0, 1]. An image that is classified wrong, abstained on or failed counts 0.\n\n"
        f"| | |\n|---|---:|\n{table}"
    )


def _guarantee(record: Mapping[str, Any], summary: Mapping[str, Any] | None) -> str:
    alpha = (summary or {}).get("alpha", 0.001)
    grid = (
        "The noise is exact on the grid of 8-bit images, so that this holds in floating point too."
        if (summary or {}).get("noise", "grid") == "grid"
        else "The noise is rounded in floating point: a network made to exploit that could be "
        "given a certificate that is false (Voracek and Hein, ICLR 2023)."
    )
    return (
        "## What is guaranteed, and what is not\n\n"
        "A certificate belongs to one image. With probability at least "
        f"{1 - float(alpha):.4g} over the random draws, the SMOOTHED classifier (the class that "
        f"this network gives most often under noise of standard deviation {record['sigma']:g}) "
        "gives the same class to every image that is nearer than the certified radius in l2 "
        f"distance. {grid}\n\n"
        "Nothing is said of this network without noise, of other distances than l2, of changes "
        "beyond the radius, or of images that were not certified."
    )


def _loading(record: Mapping[str, Any]) -> str:
    model = printable(str(record["model"]))
    named = f'model="{model}"' if ":" in model else ""
    return (
        "## Use\n\n```python\nimport rsray\n\n"
        f'network = rsray.Run("FOLDER").model({named})\n'
        "smoothed = rsray.SmoothedClassifier(\n"
        f"    network, sigma={record['sigma']:g}, num_classes={len(record['classes'])}\n"
        ")\n"
        "# image: [C, H, W] in [0, 1]\n"
        "smoothed.certify(image, n0=100, n=100_000, alpha=0.001)\n"
        "```\n\n`FOLDER` is the one that holds this file. `rsray certify FOLDER --data-root DATA` "
        "certifies a test set."
    )


def _settings(record: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {text_of(value)} |" for key, value in _settings_of(record))
    return f"## Settings\n\n| setting | value |\n|---|---|\n{rows}"


def _settings_of(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in SETTINGS:
        value = record.get(key)
        if isinstance(value, Mapping):
            yield from value.items()
        elif value is not None and value != []:
            yield key, value


def _citation(method: str) -> str:
    return (
        f"## Citation\n\nThe certificates: {COHEN}. The training: {text_of(method)} The software: "
        "rsray (its CITATION.cff)."
    )
