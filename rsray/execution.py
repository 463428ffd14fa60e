"""How a command is carried out: what it announces, a dry run, its tracker, where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

from rsray.errors import UserError
from rsray.outcomes import Certification, Run, Study
from rsray.progress import Watch, duration
from rsray.screen import watching
from rsray.storage import Place
from rsray.storage.address import path_text
from rsray.tracking import check_tracker, tracked

if TYPE_CHECKING:
    from rsray.certification.request import CertificationRequest
    from rsray.distributed.search.request import SearchRequest

Where = str | PathLike[str]


class Execution(NamedTuple):
    """What train, tune and certify are told beside their settings; no part of any result."""

    out: Where | None = None
    address: str | None = None
    download: bool = False
    dry_run: bool = False
    track: str | None = None
    progress: Watch | bool = True

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Execution:
        """Return what the parameters of a function say of it."""
        found = cls(**{name: parameters[name] for name in cls._fields})
        check_tracker(found.track)
        return found

    @property
    def may_download(self) -> bool:
        """Whether data that are missing are fetched: a dry run writes nothing."""
        return self.download and not self.dry_run

    def train(self, flat: Mapping[str, Any], config_file: Where | None) -> Run:
        """Train by flat settings, over those of a file."""
        from rsray.distributed.train import trainer
        from rsray.training.request import open_training

        with watching(self.progress) as watch:
            request = open_training(flat, config_file=config_file, download=self.may_download)
            chosen = request.config
            where = folder_of(self.out, "train", chosen.dataset, chosen.objective, chosen.sigma)
            place, run, started = Place.of(where), Run(where), datetime.now()
            _say_each(watch, request.announcement(where))
            if self.dry_run:
                from rsray.distributed import dry_run

                _say_each(watch, dry_run.training(request, place, self.address))
                return run
            with tracked(self.track, watch, place, chosen.model_dump(mode="json")) as told:
                did_train = trainer.train(
                    chosen, place, request.split, address=self.address, on_progress=told.training
                )
                if did_train:
                    run.write_card()
            spent = duration((datetime.now() - started).total_seconds())
            watch.say(f"trained in {spent}" if did_train else "was trained already: nothing to do")
            run.warn(watch)
        return run

    def certify(self, source: Where, given: Mapping[str, Any]) -> Certification:
        """Certify what the source holds."""
        from rsray.certification.request import open_certification
        from rsray.distributed.certify import certifier

        with watching(self.progress) as watch:
            request = open_certification(path_text(source), given, download=self.may_download)
            chosen = request.config
            where = folder_of(self.out, "certify", chosen.dataset, chosen.sigma)
            place, found = Place.of(where), Certification(where)
            watch.say(request.announcement(where))
            if self.dry_run:
                from rsray.distributed import dry_run

                _say_each(watch, dry_run.certification(request, place, self.address))
                return found
            with tracked(self.track, watch, place, chosen.model_dump(mode="json")) as told:
                certifier.certify(
                    request, place, address=self.address, on_progress=told.certifying, say=told.say
                )
            _fill_card(request, found)
            found.warn(watch)
        return found

    def search(
        self,
        searches: Sequence[SearchRequest],
        places: Sequence[Place],
        on_study: Callable[[Study], None],
    ) -> list[Study]:
        """Run searches one after another; the UserError of one is raised after those behind it."""
        if self.dry_run:
            return self._dry_searches(searches, places)
        # Ray: after what can be refused without it.
        from rsray.distributed.search import tuner

        for place, found in zip(places, searches, strict=True):
            tuner.claim_tune(place, found.config, found.train)
        studies, problems = [], []
        for place, found in zip(places, searches, strict=True):
            try:
                study = self._search_one(found, place)
            except UserError as problem:
                if len(searches) == 1:
                    raise
                problems.append(f"sigma {found.config.train.sigma:g}: {problem}")
                continue
            on_study(study)
            studies.append(study)
        if problems:
            raise UserError("; ".join(problems))
        return studies

    def _search_one(self, found: SearchRequest, place: Place) -> Study:
        from rsray.distributed.search import tuner

        with watching(self.progress) as watch:
            _say_each(watch, found.announcement(str(place)))
            recorded = found.config.model_dump(mode="json")
            with tracked(self.track, watch, place, recorded) as told:
                finals = tuner.tune(found.config, place, address=self.address, watch=told)
                study = Study(path_text(place), finals)
                study.write_cards()
            study.warn(watch)
        return study

    def _dry_searches(
        self, searches: Sequence[SearchRequest], places: Sequence[Place]
    ) -> list[Study]:
        from rsray.distributed import dry_run
        from rsray.distributed.search.winner import Finals

        with watching(self.progress) as watch:
            for place, found in zip(places, searches, strict=True):
                _say_each(watch, found.announcement(str(place)))
                _say_each(watch, dry_run.search(found, place, self.address))
        return [Study(path_text(place), Finals()) for place in places]


def _fill_card(request: CertificationRequest, found: Certification) -> None:
    """Write what is certified of its own test images into the card of a RUN that can be written.

    Not by noise that it was not trained for: those figures are other ones.
    """
    source, chosen = request.source, request.config
    is_run = bool(source.trained and source.weights) and not (source.published or source.denoiser)
    trained = (source.trained.get("dataset"), source.trained.get("sigma"))
    is_own = chosen.split == "test" and trained == (chosen.dataset, chosen.sigma)
    # Even the current folder may be gone: certificates do not depend on a card.
    with suppress(OSError, UserError):
        if is_run and is_own and Place.of(source.where).is_dir():
            Run(source.where).write_card(found.summary)


def _say_each(watch: Watch, lines: Iterable[str]) -> None:
    for line in lines:
        watch.say(line)


def folder_of(out: Where | None, command: str, *parts: object) -> str:
    """Return where a result goes: OUT, or a new folder; UserError before anything is said."""
    if out is None:
        return new_folder(command, *parts)
    place = Place.of(out)
    if place.exists() and not place.is_dir():
        raise UserError(f"{path_text(out)} is a file: --out needs a folder")
    return path_text(out)


def new_folder(command: str, *parts: object) -> str:
    """Return a name for a result in ./runs that is not taken."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return "/".join(["runs", "-".join([command, *map(str, parts), stamp])])
