"""rsray from Python: what the commands do, as functions. The command line calls nothing else.

A setting that is not given (None) is as rsray/config.py says. `out` is a folder or URI; the same
`out` again continues. `progress` is True for bars on a terminal or in a notebook, False for
silence, or a `Watch` of your own. A mistake raises UserError, a message of one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from rsray.config import (
    AuditConfig,
    CertifyConfig,
    ExportConfig,
    PlanConfig,
    RecertifyConfig,
    ReportConfig,
    ShowConfig,
    TrainConfig,
    TuneConfig,
)
from rsray.errors import UserError
from rsray.execution import Execution, Where, folder_of
from rsray.outcomes import Certification, Predictions, Run, Study
from rsray.progress import Watch
from rsray.results.audited import NO_COUNTS
from rsray.results.compare import cert_folder, load
from rsray.screen import watching
from rsray.storage import Place, write_file
from rsray.storage.address import check_suffix, path_text

if TYPE_CHECKING:
    from rsray.certification.checks.audit import Audit
    from rsray.certification.checks.verify import Verification
    from rsray.certification.cost import Plan
    from rsray.certification.one_image import Pictures
    from rsray.distributed.search.forecast import SearchPlan
    from rsray.distributed.search.request import SearchRequest
    from rsray.results.explanation import Explanation
    from rsray.results.report import Report
    from rsray.training.cost import TrainingPlan


def train(
    *,
    dataset: str | None = None,
    data_root: Where | None = None,
    preset: str | None = None,
    config: Where | None = None,
    model: str | None = None,
    model_args: Mapping[str, Any] | Sequence[str] | None = None,
    objective: str | None = None,
    sigma: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    workers: int | str | None = None,
    gpus_per_worker: float | None = None,
    precision: str | None = None,
    compile: str | None = None,
    checkpoint_minutes: float | None = None,
    init: Where | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    label_column: str | None = None,
    seed: int | None = None,
    download: bool = False,
    dry_run: bool = False,
    out: Where | None = None,
    address: str | None = None,
    track: str | None = None,
    progress: Watch | bool = True,
    **settings: Any,
) -> Run:
    """Train a classifier whose smoothed version is certifiably robust; returns its RUN.

    `settings` are any others of training (lr, lr_drops, ...) or of the objective (trade_off, ...).
    A run that is finished is returned as it is, one that was stopped goes on. With `dry_run` the
    watch is told what would run where, and nothing is started or written.
    """
    flat = _given(locals(), *_TRAINED) | _given(settings, *settings)
    return Execution.of(locals()).train(flat, config)


def certify(
    source: Where,
    *,
    dataset: str | None = None,
    data_root: Where | None = None,
    split: str | None = None,
    config: Where | None = None,
    model: str | None = None,
    model_args: Mapping[str, Any] | Sequence[str] | None = None,
    normalise: str | None = None,
    denoiser: Where | None = None,
    sigma: float | None = None,
    noise: str | None = None,
    n0: int | None = None,
    n: int | None = None,
    alpha: float | None = None,
    bound: str | None = None,
    inverse_temperature: float | None = None,
    sampling: str | None = None,
    tolerance: float | None = None,
    at_radius: Sequence[float] | Sequence[str] | None = None,
    reuse: Where | None = None,
    reuse_model: Where | None = None,
    start: int | None = None,
    skip: int | None = None,
    limit: int | None = None,
    actors: int | str | None = None,
    gpus_per_actor: float | None = None,
    precision: str | None = None,
    compile: str | None = None,
    block_size: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    label_column: str | None = None,
    seed: int | None = None,
    download: bool = False,
    dry_run: bool = False,
    out: Where | None = None,
    address: str | None = None,
    track: str | None = None,
    progress: Watch | bool = True,
) -> Certification:
    """Certify test images by randomized smoothing (Cohen et al. 2019, CERTIFY); returns the CERT.

    `source` is a Run, a RUN folder or a checkpoint file. Each certificate holds with probability at
    least 1 - alpha over the draws: the smoothed classifier predicts its class everywhere within the
    l2 radius (pixels in [0, 1]). Draws that `out` holds already are not made again. With `reuse`, a
    Certification or CERT of a network near this one, its counts save most of the draws. With
    `dry_run` the watch is told what would run where, and nothing is started or written.
    """
    return Execution.of(locals()).certify(source, _certification_settings(locals(), config))


def recertify(
    cert: Where,
    *,
    alpha: float | None = None,
    bound: str | None = None,
    n: int | None = None,
    out: Where | None = None,
) -> Certification:
    """Certify again from the counts of a CERT, with another alpha, bound or n; returns a new CERT.

    No model, no sampling.
    """
    from rsray.certification.recertify import default_target
    from rsray.certification.recertify import recertify as write

    if alpha is None and bound is None and n is None:
        raise UserError("nothing to change: give --alpha, --bound or --n")
    RecertifyConfig.make({"cert": path_text(cert), "alpha": alpha, "bound": bound, "n": n})
    where = path_text(
        default_target(path_text(cert), alpha=alpha, bound=bound, n=n) if out is None else out
    )
    write(Place.of(cert), Place.of(where), alpha=alpha, bound=bound, n=n)
    return Certification(where)


def verify(cert: Where) -> Verification:
    """Return in what a CERT differs from what its counts say: certificates, summary, every figure.

    No model, no sampling. `is_equal` tells whether it differs, `differences` in what.
    """
    from rsray.certification.checks import verify as checking

    return checking.verify(cert_folder(cert) or Place.of(cert))


def audit(
    cert: Where,
    source: Where,
    *,
    blocks: int | None = None,
    fraction: float | None = None,
    seed: int | None = None,
    model: str | None = None,
    denoiser: Where | None = None,
    data_root: Where | None = None,
    precision: str | None = None,
    actors: int | str | None = None,
    gpus_per_actor: float | None = None,
    download: bool = False,
    address: str | None = None,
    progress: Watch | bool = True,
) -> Audit:
    """Draw stored blocks of a CERT again from its own network, and compare the counts.

    `source` is the RUN or checkpoint that was certified. The blocks are chosen at random: without a
    seed nobody can guess them. Counts must be equal where the evaluation can be repeated exactly;
    elsewhere a test of homogeneity says whether both may come from one network. Verifies the CERT
    first, and writes audit.json into it.
    """
    from rsray.certification.checks.audit import open_audited
    from rsray.certification.folder import finished_record, reopen
    from rsray.distributed.certify import audit as auditing

    chosen = {
        "cert": path_text(cert),
        **_given(locals(), "blocks", "fraction", "seed", "precision"),
    }
    settings = AuditConfig.make(chosen)
    folder = cert_folder(cert) or Place.of(cert)
    record = finished_record(folder)
    given = _given(locals(), "model", "denoiser", "data_root", "actors", "gpus_per_actor")
    with watching(progress) as watch:
        request = open_audited(folder, record, path_text(source), given, download=download)
        claimed, told = reopen(folder, record), watch.certifying
        return auditing.audit(claimed, request, settings, address=address, on_progress=told)


def export(
    run: Where,
    *,
    cert: Where | None = None,
    onnx: bool = False,
    model: str | None = None,
    out: Where | None = None,
) -> Run:
    """Write a RUN as a folder in Hugging Face's layout: weights, config.json, and a model card.

    The card has the figures of `cert`, certificates of this RUN. The folder is a RUN itself, and
    says nothing of where the data lay; with `onnx` it holds model.onnx, too.
    """
    from rsray.certification.folder import finished_record
    from rsray.certification.networks.opening import open_source

    ExportConfig.make({"run": path_text(run), **_given(locals(), "cert", "onnx")})
    source, summary = open_source(path_text(run)), None
    if not source.trained or source.published or not source.weights:
        raise UserError(f"{path_text(run)} is no RUN: rsray export takes the folder of rsray train")
    if Run(path_text(run)).is_denoiser:
        raise UserError(f"{path_text(run)} is a denoiser: rsray export takes a classifier")
    if cert is not None:
        folder = cert_folder(cert) or Place.of(cert)
        if finished_record(folder)["model_digest"] != source.digest:
            raise UserError(f"{path_text(cert)} certifies another network than {path_text(run)}")
        _verified(path_text(cert))
        summary = Certification(folder.uri).summary
    where = folder_of(out, "export")
    Run(path_text(run)).export(Place.of(where), summary=summary, onnx=onnx, model=model)
    return Run(where)


def predict(
    source: Where,
    *,
    dataset: str | None = None,
    data_root: Where | None = None,
    split: str | None = None,
    model: str | None = None,
    model_args: Mapping[str, Any] | Sequence[str] | None = None,
    normalise: str | None = None,
    denoiser: Where | None = None,
    sigma: float | None = None,
    noise: str | None = None,
    n: int | None = None,
    alpha: float | None = None,
    start: int | None = None,
    skip: int | None = None,
    limit: int | None = None,
    precision: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    label_column: str | None = None,
    seed: int | None = None,
    download: bool = False,
    out: Where | None = None,
) -> Predictions:
    """Predict by randomized smoothing (Cohen et al. 2019, PREDICT), abstaining when in doubt.

    A class is the smoothed classifier's own with probability at least 1 - alpha over an image's
    draws. With `out` the table is written there as Parquet.
    """
    from rsray.certification.predictions import predict_images
    from rsray.certification.request import open_prediction
    from rsray.results.certificates import read_table
    from rsray.storage.schemas import PREDICTIONS, parquet_bytes

    given = _certification_settings(locals(), None)
    if out is not None:
        if Place.of(out).is_dir():
            raise UserError(f"--out {Place.of(out)} is a folder: give a file")
        check_suffix(out, (".parquet",))
        if Place.of(out).is_file() and read_table(out).schema.names != PREDICTIONS.names:
            raise UserError(f"--out {Place.of(out)} holds no predictions: use another name")
    request = open_prediction(path_text(source), given, download=download)
    made = Predictions(*predict_images(request), str(request.source.normalisation))
    if out is not None:
        write_file(out, parquet_bytes(made.table))
    return made


def plan_training(
    *,
    config: Where | None = None,
    actors: int | None = None,
    gpus_per_actor: float | None = None,
    price: float | None = None,
    seconds: float | None = None,
    download: bool = False,
    **given: Any,
) -> TrainingPlan:
    """Return what a training run will take, from steps that are measured here for `seconds`.

    `given` is as for `train`, `actors` the number of workers: of a GPU each, or a CPU core.
    """
    from rsray.training.cost import plan_training as measure
    from rsray.training.request import open_training

    settings = PlanConfig.make(_given(locals(), "actors", "price", "seconds"))
    if gpus_per_actor is not None:
        given["gpus_per_worker"] = gpus_per_actor
    return measure(open_training(given, config_file=config, download=download), settings)


def plan_search(
    *,
    search: Mapping[str, str] | Sequence[str] = (),
    grid: Mapping[str, str] | Sequence[str] = (),
    config: Where | None = None,
    actors: int | None = None,
    gpus_per_actor: float | None = None,
    price: float | None = None,
    seconds: float | None = None,
    download: bool = False,
    **given: Any,
) -> SearchPlan:
    """Return what a search will take, from training and looks that are measured here.

    `given` is as for `tune`, `actors` the number of GPUs, or of CPU cores.
    """
    from rsray.distributed.search.forecast import plan_search as measure
    from rsray.distributed.search.resolved_search import check_data, check_search, resolve_search

    settings = PlanConfig.make(_given(locals(), "actors", "price", "seconds"))
    if gpus_per_actor is not None:
        given["gpus_per_worker"] = gpus_per_actor
    given |= {"search": _assignments(search), "grid": _assignments(grid)}
    (request,) = _open_searches([], given, config_file=config, download=download)
    found = resolve_search(request.config)
    check_search(found)
    check_data(found, request.train)
    return measure(found, settings)


def plan(
    source: Where,
    *,
    dataset: str | None = None,
    data_root: Where | None = None,
    split: str | None = None,
    model: str | None = None,
    model_args: Mapping[str, Any] | Sequence[str] | None = None,
    normalise: str | None = None,
    denoiser: Where | None = None,
    sigma: float | None = None,
    noise: str | None = None,
    n0: int | None = None,
    n: int | None = None,
    alpha: float | None = None,
    bound: str | None = None,
    inverse_temperature: float | None = None,
    sampling: str | None = None,
    tolerance: float | None = None,
    at_radius: Sequence[float] | Sequence[str] | None = None,
    start: int | None = None,
    skip: int | None = None,
    limit: int | None = None,
    actors: int | None = None,
    gpus_per_actor: float | None = None,
    price: float | None = None,
    seconds: float | None = None,
    precision: str | None = None,
    compile: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    label_column: str | None = None,
    seed: int | None = None,
    download: bool = False,
) -> Plan:
    """Return how many draws, hours and dollars a certification will take, from a calibration.

    One actor's speed is measured here, with one CPU core or one GPU. With at_radius the number of
    draws is an estimate from the selection draws.
    """
    from rsray.certification.cost import measure_plan
    from rsray.certification.request import open_certification

    settings = PlanConfig.make(_given(locals(), *PlanConfig.model_fields))
    given = _certification_settings({**locals(), "actors": None}, None)
    return measure_plan(open_certification(path_text(source), given, download=download), settings)


def tune(
    *,
    dataset: str | None = None,
    data_root: Where | None = None,
    preset: str | None = None,
    config: Where | None = None,
    model: str | None = None,
    model_args: Mapping[str, Any] | Sequence[str] | None = None,
    objective: str | None = None,
    sigma: float | None = None,
    search: Mapping[str, str] | Sequence[str] = (),
    grid: Mapping[str, str] | Sequence[str] = (),
    sampler: str | None = None,
    objectives: Sequence[str] | str | None = None,
    trials: int | None = None,
    concurrent: int | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    epochs: int | None = None,
    trial_epochs: int | None = None,
    report_every: int | None = None,
    batch_size: int | None = None,
    precision: str | None = None,
    compile: str | None = None,
    checkpoint_minutes: float | None = None,
    init: Where | None = None,
    limit: int | None = None,
    validation: float | None = None,
    final: bool | None = None,
    compare: bool | None = None,
    n: int | None = None,
    skip: int | None = None,
    certify_limit: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    label_column: str | None = None,
    seed: int | None = None,
    download: bool = False,
    dry_run: bool = False,
    out: Where | None = None,
    address: str | None = None,
    track: str | None = None,
    progress: Watch | bool = True,
    **settings: Any,
) -> Study:
    """Search for the settings with the largest certified radius; returns the TUNE.

    Trials are judged by projected ACR on held-out training images (an estimate). The winner is
    trained on all training images and certified on the test set, beside the published setting.
    `search` and `grid` say what varies: {"trade_off": "log(1,32)"}. `settings` fix any others.
    """
    given = {**_given(locals(), *_TUNED), **settings}
    given |= {"search": _assignments(search), "grid": _assignments(grid)}
    sigmas = [sigma] if sigma is not None else []
    (study,) = tune_each(sigmas, config=config, **Execution.of(locals())._asdict(), **given)
    return study


def tune_each(
    sigmas: Sequence[float],
    *,
    config: Where | None = None,
    download: bool = False,
    dry_run: bool = False,
    out: Where | None = None,
    address: str | None = None,
    track: str | None = None,
    progress: Watch | bool = True,
    on_study: Callable[[Study], None] = lambda study: None,
    **given: Any,
) -> list[Study]:
    """Run one search for each sigma, several of them in OUT/sigma-0.25, ...; returns the TUNEs.

    All are refused before any begins. The UserError of one is raised after those behind it. `given`
    is as for `tune`; `on_study` is told of each that ended.
    """
    execution = Execution.of(locals())
    searches = _open_searches(sigmas, given, config_file=config, download=execution.may_download)
    return execution.search(searches, _places(searches, out), on_study)


def _open_searches(
    sigmas: Sequence[float], given: dict[str, Any], *, config_file: Where | None, download: bool
) -> list[SearchRequest]:
    """Return a search for each sigma; one from what is given where there is none."""
    from rsray.distributed.search.request import open_search

    own = {_OWN[key]: given.pop(key) for key in list(given) if key in _OWN}
    spaces = {name: given.pop(name, []) for name in ("search", "grid")}
    each = [{"sigma": sigma} for sigma in sigmas] or [{}]
    return [
        open_search({**given, **sigma}, own, **spaces, config_file=config_file, download=download)
        for sigma in each
    ]


def _places(searches: list[SearchRequest], out: Where | None) -> list[Place]:
    """Return where each search goes: into OUT, or several of them into OUT/sigma-0.25, ..."""
    base = searches[0].config.train
    root = Place.of(folder_of(out, "tune", base.dataset, base.objective))
    if len(searches) == 1:
        return [root]
    return [root / f"sigma-{found.config.train.sigma:g}" for found in searches]


def report(
    paths: Sequence[Where] | Where = (),
    *,
    plot: Where | None = None,
    plot_of: str | None = None,
    html: Where | None = None,
    export_cohen: Where | None = None,
    title: str | None = None,
    size: str | tuple[float, float] | None = None,
    label: Sequence[str] = (),
    common: bool = False,
    paired: bool = False,
    by_class: bool = False,
    published: str | None = None,
    leaderboard: Where | None = None,
    radii: float | str | Sequence[float] | None = None,
    columns: str | Sequence[str] = (),
    sort: str | None = None,
    log_sigma: float | None = None,
    log_n: int | None = None,
    log_alpha: float | None = None,
    log_dataset: str | None = None,
    log_start: int | None = None,
    log_skip: int | None = None,
) -> Report:
    """Return results side by side as the papers print: CERTs, TUNEs, logs of other code, folders.

    Its `warnings` say in which ways they are not comparable, and which images failed. `plot` (.png,
    .svg, .pdf), `html` and `export_cohen` name files to write, `label` holds the results' names;
    `paired` compares each result with the first one, image by image. With plot_of="training" the
    paths are RUNs.
    """
    from rsray.results import report as reporting

    given = _given(locals(), *ReportConfig.model_fields)
    listed: Iterable[Any] = [paths]
    if isinstance(paths, Iterable) and not isinstance(paths, str):
        listed = paths
    settings = ReportConfig.make({**given, "paths": [path_text(path) for path in listed]})
    if settings.plot_of == "training":
        return reporting.report_of_trainings(settings, *_trainings(settings.paths))
    return reporting.make_report(settings, _verified, _pictures)


def _pictures(path: str, indices: Sequence[int]) -> list[Pictures]:
    """Return images of a CERT with a noisy copy of each; none where its data are not at hand."""
    from rsray.certification.one_image import noisy_copies

    cert = cert_folder(path)
    if cert is None or not cert.exists("certify.yaml"):
        return []
    try:
        return noisy_copies(cert, indices, copies=1)
    except UserError:
        return []


def _trainings(
    paths: Sequence[str],
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Return metrics.jsonl by name, and run.yaml, of each RUN or of the best of each TUNE."""
    from rsray.storage.yaml_files import from_yaml
    from rsray.training.run_folder.metrics import read_metrics

    found: dict[str, list[dict[str, Any]]] = {}
    records: dict[str, dict[str, Any]] = {}
    for path in paths:
        place = Place.of(path)
        each = ((run, read_metrics(run)) for run in (place, place / "best"))
        run, lines = next(((run, lines) for run, lines in each if lines), (place, []))
        if not lines:
            raise UserError(f"{path} is no RUN with finished epochs: plot-of training draws RUNs")
        name = path if place.name in found else place.name
        found[name] = lines
        file = run / "run.yaml"
        told = from_yaml(file.read_bytes(), str(file)) if file.is_file() else {}
        records[name] = told if isinstance(told, dict) else {}
    return found, list(records.values())


