"""What rsray's Python functions return: results on disk or an object store, opened when asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from rsray.config import TrainConfig, TuneConfig
from rsray.errors import UserError
from rsray.progress import Watch
from rsray.results import sanity
from rsray.results.certificates import Certificates, read_table
from rsray.results.compare import load
from rsray.results.summary import read_summary
from rsray.storage import Place, read_file
from rsray.storage.records import read_as
from rsray.storage.yaml_files import from_yaml
from rsray.training.run_folder.metrics import read_metrics

if TYPE_CHECKING:
    from torch import nn

    from rsray.distributed.search.winner import Finals


@dataclass(frozen=True)
class Result:
    """A folder that a command wrote: a local path or a URI."""

    path: str

    def __fspath__(self) -> str:
        """Return the path, so that a result may be given wherever a path may."""
        return self.path

    @property
    def place(self) -> Place:
        """Where the files are."""
        return Place.of(self.path)


@dataclass(frozen=True)
class Run(Result):
    """A trained classifier: a RUN folder."""

    @cached_property
    def config(self) -> TrainConfig:
        """The settings it was trained with, every one spelled out."""
        return TrainConfig.of_record(self._record)

    @cached_property
    def _record(self) -> dict[str, Any]:
        from rsray.certification.networks.opening import TRAINED

        name = f"{self.path}/run.yaml"
        record = from_yaml(read_file(self.place / "run.yaml"), name)
        read_as(TRAINED, record, name)
        missing = [key for key in ("classes", "image_shape") if record.get(key) is None]
        if missing:
            raise UserError(f"{name} does not say {missing[0]}")
        return record

    @property
    def metrics(self) -> pa.Table:
        """A row per epoch: loss, lr, noisy_accuracy, draws_per_second, seconds, ..."""
        return pa.Table.from_pylist(read_metrics(self.place))

    def model(self, model: str | None = None) -> nn.Module:
        """Return the base classifier in evaluation mode: images in [0, 1] to logits.

        A factory that the RUN names, `package.module:factory`, must be named by `model` too.
        """
        from rsray.certification.networks.opening import open_source

        channels, height, width = self._record["image_shape"]
        shape = (int(channels), int(height), int(width))
        return (
            open_source(self.path).given(model=model).network(shape, len(self._record["classes"]))
        )

    def card(self, summary: Mapping[str, Any] | None = None) -> str:
        """Return the README.md of the network, with the figures of a summary.json."""
        from rsray.results.model_card import model_card

        method = sys.modules[type(self.config.build_objective()).__module__].__doc__ or ""
        return model_card(
            self._record, name=self.place.name, method=method.splitlines()[0], summary=summary
        )

    @property
    def is_denoiser(self) -> bool:
        """Whether it returns images, to be put before a classifier, in place of logits."""
        return self.config.build_objective().makes_images

    def write_card(self, summary: Mapping[str, Any] | None = None) -> None:
        """Write it into the folder, unless somebody has edited the one that is there.

        Figures of fewer images, or of as many by fewer draws or without an ACR, do not take the
        place of those that are there. A denoiser has none, for it is no classifier.
        """
        from rsray.results.model_card import certified_in, is_same_but_for_figures

        if self.is_denoiser:
            return
        card, name = self.card(summary), "README.md"
        there = self.place.read(name).decode(errors="replace") if self.place.exists(name) else card
        is_no_less = certified_in(card) >= certified_in(there)
        if is_no_less and is_same_but_for_figures(there, card):
            self.place.write(name, card.encode())

    def export(
        self, out: Place, *, summary: Mapping[str, Any] | None, onnx: bool, model: str | None
    ) -> None:
        """Write the network, its configuration and its card into a folder that others load."""
        from rsray.results import export

        weights = {"model.safetensors": self.place.read("model.safetensors")}
        if onnx:
            channels, height, width = self._record["image_shape"]
            weights[export.ONNX] = export.onnx_bytes(self.model(model), (channels, height, width))
        export.write_export(out, self._record, weights, self.card(summary))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: how the training went, and its settings."""
        from rsray.results.pages import notebook

        return notebook.training_html(self.place.name, read_metrics(self.place), self._record)

    def warn(self, watch: Watch) -> None:
        """Tell when the training ended no better than guessing."""
        last = (read_metrics(self.place) or [{}])[-1]
        if (accuracy := last.get("noisy_accuracy")) is not None:
            dropped = int(last.get("classes_dropped") or 0)
            classes = len(self._record["classes"])
            _warn(watch, sanity.training_warning(accuracy, classes, dropped))


