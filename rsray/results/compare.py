"""Load results from wherever they lie, and say how they are unlike before anyone compares them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from rsray.core.bounds import BOUNDS
from rsray.data.fingerprint import WHAT_IT_COVERS, FingerprintRecord
from rsray.errors import UserError
from rsray.results.audited import read_audit
from rsray.results.certificates import Certificates, read_certificates
from rsray.results.reading.cohen import is_log, read_log
from rsray.results.summary import read_summary
from rsray.storage import PathLike, Place
from rsray.storage.address import absolute, parent_and_name, printable_address
from rsray.storage.records import read_as
from rsray.storage.yaml_files import from_yaml

EXPECTED = (
    "a CERT folder (with certificates.parquet), a TUNE folder (with best/certificates), "
    "a certificates.parquet, a Cohen-format log (idx, label, predict, radius, correct, time), "
    "a .mat file of MACER's, or a folder of such"
)
COMPARED = ("dataset", "split", "sigma", "n0", "n", "alpha", "bound")
COMPARED_WHERE_KNOWN = ("inverse_temperature", "noise", "smoothing", "label_column")
# What a folder without certificates holds, and what it then is.
UNFINISHED = {
    "certify.yaml": "an unfinished certification: run `rsray certify` again with its --out",
    "counts": "an unfinished certification: run `rsray certify` again with its --out",
    "tune.yaml": "an unfinished search: run `rsray tune` again with its --out",
    "run.yaml": "a training run without certificates: run `rsray certify` on it first",
}
# Images that failed, in a warning.
MOST_NAMED = 3
# What a folder is called inside a run says nothing about the run.
GENERIC_NAMES = ("certificates", "best", "")


def load(path: PathLike) -> Certificates:
    """Return the result at a path or URI, named after it; raises UserError for anything else."""
    text = printable_address(os.fspath(path))
    place = Place.of(path)
    if not place.exists():
        raise UserError(f"{path} does not exist; expected {EXPECTED}")
    if not place.is_file():
        return _load_folder(place, text)
    if text.endswith(".parquet"):
        return read_certificates(path, name=_run_name(os.path.dirname(absolute(text))))
    if text.endswith(".tsv") or is_log(path):
        name = os.path.basename(text).removesuffix(".tsv").removesuffix(".csv")
        return read_log(path, name=name)
    raise UserError(f"{path} is no result; expected {EXPECTED}")


def tell_apart(
    results: Sequence[Certificates], names: Sequence[str], places: Sequence[str]
) -> list[Certificates]:
    """Return the results under these names; of equal names each says where its result lies."""
    twice = {name for name in names if names.count(name) > 1}
    pairs = zip(names, places, strict=True)
    shown = [f"{name} ({place})" if name in twice else name for name, place in pairs]
    return [replace(result, name=name) for result, name in zip(results, shown, strict=True)]


def failures(results: Sequence[Certificates]) -> list[str]:
    """Return one warning for each result with images that failed: how many, which, and why."""
    warnings = []
    for result in results:
        named = [f"image {index}: {why}" for index, why in list(result.failed.items())[:MOST_NAMED]]
        more = " ..." if len(result.failed) > len(named) else ""
        if named:
            warnings.append(
                f"{result.name}: {len(result.failed)} of {len(result.selected)} images failed and "
                f"count 0 ({'; '.join(named)}{more})"
            )
    return warnings


def skipped_otherwise(results: Sequence[Certificates]) -> list[str]:
    """Return a warning for each result whose images a bound of the other kind skipped."""
    warnings = []
    for result in results:
        drawn, bound = result.parameter("drawn_with"), result.parameter("bound")
        was = drawn.get("bound") if isinstance(drawn, dict) and result.skipped.any() else bound
        kinds = {BOUNDS[name].is_soft for name in map(str, (was, bound)) if name in BOUNDS}
        if len(kinds) > 1:
            warnings.append(
                f"{result.name}: its images were skipped where {was} missed their label, not where "
                f"{bound} does; they count 0, so its ACR may be below that of a run with {bound}"
            )
    return warnings


def differences(results: Sequence[Certificates]) -> list[str]:
    """Return one warning, naming the values, for each way in which results are unlike.

    An unknown value (published logs have many) is neither equal nor unequal: one warning lists all.
    """
    if len(results) < 2:
        return []
    warnings = unlike_images(results)
    if not all(np.array_equal(result.selected, results[0].selected) for result in results):
        sets = _describe_sets(results)
        warnings.insert(0, f"the images differ (--common compares on those that all share): {sets}")
    for name in (*COMPARED, *COMPARED_WHERE_KNOWN):
        warnings += unlike(name, ((each.name, each.parameter(name)) for each in results))
    warnings += _unlike_data(results)
    asked = unlike("draws per image", ((each.name, _draws_asked(each)) for each in results))
    warnings += [f"{text}; fewer make radii smaller" for text in asked]
    warnings += unlike("what abstained counts", ((r.name, _may_abstain(r)) for r in results))
    return [*warnings, *_unknown(results)]


def _unlike_data(results: Sequence[Certificates]) -> list[str]:
    """Return a warning where results of one split are not of the same data, as far as they say."""
    if any(unlike(key, ((r.name, r.parameter(key)) for r in results)) for key in COMPARED[:2]):
        return []
    told = [(each.name, each.parameter("images_fingerprint") or {}) for each in results]
    marks = {key: [(name, data.get(key)) for name, data in told] for key in WHAT_IT_COVERS}
    found = [text for key, values in marks.items() for text in unlike(f"data ({key})", values)]
    return [f"{text}; an index may not be the same image" for text in found[:1]]


def _draws_asked(result: Certificates) -> str:
    """Return in words how many draws an image got: n unless it is told otherwise, as of logs."""
    tolerance = result.parameter("tolerance")
    return "n" if tolerance is None else f"fewer than n, tolerance {tolerance:g}"


def _may_abstain(result: Certificates) -> str | None:
    """Return in words which images abstentions are counted of; None where they are not shown."""
    if result.at_radius or result.abstained is None:
        return None
    return "images that were not skipped" if result.skipped.any() else "all images"


def unlike(what: str, named: Iterable[tuple[str, Any]]) -> list[str]:
    """Return a warning where values (of each name one) differ; None is none."""
    holders = _names_by(named)
    values = (f"{value} ({', '.join(names)})" for value, names in holders.items())
    return [f"{what} differs: {', '.join(values)}"] if len(holders) > 1 else []


def common_indices(results: Sequence[Certificates]) -> np.ndarray:
    """Return the sorted indices [N] that all results share; raises UserError when there is none."""
    shared: np.ndarray = reduce(np.intersect1d, [result.selected for result in results])
    if not len(shared):
        raise UserError(f"the results share no image: {_describe_sets(results)}")
    return shared


def restrict(results: Sequence[Certificates], indices: np.ndarray) -> list[Certificates]:
    """Return the results on those images only; raises ValueError when a result lacks one."""
    indices = np.unique(indices)
    for result in results:
        if missing := len(np.setdiff1d(indices, result.selected)):
            raise ValueError(f"{result.name} lacks {missing} of {len(indices)} images")
    return [part_of(result, indices, name=result.name) for result in results]


def part_of(result: Certificates, indices: np.ndarray, *, name: str) -> Certificates:
    """Return a result on some of its images, under that name; images that failed stay failed."""
    # These no longer describe what is left.
    stale = ("indices", "seconds", "draws", "failed", "failed_labels", "audit")
    metadata = {key: value for key, value in result.metadata.items() if key not in stale}
    metadata |= {"n": result.parameter("n"), "n0": result.parameter("n0")}
    for key, values in (("failed", result.failed), ("failed_labels", result.failed_labels)):
        kept = {str(index): value for index, value in values.items() if index in indices}
        metadata |= {key: kept} if kept else {}
    keep = np.isin(result.index, indices)
    columns = {column: values[keep] for column, values in result.columns().items()}
    return Certificates(name=name, metadata=metadata, **columns)


def by_class(result: Certificates) -> list[Certificates]:
    """Return a result for each true class that it has, named "result: class", in class order.

    A class without a recorded name is called by its number. An image that failed is in its class
    where its label is known. UserError for a result that does not hold the classes.
    """
    if not result.has_labels:
        raise UserError(f"{result.name} does not hold the classes of its images")
    failed = result.failed_labels
    index = np.concatenate([result.index, np.fromiter(failed.keys(), np.int64)])
    label = np.concatenate([result.label, np.fromiter(failed.values(), np.int32)])
    return [
        part_of(result, index[label == c], name=f"{result.name}: {result.class_name(c)}")
        for c in np.unique(label).tolist()
    ]


def cert_folder(path: PathLike) -> Place | None:
    """Return the CERT at a path, inside the TUNE there, or whose file it is; None without one.

    Its files are what `rsray verify` looks at: the certificates, and logs that lie beside them.
    """
    place = Place.of(path)
    if place.is_file():
        folder, name = parent_and_name(place.uri)
        is_checked = name == "certificates.parquet" or name.endswith((".tsv", ".csv"))
        cert = Place(folder)
        return cert if is_checked and cert.is_file("certificates.parquet") else None
    for inside in (place, place / "best" / "certificates", place / "certificates"):
        if inside.is_file("certificates.parquet"):
            return inside
    return None


def _load_folder(place: Place, folder: str) -> Certificates:
    inside = cert_folder(place)
    if inside is not None:
        table = inside / "certificates.parquet"
        found = read_certificates(table, name=_run_name(absolute(folder)))
        more = {
            "audit": read_audit(inside),
            "seconds": _seconds(inside),
            **_recorded(inside),
        }
        known = {key: value for key, value in more.items() if value is not None}
        return replace(found, metadata={**found.metadata, **known})
    entries = place.names()
    reason = next((text for name, text in UNFINISHED.items() if name in entries), None)
    raise UserError(f"{folder} is {reason or f'a folder that is no run; expected {EXPECTED}'}")


def _seconds(cert: Place) -> float | None:
    """Return how long the draws of a CERT took; None where its summary does not say it."""
    try:
        seconds: float | None = read_summary(cert / "summary.json").get("seconds")
    except UserError:
        return None
    return seconds


def _recorded(cert: Place) -> dict[str, Any]:
    """Return what a CERT's certify.yaml tells of its data, and of the bound it was drawn with."""
    where = f"{cert}/certify.yaml"
    found: dict[str, Any] = {}
    try:
        record = from_yaml((cert / "certify.yaml").read_bytes(), where)
        found["drawn_with"] = record.get("drawn_with")
        told = read_as(FingerprintRecord, record.get("images_fingerprint"), where)
        found["images_fingerprint"] = told.model_dump(exclude_none=True)
    except UserError:
        return found
    return found


