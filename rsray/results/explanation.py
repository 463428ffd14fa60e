"""One image's certificate in words for somebody who has read no paper, and as a picture."""

# Shapes: S copies, H W C an image.
from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import special

from rsray.core.radius import round_down
from rsray.errors import UserError, printable
from rsray.results.certificates import Certificates
from rsray.results.plots.style import save, text_of
from rsray.storage import PathLike

BOUNDS = {
    "clopper-pearson": "Clopper and Pearson",
    "randomized-clopper-pearson": "Stevens (randomized Clopper-Pearson)",
    "tcertify": "Clopper and Pearson, for the first two classes",
    "hoeffding": "Hoeffding",
    "bernstein": "Maurer and Pontil (empirical Bernstein)",
}
MOST_OTHERS = 5
NUM_COPIES = 7


@dataclass(frozen=True)
class Explanation:
    """One certificate: what was counted, what follows, and for which changes of the image."""

    index: int
    label: str
    prediction: str | None
    radius: float
    lines: tuple[str, ...]
    counts: Mapping[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the text, a paragraph a line."""
        return "\n".join(map(printable, self.lines))

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return "".join(f"<p>{html.escape(printable(line))}</p>" for line in self.lines)


def explain(
    result: Certificates, index: int, counts: Mapping[int, int] | None = None
) -> Explanation:
    """Return the certificate of an image in words; UserError for one that was not certified.

    `counts` are the estimation draws of each class, where they are stored.
    """
    if index in result.failed:
        raise UserError(f"image {index} has no certificate: {result.failed[index]}")
    found = np.flatnonzero(result.index == index)
    if not len(found):
        raise UserError(
            f"{result.name} has no certificate of image {index}; it has those of "
            f"{', '.join(map(str, result.index[:5].tolist()))}, ..."
        )
    image = _Image(result, int(found[0]), dict(counts or {}))
    prediction = image.prediction
    lines = (image.verdict(), *image.evidence(), *image.meaning())
    name = image.name(prediction) if prediction >= 0 else None
    label = image.name(int(result.label[image.row]))
    return Explanation(index, label, name, image.radius, lines, image.counts)


@dataclass(frozen=True)
class _Image:
    """A row of certificates and what was counted for it."""

    result: Certificates
    row: int
    counts: dict[int, int]

    @property
    def prediction(self) -> int:
        return int(self.result.prediction[self.row])

    @property
    def radius(self) -> float:
        return float(self.result.radius[self.row])

    @property
    def is_soft(self) -> bool:
        return bool(self.result.metadata.get("smoothing") == "soft")

    def name(self, label: int) -> str:
        """Return a class as people call it."""
        if label < 0:
            return "a class that the file does not name"
        named = self.result.class_name(label)
        return f"class {label}" if named == str(label) else f"{named} (class {label})"

    def verdict(self) -> str:
        """Return what the classifier said, and whether that is right."""
        result, at = self.result, self.row
        where = " ".join(
            str(result.metadata[k]) for k in ("dataset", "split") if k in result.metadata
        )
        image = f"Image {result.index[at]}{f' of {where}' if where else ''}"
        truth = f"it shows {self.name(int(result.label[at]))}"
        if result.skipped[at]:
            return (
                f"{image}: {truth}. The first few noisy copies were mostly called something else, "
                "so it was not looked at further: it counts as wrong, with no radius."
            )
        if self.prediction == -1 and result.has_labels:
            return f"{image}: {truth}. The classifier abstains: its answer is not certain enough."
        said = self.name(self.prediction)
        verdict = "which is right" if result.correct[at] else "which is WRONG"
        return f"{image}: {truth}. The classifier says {said}, {verdict}."

    def evidence(self) -> list[str]:
        """Return what was counted and what bound follows; nothing where that is not known."""
        result, at = self.result, self.row
        n, sigma, alpha = int(result.n[at]), result.parameter("sigma"), result.parameter("alpha")
        if n <= 0 or sigma is None or alpha is None:
            return []
        looked = (
            f"Counted: noise of standard deviation {sigma:g} (pixels run from 0 to 1) was added to "
            f"the image {n:,} times, and the network named a class for each noisy copy."
        )
        hits = int(result.count_a[at])
        # Of an abstention the row does not name the class whose draws were counted.
        counted = (label for label, count in self.counts.items() if count == hits)
        top = self.prediction if self.prediction >= 0 else next(counted, -1)
        # With --reuse the bound rests on another network's counts, too.
        if top >= 0 and not result.metadata.get("reused_run"):
            share = 100 * round_down(hits / n, 4)
            looked += f" {hits:,} of them ({share:.2f} %) it called {self.name(top)}"
            looked += f"; the others {self._others(top, n)}." if hits < n else "."
        lower = 100 * round_down(result.p_a_lower[at], 6)
        bound = BOUNDS.get(str(result.parameter("bound")), str(result.parameter("bound")))
        only = "" if self.prediction >= 0 else "it is only certain that "
        what = "the mean probability of that class is " if self.is_soft else ""
        tail = "" if self.is_soft else " of them get that name"
        return [
            looked,
            f"Bound: of all noisy copies that there could be, {only}{what}at least "
            f"{lower:.4f} %{tail}. This "
            f"statement is wrong with probability {alpha:g} at most (bound of {bound})."
            + ("" if self.prediction >= 0 else " More than half are needed for an answer."),
        ]

    def _others(self, top: int, n: int) -> str:
        """Return what the other draws were called, where the counts say it."""
        others = [(label, count) for label, count in self.counts.items() if label != top and count]
        if sum(self.counts.values()) != n or not others:
            return "something else"
        more = " and less often others" if len(others) > MOST_OTHERS else ""
        named = (f"{self.name(label)} ({count:,})" for label, count in others[:MOST_OTHERS])
        return ", ".join(named) + more

    def meaning(self) -> list[str]:
        """Return what the radius allows, and what it does not say."""
        if self.prediction < 0 and not (self.result.correct[self.row] and self.radius > 0):
            return ["Guarantee: none for this image. In the figures it counts as radius 0."]
        radius = f"{round_down(self.radius, 4):.4f}"
        least = ", or more: the draws stopped once the radii that were asked were decided"
        lines = [
            f"Radius: {radius}{least if self.result.at_radius else ''}{self._formula()}.",
            "Guarantee, where the bound is right: whoever changes the image, by whatever method, "
            f"cannot change the answer as long as the change is no larger than {radius}: the "
            f"square root of the sum of the squared changes of all pixel values.{self._scale()}",
            "It is a statement about the smoothed classifier, which answers by "
            f"{'the mean probability' if self.is_soft else 'such a vote'} over noisy copies, and "
            "about this image alone.",
        ]
        if not self.result.correct[self.row]:
            lines.append("The answer is wrong: it counts as radius 0 in every figure.")
        if self.result.metadata.get("noise") == "float32":
            lines.append("The noise was float32: rounding is not covered (--noise grid covers it).")
        return lines

    def _formula(self) -> str:
        """Return how the radius follows from the bounds."""
        sigma, p_a = self.result.parameter("sigma"), float(self.result.p_a_lower[self.row])
        if sigma is None or math.isnan(p_a):
            return ""
        shown = f"{round_down(p_a, 6):.6f}"
        if abs(sigma * special.ndtri(p_a) - self.radius) < 1e-9:
            return f" = {sigma:g} x the standard normal quantile of {shown}"
        p_b = min(float(self.result.p_b_upper[self.row]), 1 - p_a)
        return (
            f" = {sigma:g} / 2 x (the standard normal quantile of {shown}, minus that of "
            f"{1 - round_down(1 - p_b, 6):.6f}, the most that any other class gets)"
        )

    def _scale(self) -> str:
        """Return how much the radius is for a single pixel value and for all of them."""
        shape = self.result.metadata.get("image_shape")
        if not shape:
            return ""
        values = math.prod(shape)
        each = 255 * self.radius / math.sqrt(values)
        one = (
            "even to its opposite"
            if self.radius >= 1
            else (f"by {round_down(100 * self.radius, 1):.1f} % of the range from black to white")
        )
        return (
            f" For example, a single pixel value may be changed {one}; or all {values:,} of them "
            f"by {round_down(each, 2):.2f} of 255 steps each."
        )


def draw(
    found: Explanation,
    image_HWC: np.ndarray,
    copies_SHWC: np.ndarray,
    path: PathLike,
) -> None:
    """Write a picture of an image and noisy copies of it, as .png, .svg or .pdf."""
    pictures = [image_HWC / 255.0, *copies_SHWC]
    columns = -(-len(pictures) // 2)
    figure = Figure(figsize=(1.6 * columns, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, picture in zip(figure.subplots(2, columns).flat, pictures, strict=False):
        shown = np.clip(picture, 0.0, 1.0)
        axes.imshow(shown.squeeze(), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axes.set_title("the image" if picture is pictures[0] else "with noise", fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    answer = found.prediction or "abstains"
    radius = f"{round_down(found.radius, 4):.4f}"
    title = [f"Image {found.index}: {found.label}", f"answer: {answer}, radius {radius}"]
    figure.suptitle("\n".join(map(text_of, title)), fontsize=9)
    save(figure, path)