@dataclass(frozen=True)
class Certification(Result):
    """Certified radii of test images: a CERT folder."""

    @cached_property
    def table(self) -> pa.Table:
        """A row per image: index, label, prediction (-1 = abstain), radius, correct, ..."""
        return read_table(self.place / "certificates.parquet")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What summary.json holds: acr, certified_accuracy, abstained, draws, ..."""
        return read_summary(self.place / "summary.json")

    @property
    def acr(self) -> float:
        """The average certified radius (l2, pixels in [0, 1]) over all selected images."""
        return float(self.summary["acr"])

    def curve(self, step: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
        """Return radii [R] and the fraction of images certified and correct at each [R]."""
        found = self.certificates()
        radii = np.arange(0.0, float(found.radius.max(initial=0.0)) + step, step)
        return radii, found.accuracy_at(radii)

    def certificates(self) -> Certificates:
        """Return the certificates as arrays, for `report` and comparisons."""
        return load(self.path)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the ACR, the radius-accuracy curve and the table."""
        from rsray.results.pages import notebook

        return notebook.certificates_html(self.certificates())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes by label, as the run knows them."""
        return tuple(self.summary.get("classes") or ())

    def warn(self, watch: Watch) -> None:
        """Tell when the certificates look like a constant predictor's, or nothing is certified."""
        if "at_radius" not in self.summary:
            answers, labels = (np.asarray(self.table[name]) for name in ("prediction", "label"))
            _warn(watch, sanity.certificates_warning(answers, labels, self.acr, self.classes))


class EarlyStopping(NamedTuple):
    """Trials that were stopped early, of all, and the epochs trained, of those of whole trials."""

    stopped: int
    trials: int
    trained: int
    whole: int

    def __str__(self) -> str:
        """Return it in a line."""
        share = self.trained / max(1, self.whole)
        return (
            f"{self.stopped:,} of {self.trials:,} trials stopped early: {self.trained:,} epochs of "
            f"trials were trained in place of {self.whole:,} ({share:.0%})"
        )


@dataclass(frozen=True)
class Study(Result):
    """A search: a TUNE folder."""

    finals: Finals

    @cached_property
    def config(self) -> TuneConfig:
        """The settings of the search."""
        record = from_yaml(read_file(self.place / "tune.yaml"), f"{self.path}/tune.yaml")
        return TuneConfig.of_record(record)

    @cached_property
    def trials(self) -> pa.Table:
        """A row per trial: number, state, projected_acr, clean_accuracy, its settings, ..."""
        return read_table(self.place / "trials.parquet")

    def warn(self, watch: Watch) -> None:
        """Tell when all complete trials tie, or the winner's certificates show nothing learnt."""
        complete = [row for row in self.trials.to_pylist() if row["state"] == "complete"]
        _warn(watch, sanity.search_warning([row["projected_acr"] for row in complete]))
        if self.place.exists("best/certificates/summary.json"):
            Certification((self.place / "best" / "certificates").uri).warn(watch)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the trials, the best first, and the winner's result."""
        from rsray.results.pages import notebook

        winner = self.certification
        shown = winner.certificates() if winner is not None else None
        return notebook.search_html(self.trials, shown)

    @property
    def early_stopping(self) -> EarlyStopping:
        """What stopping trials early has saved, in epochs; trials that failed are left out."""
        rows = [row for row in self.trials.to_pylist() if row["state"] in ("complete", "pruned")]
        whole = self.config.trial_epochs or self.config.train.epochs
        return EarlyStopping(
            sum(row["state"] == "pruned" for row in rows),
            len(rows),
            sum(row.get("epoch") or 0 for row in rows),
            sum(int(row.get("epochs") or whole) for row in rows),
        )

    def write_cards(self) -> None:
        """Write the README.md of the winner, and of what it is compared with, where they are."""
        for name in ("best", "paper"):
            certificates = self.place / name / "certificates"
            if certificates.exists("summary.json"):
                Run((self.place / name).uri).write_card(Certification(certificates.uri).summary)

    @property
    def best(self) -> Run | None:
        """The winner, trained on all training images; None with final=False."""
        return Run((self.place / "best").uri) if self.finals.best is not None else None

    @property
    def certification(self) -> Certification | None:
        """The winner's certificates; None with final=False."""
        certificates = self.place / "best" / "certificates"
        return Certification(certificates.uri) if self.finals.best is not None else None


class Predictions(NamedTuple):
    """The smoothed classifier's class of each image, or abstention."""

    # index, label, prediction (-1 = abstain), p_value, label_name, prediction_name
    table: pa.Table
    # Image index -> why it has no row
    failed: dict[str, str]
    # What was done to images before the network
    normalisation: str

    @property
    def warning(self) -> str | None:
        """What to say of predictions that are nearly all of one class; None otherwise."""
        columns = self.table.to_pydict()
        answers, labels = (np.asarray(columns[name]) for name in ("prediction", "label"))
        pairs = zip(columns["prediction"], columns["prediction_name"], strict=True)
        return sanity.predictions_warning(answers, labels, dict(pairs))


def _warn(watch: Watch, warning: str | None) -> None:
    if warning is not None:
        watch.say(f"warning: {warning}")