def show(
    cert: Where, index: int, *, png: Where | None = None, data_root: Where | None = None
) -> Explanation:
    """Return the certificate of one image in words, with its counts and bound.

    `cert` is a CERT or a log. `png` names a file to draw: the image, found where the run found it
    or below `data_root`, and noisy copies as the network saw them.
    """
    from rsray.certification import one_image
    from rsray.results import explanation
    from rsray.results.plots.style import SUFFIXES

    given = {"cert": path_text(cert), "index": index, **_given(locals(), "png", "data_root")}
    settings = ShowConfig.make(given)
    if settings.png is not None:
        check_suffix(settings.png, SUFFIXES)
    _verified(settings.cert)
    folder = cert_folder(settings.cert)
    has_counts = folder is not None and folder.exists("counts") and folder.exists("certify.yaml")
    counts = one_image.estimation_counts(folder, index) if folder and has_counts else {}
    found = explanation.explain(load(settings.cert), settings.index, counts)
    if settings.png is not None:
        if folder is None or not has_counts:
            raise UserError(f"{settings.cert} does not say how its noise was made: no picture")
        (pictures,) = one_image.noisy_copies(
            folder, [index], copies=explanation.NUM_COPIES, data_root=settings.data_root
        )
        explanation.draw(found, *pictures, settings.png)
    return found


