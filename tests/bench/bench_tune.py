"""Whether the search pays: `rsray tune` against random search, and against the published setting.

    uv run python tests/bench/bench_tune.py --data-root ../shared/data [--out bench-tune] [--quick]

MNIST at sigma 0.50 with a small budget a trial: the same number of trials, epochs and images for
TPE and for random search, ASHA with both. k = 4 draws an image where the paper has 16, for the
published setting as for the others: that makes it 25 minutes on 2 cores. Prints what happens as it
goes, then markdown: the best projected ACR after every few trials (mean and range over the seeds)
with the epochs that were trained for it. The best of many estimates is flattered by the choice, so
what was found is then trained again on all images, as is the published setting, for the same
epochs, and both are certified on the same test images. Stopped (Ctrl-C), it shows what is done;
started again with the same --out, it goes on.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rsray.certification.networks.opening import open_source
from rsray.certification.request import CertificationRequest, selected_images
from rsray.config import TuneConfig
from rsray.data import open_split
from rsray.distributed.certify.certifier import certify
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.tuner import tune
from rsray.distributed.search.winner import certify_config
from rsray.distributed.session import session
from rsray.distributed.train.trainer import train
from rsray.presets import search_config
from rsray.progress import Watch
from rsray.storage import Place
from rsray.training.run_folder.run import open_training_split

SAMPLERS = ("tpe", "random")
QUICK = {
    "limit": 2000, "epochs": 2, "trials": 4, "seeds": 1, "look_draws": 32,
    "n": 1000, "skip": 1000, "out": "bench-tune-quick",
}  # fmt: skip


def main():
    """Run the searches and certifications that are missing, and print the tables."""
    options = _options()
    searches, certified = {}, {}
    try:
        with session("local"):
            for seed in range(options.seeds):
                for sampler in SAMPLERS:
                    searches[sampler, seed] = _search(options, sampler, seed)
            for seed in range(options.seeds):
                for name, point in _contenders(searches, seed).items():
                    certified[name, seed] = _certified(options, name, seed, point)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", flush=True)
    print(f"\n{_described(options)}\n")
    _print_curves(options, searches)
    _print_certified(options, certified)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=6000, help="training images")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-draws", type=int, default=4, help="k of MACER")
    parser.add_argument("--look-draws", type=int, default=64, help="m of the projected ACR")
    parser.add_argument("--validation", type=float, default=0.1, help="part of the images")
    parser.add_argument("--n", type=int, default=10_000, help="draws of a certificate")
    parser.add_argument("--skip", type=int, default=125, help="certify every K-th test image")
    parser.add_argument("--out", default="bench-tune")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


def _config(options, sampler, seed):
    """Return a search as `rsray tune --seed SEED` makes it: of trials and of training."""
    base = search_config(
        {
            "dataset": options.dataset, "data_root": options.data_root, "sigma": options.sigma,
            "limit": options.limit, "epochs": options.epochs, "num_draws": options.num_draws,
            "seed": seed,
        }
    )  # fmt: skip
    return TuneConfig.make(
        {
            "train": base, "search": parse_space([], base.objective), "sampler": sampler,
            "trials": options.trials, "seed": seed, "report_every": 1, "final": False,
            "num_draws": options.look_draws, "validation": options.validation,
            "n": options.n, "skip": options.skip,
        }
    )  # fmt: skip


def _search(options, sampler, seed):
    """Return the rows of one search's trials, in the order of proposal."""
    began = time.perf_counter()

    def tell(event):
        if event.kind != "report":
            acr = event.error if event.acr is None else f"{event.acr:.4f} at epoch {event.epoch}"
            print(f"{sampler} {seed}: trial {event.number}: {acr}", flush=True)

    place = Path(options.out) / f"{sampler}-{seed}"
    tune(_config(options, sampler, seed), Place.of(place), watch=Watch(trial=tell))
    rows = sorted(pq.read_table(place / "trials.parquet").to_pylist(), key=lambda r: r["number"])
    given, best = _given(rows), _best(rows)
    print(
        f"{sampler} {seed}: best projected ACR {best['projected_acr']:.4f}, published setting "
        f"{given['projected_acr']:.4f}, {_epochs(rows)} epochs, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return rows


def _given(rows):
    """Return the trial of the published setting (at this k); it must have run to its end."""
    row = next(row for row in rows if row["source"] in ("paper", "start"))
    assert row["state"] == "complete", f"the published setting was not trained to its end: {row}"
    return row


def _best(rows):
    complete = (row for row in rows if row["state"] == "complete")
    return max(complete, key=lambda row: (row["projected_acr"], -row["number"]))


def _epochs(rows):
    return sum(row["epoch"] or 0 for row in rows)


def _contenders(searches, seed):
    """Return {"published" and each sampler: the point that is certified for it}."""
    keys = _point_keys(searches["tpe", seed][0])
    found = {"published": _given(searches["tpe", seed])}
    found |= {sampler: _best(searches[sampler, seed]) for sampler in SAMPLERS}
    return {name: {key: row[key] for key in keys} for name, row in found.items()}


def _point_keys(row):
    return [key for key in ("trade_off", "hinge", "inverse_temperature") if key in row]


def _certified(options, name, seed, point):
    """Train a point on all images and return it with its radii [N] in pixels, 0 where wrong."""
    search = resolve_search(_config(options, "tpe", seed))
    wanted = search.full(point)
    run = Place.of(Path(options.out) / "certified" / f"{name}-{seed}")
    train(wanted, run, open_training_split(wanted))
    split = open_split(wanted.dataset, "test", wanted.data_root)
    source = open_source(str(run)).settled(split)
    settings = certify_config(search, wanted, source, split)
    images = selected_images(settings, split)
    certify(CertificationRequest(settings, source, split, images), run / "certificates")
    table = pq.read_table(Path(run.uri) / "certificates" / "certificates.parquet").sort_by("index")
    radii = np.where(table["correct"], table["radius"], 0.0)
    print(f"{name} {seed}: certified ACR {radii.mean():.4f} with {_spelled(point)}", flush=True)
    return point, radii


def _spelled(point):
    return ", ".join(f"{key} {value:.3g}" for key, value in point.items())


def _described(options):
    return (
        f"{options.dataset}, sigma {options.sigma:g}, {options.limit} images, {options.epochs} "
        f"epochs a trial, k = {options.num_draws}; projected ACR (m = {options.look_draws}) on "
        f"held-out images; mean (least to most) over {options.seeds} seeds"
    )


def _print_curves(options, searches):
    seeds = [s for s in range(options.seeds) if all((name, s) in searches for name in SAMPLERS)]
    if not seeds:
        return
    counts = sorted({*range(5, options.trials + 1, 5), options.trials})
    names = " | ".join(f"{count} trials" for count in counts)
    print(f"| best projected ACR after | {names} | epochs |")
    print("|---" * (len(counts) + 2) + "|")
    for sampler in SAMPLERS:
        done = [searches[sampler, seed] for seed in seeds]
        curves = np.stack([_best_so_far(rows) for rows in done])[:, [c - 1 for c in counts]]
        cells = [f"{c.mean():.4f} ({c.min():.4f} to {c.max():.4f})" for c in curves.T]
        epochs = np.mean([_epochs(rows) for rows in done])
        print(f"| {sampler} | {' | '.join(cells)} | {epochs:.0f} |")


def _best_so_far(rows):
    """Return the best projected ACR of complete trials after each trial."""
    values = [row["projected_acr"] if row["state"] == "complete" else -np.inf for row in rows]
    return np.maximum.accumulate(values)


def _print_certified(options, certified):
    print(f"\nCertified on every {options.skip}th test image, n = {options.n}; gain over the")
    print("published setting on the same images, with its standard error over them\n")
    print("| setting | seed | certified ACR | gain | setting found |")
    print("|---|---|---|---|---|")
    gains = {}
    for (name, seed), (point, radii) in certified.items():
        gain = radii - certified["published", seed][1]
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        cell = "" if name == "published" else f"{gain.mean():+.4f} ± {error:.4f}"
        gains.setdefault(name, []).append(gain.mean())
        print(f"| {name} | {seed} | {radii.mean():.4f} | {cell} | {_spelled(point)} |")
    for name in SAMPLERS:
        if name in gains:
            spread = f"{min(gains[name]):+.4f} to {max(gains[name]):+.4f}"
            print(f"\n{name}: mean gain {np.mean(gains[name]):+.4f} ({spread} over the seeds)")


if __name__ == "__main__":
    main()