def _run_name(folder: str) -> str:
    """Return the last part of a path that names the run."""
    parts = [part for part in Path(folder).parts if part not in GENERIC_NAMES]
    return parts[-1] if parts else folder


def unlike_images(results: Sequence[Certificates]) -> list[str]:
    """Return a warning for each sign that an index does not mean the same image everywhere."""
    shapes = (
        (each.name, " x ".join(map(str, shape)))
        for each in results
        if (shape := each.parameter("image_shape"))
    )
    radii = ", and l2 radii of different sizes do not compare"
    unlike_shapes = [f"{warning}{radii}" for warning in unlike("image_shape", shapes)]
    return [*unlike_labels(results), *unlike_shapes, *_unlike_classes(results)]


def _unlike_classes(results: Sequence[Certificates]) -> list[str]:
    """Return a warning naming the first class that has not the same name everywhere."""
    named = [(each.name, each.parameter("classes")) for each in results]
    named = [(name, classes) for name, classes in named if classes]
    counts = unlike("the number of classes", ((name, len(classes)) for name, classes in named))
    if counts or not named:
        return counts
    for label in range(len(named[0][1])):
        if found := unlike(f"class {label}", ((name, classes[label]) for name, classes in named)):
            return found
    return []


def unlike_labels(results: Sequence[Certificates]) -> list[str]:
    """Return a warning when an index does not mean the same image everywhere."""
    known, labels = results[0].index[:0], results[0].label[:0]
    unequal = []
    for other in results:
        # A negative label is unknown.
        is_told = other.label >= 0
        index, label = other.index[is_told], other.label[is_told]
        _, mine, theirs = np.intersect1d(known, index, return_indices=True)
        count = int(np.sum(labels[mine] != label[theirs]))
        if count:
            unequal.append(f"{other.name} ({count} of the {len(mine)} shared indices)")
        is_new = ~np.isin(index, known)
        known = np.concatenate([known, index[is_new]])
        labels = np.concatenate([labels, label[is_new]])
    if not unequal:
        return []
    before = results[0].name if len(results) == 2 else "the results before"
    cause = "not the same data, or not in the same order"
    return [f"labels differ from those of {before}, {cause}: {', '.join(unequal)}"]