def _verified(path: str) -> str:
    """Return what verifying the CERT at a path finds; UserError where it is not what counts say."""
    from rsray.certification.checks import verify as checking

    cert = cert_folder(path)
    if cert is None or not cert.exists("counts"):
        return NO_COUNTS
    found = checking.verify(cert)
    if not found.is_equal:
        more = f" (and {len(found.differences) - 1:,} more)" if len(found.differences) > 1 else ""
        raise UserError(
            f"{cert} is not what its counts say: {found.differences[0]}{more}; "
            "`rsray verify` names all"
        )
    more = f"; reused counts NOT compared ({found.not_compared})" if found.not_compared else ""
    return f"equal, {found.num_certificates:,} certificates of {found.num_blocks:,} blocks{more}"


# Names of parameters: of the settings that certify shares with predict and plan, and of tune's.
_CERTIFIED = (
    "dataset", "data_root", "split", "model", "model_args", "denoiser", "sigma", "noise", "n0", "n",
    "alpha", "bound", "inverse_temperature", "sampling", "tolerance", "at_radius", "reuse",
    "reuse_model", "start", "skip", "limit", "actors", "gpus_per_actor", "precision", "compile",
    "block_size", "image_size", "channels", "label_column", "seed",
)  # fmt: skip
_TRAINED = [name for name in TrainConfig.model_fields if name != "settings"]
# num_draws is the objective's: those of a look at a trial are no option.
_NOT_OWN = ("train", "starts", "search", "seed", "num_draws")
_OWN = {name: name for name in TuneConfig.model_fields if name not in _NOT_OWN}
_OWN = {("certify_limit" if name == "limit" else name): name for name in _OWN}
_TUNED = (*_OWN, *(name for name in _TRAINED if name != "sigma"))


