"""Draws and ACR of every sampling mode and bound, from one run's stored counts.

    uv run python tests/bench/bench_modes.py CERT [--at-radius 0.5 1.0]

CERT was certified with --sampling fixed, so it holds every block that any mode would have drawn: an
image's noise depends on (seed, index, stage, block) alone. What each mode would have asked for is
decided here by the code that decides it in a run.
"""

import argparse

import numpy as np
import pyarrow as pa

from rsray.certification.demand import Demand
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import CERT_FILE, TABLE, Claimed, run_id
from rsray.certification.plan import wants_estimation
from rsray.certification.store import Selected
from rsray.certification.sums import totals
from rsray.certification.tally import class_counts, column
from rsray.certification.verdict import certificate_columns
from rsray.config import CertifyConfig
from rsray.results.certificates import read_certificates
from rsray.storage import Place
from rsray.storage.yaml_files import from_yaml


def opened(where):
    cert = Place.of(where)
    record = from_yaml(cert.read(CERT_FILE), CERT_FILE)
    config = CertifyConfig.make(
        {k: v for k, v in record.items() if k in CertifyConfig.model_fields}
    )
    return Claimed(cert, config, Evaluation(**record["evaluation"]), run_id(config), 0.0, {})


def images_of(cert):
    before = read_certificates(Place.of(cert) / TABLE)
    return Selected(before.index.astype(np.int64), before.label.astype(np.int64))


def wanted_blocks(run, selected, demand):
    done = run.store.done(selected, run.draws, demand)
    if done.wanted_N is not None:
        return done.wanted_N
    pairs = zip(done.selected_class_N.tolist(), selected.labels.tolist(), strict=True)
    is_wanted = [wants_estimation(top, label, demand.sampling) for top, label in pairs]
    return np.where(is_wanted, run.draws.num_blocks, 0)


def first_blocks(run, selected, wanted_N):
    """Return the estimation counts of each image's first `wanted_N` blocks."""
    kept = []
    for part in run.store.parts():
        position = selected.positions(part["index"].to_numpy())
        is_estimation = part["stage"].to_numpy(zero_copy_only=False) == "estimation"
        here = is_estimation & (part["block"].to_numpy() < wanted_N[position])
        kept.append(part.filter(pa.array(here)))
    rows = pa.concat_tables(kept)
    return class_counts(rows, selected.positions(column(rows, "index")), len(selected.indices))


def show(name, run, selected, selection, *, bound="clopper-pearson", sampling="fixed", radii=()):
    config = run.config
    demand = Demand(run.draws, sampling, config.alpha, bound, config.sigma, at_radius=tuple(radii))
    estimation = first_blocks(run, selected, wanted_blocks(run, selected, demand))
    columns = certificate_columns(
        selected, selection, estimation, sigma=config.sigma, alpha=config.alpha, sampling=sampling,
        bound=bound, num_classes=config.num_classes, at_radius=tuple(radii), moments=None,
    )  # fmt: skip
    draws = int(estimation.totals().sum()) + config.n0 * len(selected.indices)
    proven = columns["radius"] * columns["correct"]
    told = "  ".join(f"at {r:g}: {np.mean(proven >= r):.1%}" for r in radii)
    acr = "" if radii else f"{proven.mean():.4f}"
    print(f"| {name} | {draws:,} | {acr}{told} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cert")
    parser.add_argument("--at-radius", type=float, nargs="+", default=[0.5, 1.0])
    options = parser.parse_args()
    run = opened(options.cert)
    selected = images_of(options.cert)
    selection, _ = totals(run.store, selected)
    print(f"{len(selected.indices)} images, n {run.config.n:,}, sigma {run.config.sigma:g}")
    print("| mode | draws | ACR |\n|---|---|---|")
    for sampling in ("fixed", "skip", "adaptive"):
        show(sampling, run, selected, selection, sampling=sampling)
    for sampling in ("fixed", "adaptive"):
        show(f"{sampling}, tcertify", run, selected, selection, bound="tcertify", sampling=sampling)
    show("at-radius", run, selected, selection, radii=options.at_radius)


if __name__ == "__main__":
    main()
