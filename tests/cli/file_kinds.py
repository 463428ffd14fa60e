"""The kinds of files that rsray reads, how each is mutated, and what reads it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mutations
from command_line import command
from real_files import (
    CERTIFIED,
    EVALUATION,
    SAID,
    certify_run,
    search_digits,
    write_shard,
)

from rsray import outcomes
from rsray.certification.counts.gathering import gather
from rsray.certification.folder import claim
from rsray.certification.request import open_certification
from rsray.distributed.search.request import open_search
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.search import StudySearcher
from rsray.distributed.search.study import find_winner, open_study, write_trials
from rsray.errors import UserError
from rsray.storage import Place

CLUSTER = Path(__file__).resolve().parents[2] / "clusters" / "local.yaml"
EDITED = {"head": "10.0.0.1", "worker-1": "10.0.0.2", "worker-2": "10.0.0.3", "user": "ray"}


def make_files(base, run):
    """Make one of everything below a folder, around a RUN that there is."""
    shutil.copytree(run, base / "run")
    certify_run(base / "run", base / "cert")
    certify_run(base / "run", base / "soft", bound="hoeffding", sampling="skip")
    search_digits(base / "tune")
    (base / "web").mkdir()
    for name in ("train", "test"):
        write_shard(base / "web" / f"{name}.tar", SAID)
    text = CLUSTER.read_text()
    for blank, answer in EDITED.items():
        text = text.replace(f"EDIT-{blank}", answer)
    (base / "cluster.yaml").write_text(text)


def lines(*texts):
    """Return what runs each command line, {at} being the folder of the files."""
    return [lambda at, text=text: command(*text.format(at=at).split()) for text in texts]


def refusing(work):
    """Return what does the work of a command that needs Ray, whose UserError is its exit 2."""

    def act(at):
        try:
            work(at)
        except UserError as problem:
            assert "\n" not in str(problem)

    return act


@refusing
def continue_certification(at):
    request = open_certification(str(at / "run"), CERTIFIED)
    claimed = claim(Place.of(at / "cert"), request.config, EVALUATION)
    gather(claimed.store, request.selected, claimed.plan, drop_damaged=True).evidence()


@refusing
def continue_search(at):
    file, out = at / "tune" / "tune.yaml", Place.of(at / "tune")
    search = resolve_search(open_search({}, {}, search=[], grid=[], config_file=file).config)
    study = open_study(out, search)
    StudySearcher(search, study).suggest("x")
    write_trials(out, study, search)
    find_winner(study)


@refusing
def open_run(at):
    run = outcomes.Run(str(at / "run"))
    _ = run.config, run.metrics
    run.model()
    run.warn(outcomes.Watch())


@refusing
def open_cert(at):
    cert = outcomes.Certification(str(at / "cert"))
    _ = cert.table, cert.acr, cert.classes
    cert.curve()
    cert.warn(outcomes.Watch())


@dataclass(frozen=True)
class Kind:
    """A kind of file: where one is, how it is mutated, and what reads it."""

    file: str
    mutate: Callable
    readers: list
    # verify says 1 where the files of a CERT do not agree.
    allowed: tuple = (0, 2)
    # Of the readers: the one that takes least time to read all of the file.
    quickest: int = 0

    def original(self, base):
        (path,) = sorted(base.glob(self.file))[:1]
        return path.read_bytes()

    def place(self, at, content):
        (path,) = sorted(at.glob(self.file))[:1]
        path.write_bytes(content)


class Sample(Kind):
    """The .json of a sample in a tar file."""

    def original(self, base):
        return SAID

    def place(self, at, content):
        write_shard(at / self.file, content)


ASKED = "--n0 10 --n 90 --block-size 40 --alpha 0.05 --skip 90"
SAME_TRAINING = "train --dataset digits --objective gaussian --epochs 1 --precision fp32 --limit 120 --out {at}/run"
REUSE = "certify {at}/run --reuse {at}/cert --out {at}/new"
CERT = [
    *lines(
        "verify {at}/cert",
        "report {at}/cert {at}/soft --by-class --html {at}/page.html",
        "recertify {at}/cert --alpha 0.06 --out {at}/again",
        "audit {at}/cert {at}/run",
        "certify {at}/run --out {at}/cert " + ASKED,
    ),
    continue_certification,
    open_cert,
]
VERIFIED = (0, 1, 2)
RUN_LINES = lines(
    "predict {at}/run --limit 1 --n 20",
    "train --config {at}/run/run.yaml --out {at}/run",
    "train --config {at}/run/run.yaml --out {at}/new",
    SAME_TRAINING,
    "certify {at}/run --out {at}/new",
    "tune --config {at}/run/run.yaml --out {at}/new",
)
CERT_LINES = lines("certify {at}/run --config {at}/cert/certify.yaml --out {at}/new", REUSE)
SOFT = lines(
    "verify {at}/soft", "recertify {at}/soft --bound clopper-pearson --out {at}/again"
)  # fmt: skip
TUNE = lines(
    "tune --config {at}/tune/tune.yaml --out {at}/tune",
    "tune --dataset digits --out {at}/tune",
    "report {at}/tune",
)
WEB = "train --dataset webdataset --data-root {at}/web --out {at}/new"
KINDS = {
    "run.yaml": Kind("run/run.yaml", mutations.mutated_yaml, [*RUN_LINES, open_run], quickest=6),
    "metrics.jsonl": Kind(
        "run/metrics.jsonl", mutations.mutated_lines, [RUN_LINES[1], open_run], quickest=1),
    "certify.yaml": Kind(
        "cert/certify.yaml", mutations.mutated_yaml, [*CERT, *CERT_LINES], VERIFIED, quickest=6),
    "summary.json": Kind("cert/summary.json", mutations.mutated_json, CERT, VERIFIED, quickest=6),
    "progress.json": Kind("cert/progress.json", mutations.mutated_json, [continue_certification]),
    "audit.json": Kind("cert/audit.json", mutations.mutated_json, CERT[:2], VERIFIED),
    "certificates.parquet": Kind(
        "cert/certificates.parquet", mutations.mutated_parquet, CERT, VERIFIED, quickest=6),
    "counts": Kind(
        "cert/counts/*.parquet", mutations.mutated_parquet, [*CERT, *lines(REUSE)], VERIFIED
    ),
    "soft counts": Kind("soft/counts/*.parquet", mutations.mutated_parquet, SOFT, VERIFIED),
    "log.tsv": Kind(
        "cert/log.tsv", mutations.mutated_log,
        [*CERT[:2], *lines("report {at}/cert/log.tsv {at}/cert")], VERIFIED,
    ),
    "tune.yaml": Kind("tune/tune.yaml", mutations.mutated_yaml, [*TUNE, continue_search], quickest=2),
    "journal": Kind("tune/study.journal", mutations.mutated_lines, [continue_search]),
    "best.yaml": Kind(
        "tune/best.yaml", mutations.mutated_yaml,
        lines("train --config {at}/tune/best.yaml --out {at}/new"),
    ),
    "webdataset": Sample(
        "web/test.tar", mutations.mutated_json, lines(WEB, WEB + " --label-column width"), quickest=1),
    "cluster": Kind(
        "cluster.yaml", mutations.mutated_yaml,
        lines("cluster status {at}/cluster.yaml", "cluster down {at}/cluster.yaml"),
    ),
}  # fmt: skip