def _describe_sets(results: Sequence[Certificates]) -> str:
    holders = _names_by((each.name, describe_indices(each.selected)) for each in results)
    return "; ".join(f"{', '.join(names)}: {images}" for images, names in holders.items())


def describe_indices(index: np.ndarray) -> str:
    """Return a sorted index set [N] in words: "500 images (0, 20 ... 9980)"."""
    if len(index) == 1:
        return f"1 image ({index[0]})"
    steps = np.unique(np.diff(index))
    regular = f"{index[0]}, {index[1]} ... {index[-1]}"
    irregular = f"some of {index[0]} to {index[-1]}"
    return f"{len(index)} images ({regular if len(steps) == 1 else irregular})"


def _names_by(named: Iterable[tuple[str, Any]]) -> dict[Any, list[str]]:
    """Return the names that have each value; None is none."""
    holders: dict[Any, list[str]] = {}
    for name, value in named:
        if value is not None:
            holders.setdefault(value, []).append(name)
    return holders


def _unknown(results: Sequence[Certificates]) -> list[str]:
    # Logs never say their noise: that is told beside a result that does.
    is_noise_told = any(result.parameter("noise") is not None for result in results)
    asked = (*COMPARED, "noise") if is_noise_told else COMPARED

    def missing(result: Certificates) -> str | None:
        names = [name for name in asked if result.parameter(name) is None]
        return ", ".join([*names, *([] if result.has_labels else ["labels"])]) or None

    holders = _names_by((result.name, missing(result)) for result in results)
    lists = [f"{lacking} ({', '.join(names)})" for lacking, names in holders.items()]
    return [] if not lists else [f"unknown, so not compared: {'; '.join(lists)}"]
