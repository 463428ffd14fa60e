"""Draws and ACR of every sampling mode and bound, from one run's stored counts.

    uv run python tests/bench/bench_modes.py CERT [--at-radius 0.5 1.0]

CERT was certified with --sampling fixed, so it holds every block that any mode would have drawn: an
image's noise depends on (seed, index, stage, block) alone. What each mode would have asked for is
decided here by the code that decides it in a run.
"""

import argparse
from dataclasses import replace

import numpy as np

from rsray.certification.counts.certificate_columns import certificate_columns
from rsray.certification.counts.gathering import GatheredCounts, gather
from rsray.certification.counts.store import Selected
from rsray.certification.counts.tables import column, is_selection, rows_where
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import CERT_FILE, TABLE, Claimed, run_id
from rsray.config import CertifyConfig
from rsray.results.certificates import read_certificates
from rsray.storage import Place
from rsray.storage.yaml_files import from_yaml

TOLERANCES = (0.005, 0.01, 0.02, 0.05)


def opened(where):
    cert = Place.of(where)
    record = from_yaml(cert.read(CERT_FILE), CERT_FILE)
    config = CertifyConfig.of_record(record)
    return Claimed(cert, config, Evaluation(**record["evaluation"]), run_id(config), 0.0, {})


def images_of(cert):
    before = read_certificates(Place.of(cert) / TABLE)
    return Selected(before.index.astype(np.int64), before.label.astype(np.int64))


def first_blocks(run, selected, plan):
    """Return the counts of the blocks that each image wants under another plan."""
    wanted_N = gather(run.store, selected, plan).stored_draws().wanted_N
    found = GatheredCounts(selected, plan)
    for part in run.store.parts():
        position = selected.positions(column(part, "index"))
        found.add(
            rows_where(part, is_selection(part) | (column(part, "block") < wanted_N[position]))
        )
    return found.evidence()


def show(name, run, selected, **changes):
    plan = replace(run.plan, **changes)
    columns = certificate_columns(selected, first_blocks(run, selected, plan), plan)
    draws = int(columns["n"].sum()) + plan.n0 * len(selected.indices)
    proven = columns["radius"] * columns["correct"]
    told = "  ".join(f"at {r:g}: {np.mean(proven >= r):.1%}" for r in plan.at_radius)
    acr = "" if plan.at_radius else f"{proven.mean():.4f}"
    print(f"| {name} | {draws:,} | {acr}{told} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cert")
    parser.add_argument("--at-radius", type=float, nargs="+", default=[0.5, 1.0])
    options = parser.parse_args()
    run = opened(options.cert)
    selected = images_of(options.cert)
    print(f"{len(selected.indices)} images, n {run.config.n:,}, sigma {run.config.sigma:g}")
    print("| mode | draws | ACR |\n|---|---|---|")
    for sampling in ("fixed", "skip"):
        show(sampling, run, selected, sampling=sampling)
    for tolerance in TOLERANCES:
        changes = {"sampling": "adaptive", "tolerance": tolerance}
        show(f"adaptive, tolerance {tolerance:g}", run, selected, **changes)
    for sampling in ("fixed", "adaptive"):
        show(f"{sampling}, tcertify", run, selected, bound_name="tcertify", sampling=sampling)
    show("at-radius", run, selected, at_radius=tuple(options.at_radius))


if __name__ == "__main__":
    main()
