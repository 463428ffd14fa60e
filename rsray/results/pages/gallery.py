"""Some images of a result for its page: with noise, what they are, the answer, the radius."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from rsray.core.radius import round_down
from rsray.results.certificates import Certificates
from rsray.results.pages.page import escape

# Returns of some images of the result at a place the image [H, W, C], of 0..255, and noisy copies
# [S, H, W, C], of 0..1; nothing where the data are not at hand.
PicturesOf = Callable[[str, Sequence[int]], Sequence[tuple[np.ndarray, np.ndarray]]]
MOST_PIXELS = 112


def gallery_html(result: Certificates, place: str, pictures_of: PicturesOf) -> str:
    """Return pictures as HTML; empty where the images are not at hand."""
    rows = _chosen(result)
    pictures = pictures_of(place, result.index[rows].tolist())
    shown = zip(rows, pictures, strict=False)
    figures = "".join(_figure(result, row, image, copies[0]) for row, (image, copies) in shown)
    if not figures:
        return ""
    heading = f"<h2>Images of {escape(result.name)}</h2>"
    said = "<p>Right answers, easiest first, then wrong ones; each with noise beside it.</p>"
    return f'{heading}\n{said}\n<div class="gallery">{figures}</div>\n'


def _chosen(result: Certificates) -> list[int]:
    """Return rows: of the right answers the largest, middle and smallest radii, then wrong ones."""
    order = np.argsort(-result.radius, kind="stable")
    right, wrong = order[result.correct[order]], order[~result.correct[order]]
    middle = len(right) // 2
    parts = (right[:2], right[middle : middle + 2], right[-2:], wrong[:2])
    return list(dict.fromkeys(np.concatenate(parts).tolist()))


def _figure(result: Certificates, row: int, image: np.ndarray, copy: np.ndarray) -> str:
    truth, answer = result.class_name(int(result.label[row])), int(result.prediction[row])
    said = "abstains" if answer < 0 else result.class_name(answer)
    mark = "right" if result.correct[row] else "wrong" if answer >= 0 else "no answer"
    radius = f"{round_down(result.radius[row], 4):.4f}"
    text = f"{result.index[row]}: {truth}; answer {said} ({mark}), radius {radius}"
    noisy = np.rint(255 * np.clip(copy, 0.0, 1.0)).astype(np.uint8)
    images = _img(image, f"image {result.index[row]}, {truth}") + _img(noisy, "with noise")
    return f"<figure>{images}<figcaption>{escape(text)}</figcaption></figure>\n"


def _img(pixels_HWC: np.ndarray, described: str) -> str:
    picture, sink = Image.fromarray(pixels_HWC.squeeze()), io.BytesIO()
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    picture.save(sink, "PNG")
    data = base64.b64encode(sink.getvalue()).decode()
    return f'<img alt="{escape(described)}" src="data:image/png;base64,{data}">\n'