def _given(parameters: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the parameters of these names that are not None; paths as text."""
    given = {name: parameters[name] for name in names if parameters.get(name) is not None}
    return {k: path_text(v) if isinstance(v, PathLike) else v for k, v in given.items()}


def _certification_settings(parameters: Mapping[str, Any], config: Where | None) -> dict[str, Any]:
    """Return what was given of a certification, over what a certify.yaml says."""
    given = _given(parameters, *_CERTIFIED)
    if parameters.get("normalise") is not None:
        given["normalisation"] = parameters["normalise"]
    if config is None:
        return given
    from rsray.models.factory import refuse_factory_of_a_file

    file = _certification_in(config)
    for name in ("model", "denoiser"):
        refuse_factory_of_a_file(file.get(name), path_text(config), given.get(name), f"--{name}")
    return file | given


def _certification_in(config: Where) -> dict[str, Any]:
    """Return the settings of a certification in a file; UserError for a key that is none.

    What a certify.yaml records beside what may be given is left out.
    """
    from rsray.certification.folder import CertRecord
    from rsray.training.request import read_settings

    values = read_settings(config, left_out=())
    recorded = {*CertifyConfig.model_fields, *CertRecord.model_fields}
    if unknown := [key for key in values if key not in {*_CERTIFIED, "normalise", *recorded}]:
        raise UserError(
            f"{config}: {', '.join(unknown)}: no known setting of a certification; "
            "`rsray certify --help` has them all"
        )
    # A limit alone was given there: start and skip, which it records, would take other images.
    left_out = ("start", "skip") if values.get("is_spread") else ()
    file = {key: values[key] for key in _CERTIFIED if key in values and key not in left_out}
    # That of a record was the recorded network's: another one says its own, or is asked about.
    own = None if "model_digest" in values else values.get("normalisation")
    stated = values.get("normalise", own)
    return file if stated is None else {**file, "normalisation": stated}


def _assignments(specs: Mapping[str, str] | Sequence[str]) -> list[str]:
    """Return "key=SPEC" texts."""
    if isinstance(specs, Mapping):
        specs = [f"{key}={spec}" for key, spec in specs.items()]
    if not isinstance(specs, Iterable):
        raise UserError(f"{specs!r} is no search: give one as {{'lr': 'log(0.01,0.1)'}}")
    return list(specs)
