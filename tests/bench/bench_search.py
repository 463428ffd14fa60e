"""What the driver of a search makes of many trials at a time.

    uv run python tests/bench/bench_search.py [--concurrent 64] [--trials 256] [--seconds 10]

The trials are rsray's to Ray Tune, Optuna and ASHA, but in the place of training they sleep for
--seconds an epoch and then report a figure that grows towards one that their settings decide. Their
processes import neither torch nor rsray, so that this machine holds so many. Printed is how many
looks arrive a second beside what so many trials would make if nothing held them up, how long a look
is under way, the driver's share of a core and its memory, and how long TUNE then takes to open.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import ray.tune
from bench_fleet import memory_MiB

from rsray.config import TUNE_OBJECTIVES, TuneConfig
from rsray.distributed.search import search as tuning
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.study import ended_trials, find_winner, open_study
from rsray.distributed.search.trial_resources import TrialPlan
from rsray.distributed.session import session
from rsray.presets import search_config
from rsray.progress import Watch
from rsray.storage import Place

EPOCHS = 8
FIGURES = tuple(TUNE_OBJECTIVES.values())


class Told:
    """What a trial is told: seconds of an epoch; what the driver asks of it does not travel."""

    def __init__(self, seconds, search, plan, scratch):
        self.seconds, self.search, self.plan, self.scratch = seconds, search, plan, scratch

    def __reduce__(self):
        return float, (self.seconds,)


def sleeping_trial(point, job):
    """Report like a training of eight epochs whose trade-off is best at 6."""
    best = 1.0 - 0.1 * abs(math.log(point["trade_off"] / 6.0))
    for epoch in range(1, EPOCHS + 1):
        time.sleep(job)
        told = {"look": epoch, "epoch": epoch, "epochs": EPOCHS, "loss": 0.0}
        figures = dict.fromkeys(FIGURES, best * epoch / EPOCHS)
        ray.tune.report({**figures, **told, "at": time.time()})


def main():
    """Run one such search, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench(options, Place(folder))


def bench(options, out):
    """Search, with trials that sleep in the place of those that train."""
    base = search_config({"dataset": "digits", "epochs": EPOCHS})
    space = parse_space(["trade_off=log(0.5,64)", "hinge=uniform(1,16)"], base.objective, {})
    search = resolve_search(
        TuneConfig.make(
            {
                "train": base, "search": space, "trials": options.trials,
                "concurrent": options.concurrent, "trial_epochs": EPOCHS, "report_every": 1,
            }
        )
    )  # fmt: skip
    looks, delays = [], []

    def hear(searcher, trial_id, result):
        # A trial's last look is told once more when it ends.
        if result["look"] not in searcher.seen[trial_id]:
            looks.append(time.perf_counter())
            delays.append(time.time() - result["at"])
        heard(searcher, trial_id, result)

    heard = tuning.StudySearcher.on_trial_result
    tuning.StudySearcher.on_trial_result = hear
    tuning.run_trial = sleeping_trial
    tuning._say_how_long = lambda *asked: None
    plan = TrialPlan(options.concurrent, 1, 1 / options.concurrent)
    tuning.plan_trials = lambda search, missing: plan
    tuning.TrialJob = lambda search, plan, path, scratch: Told(
        options.seconds, search, plan, scratch
    )
    memory = memory_MiB()
    with session("local"):
        study = open_study(out, search)
        cpu, started = time.process_time(), time.perf_counter()
        tuning.run_search(search, study, out, Watch())
        seconds = time.perf_counter() - started
        busy = (time.process_time() - cpu) / seconds
    trials = ended_trials(study)
    assert len(trials) == options.trials
    _print(options, looks, delays, seconds, busy, memory_MiB() - memory, trials)
    started = time.perf_counter()
    best = find_winner(open_study(out, search)).params
    journal = sum(file.stat().st_size for file in Path(str(out)).glob("*.journal*"))
    print(
        f"the study opens in {time.perf_counter() - started:.2f} s (journal {journal / 1e3:.0f} kB); "
        f"best trade-off {best['trade_off']:.2f} (6 is best)"
    )


def _print(options, looks, delays, seconds, busy, memory, trials):
    # All are at work from when so many have looked once until so many are left.
    first, last = options.concurrent, len(looks) - options.concurrent * EPOCHS // 2
    rate = (last - first) / (looks[last] - looks[first])
    ideal = options.concurrent / options.seconds
    epochs = sum(trial.user_attrs["epoch"] for trial in trials)
    late = np.percentile(delays, [50, 99])
    print(
        f"{options.trials} trials, {options.concurrent} at a time, epochs of {options.seconds:g} s: "
        f"{seconds:.0f} s; {rate:.2f} looks/s, {rate / ideal:.2f} of {ideal:.1f}; a look is "
        f"under way for {late[0]:.2f} s (99 %: {late[1]:.2f}); driver {busy:.2f} of a core, "
        f"{memory:.0f} MiB more than before; ASHA let {epochs} of {options.trials * EPOCHS} epochs be trained"
    )


if __name__ == "__main__":
    main()
