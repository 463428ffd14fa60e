"""Whether kills show in the results: random processes of real runs are killed, and the runs repeated.

    uv run python tests/bench/kill_harness.py [--rounds 30] [--jobs certify,train,tune] [--seed 0]

Each job is a command on the digits. It runs undisturbed once; then, in every round, 1 to 3
processes of its tree (the driver, Ray's own, actors, what watches over them) get SIGKILL at random
times, and the same command is given again whenever it has ended with an error, until it is done.
A round differs where its results do (counts and certificates; weights; trials), where a command
prints a traceback or does not end, or where a process is left five seconds after it. The report is
printed after every round, so a harness that is stopped has said what it knows.
"""

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import ray
import yaml
from safetensors.numpy import load_file

from rsray.distributed.sweeper import descendants_of, list_processes

SCRIPT = "from rsray_cli.main import run; run()"
RAY_FOLDER = str(Path(ray.__file__).parent)
MOST_STARTS, GONE_WITHIN_SECONDS, LOOK_SECONDS = 12, 5.0, 0.2


def main():
    """Run the rounds and print the report."""
    options = _options()
    folder, chance = Path(options.folder), random.Random(options.seed)
    shutil.rmtree(folder, ignore_errors=True)
    run = folder / "run"
    folder.mkdir(parents=True)
    _undisturbed(["train", *DIGITS, "--epochs", "3", "--out", str(run)])
    for name in options.jobs.split(","):
        words, compare = JOBS[name]
        words = [word.format(run=run, n=options.n, epochs=options.epochs) for word in words]
        whole = folder / name / "undisturbed"
        seconds = _undisturbed([*words, "--out", str(whole)])
        report = Report(name, seconds)
        for number in range(options.rounds):
            out = folder / name / f"round-{number}"
            round_ = Round([*words, "--out", str(out)], seconds, chance, report)
            problem = round_.run() or compare(whole, out)
            # A busy machine may have been slow at first: kills would come after the end.
            seconds = min(seconds, round_.shortest)
            report.end_round(problem)
            if problem is None:
                shutil.rmtree(out)


class Report:
    """What has been seen of a job."""

    def __init__(self, name, seconds):
        self.name, self.seconds = name, seconds
        self.rounds, self.differences = 0, []
        self.victims, self.statuses = Counter(), Counter()
        self.slowest_end = 0.0

    def end_round(self, problem):
        """Count a round, and print all that is known."""
        self.rounds += 1
        self.differences += [problem] if problem else []
        victims = ", ".join(f"{kind} {n}" for kind, n in sorted(self.victims.items()))
        statuses = ", ".join(f"{status}: {n}" for status, n in sorted(self.statuses.items()))
        print(
            f"{self.name} ({self.seconds:.0f} s undisturbed): {self.rounds} rounds, "
            f"{sum(self.victims.values())} kills ({victims}), exit statuses {{{statuses}}}, "
            f"slowest end after a kill of one of Ray's own {self.slowest_end:.1f} s, "
            f"{len(self.differences)} differences {self.differences}",
            flush=True,
        )


class Round:
    """One run with its kills: the same command until it is done."""

    def __init__(self, words, seconds, chance, report):
        self.words, self.chance, self.report = words, chance, report
        self.seconds = self.shortest = seconds
        self.kills = self.planned = chance.randint(1, 3)

    def run(self):
        """Return what went wrong, or None."""
        for _ in range(MOST_STARTS):
            status, errors, tree = self._start()
            self.report.statuses[status] += 1
            if "Traceback" in errors:
                return f"traceback: {errors.strip().splitlines()[-1]}"
            if left := _left_of(tree):
                return f"left: {left}"
            if status == 0:
                return None
            if status == "hung":
                return f"hung: {errors[-200:]}"
        return f"not done after {MOST_STARTS} starts: {errors[-200:]}"

    def _start(self):
        """Run the command to its end, killing; return its status, errors and processes."""
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *self.words],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            start_new_session=True, text=True,
        )  # fmt: skip
        began, tree, killed = time.monotonic(), {}, None
        strike = began + self.chance.uniform(0, self.seconds)
        while process.poll() is None:
            now = list_processes()
            for pid in descendants_of({process.pid}, now) & now.keys():
                tree[pid, now[pid][1]] = _kind(pid, process.pid)
            if self.kills and time.monotonic() > strike:
                alive = sorted(key for key in tree if now.get(key[0], ("", ""))[1] == key[1])
                victim = self.chance.choice(alive or [(process.pid, "")])
                kind = tree.get(victim, "driver")
                subprocess.run(["kill", "-KILL", str(victim[0])], stderr=subprocess.DEVNULL)
                self.report.victims[kind] += 1
                self.kills -= 1
                strike = time.monotonic() + self.chance.uniform(0, self.seconds)
                killed = time.monotonic() if kind in RAYS_OWN else killed
            if time.monotonic() - began > 4 * self.seconds + 300:
                process.kill()
                return "hung", process.communicate()[1], tree
            time.sleep(LOOK_SECONDS)
        if process.returncode == 0 and self.kills == self.planned:
            self.shortest = min(self.shortest, time.monotonic() - began)
        if killed is not None and process.returncode == 1:
            end = time.monotonic() - killed
            self.report.slowest_end = max(self.report.slowest_end, end)
        return process.returncode, process.communicate()[1], tree


RAYS_OWN = {"gcs_server", "raylet", "monitor.py", "log_monitor.py", "dashboard.py", "agent"}


def _kind(pid, driver):
    """Return what a process of the tree is."""
    if pid == driver:
        return "driver"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return "other"
    if "Agent" in command:
        return "agent"
    if command.startswith("ray::"):
        return "ray:: worker"
    names = ("gcs_server", "log_monitor.py", "monitor.py", "dashboard.py", "sweeper.py")
    words = command.split("\0")
    program = [Path(word).name for word in words[:4]]
    return next((name for name in (*names, "raylet") if name in program), "other")


def _left_of(tree):
    """Return the kinds of the processes that are there five seconds after their run's end."""
    end = time.monotonic() + GONE_WITHIN_SECONDS
    while True:
        now = list_processes()
        left = [kind for (pid, start), kind in tree.items() if now.get(pid, (0, ""))[1] == start]
        if not left or time.monotonic() > end:
            return sorted(left)
        time.sleep(LOOK_SECONDS)


def _undisturbed(words):
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - began


def _compare_certificates(whole, out):
    def counts(place):
        rows = pq.read_table(place / "counts").to_pylist()
        return sorted(rows, key=lambda row: (row["index"], row["stage"], row["block"]))

    evaluations = [
        yaml.safe_load((place / "certify.yaml").read_text())["evaluation"] for place in (whole, out)
    ]
    if evaluations[0] != evaluations[1]:
        # A busy machine chose another batch shape, which may decide a draw between two equal
        # logits otherwise: all blocks are drawn again by the run's own evaluation.
        audit = ["audit", str(out), str(whole.parents[1] / "run"), "--fraction", "1"]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *audit], capture_output=True, text=True
        )
        return f"audit: {done.stdout}{done.stderr}" if done.returncode else None
    if counts(whole) != counts(out):
        return "counts differ"
    certificates = [
        pq.read_table(place / "certificates.parquet").to_pylist() for place in (whole, out)
    ]
    return None if certificates[0] == certificates[1] else "certificates differ"


def _compare_weights(whole, out):
    weights = [load_file(place / "model.safetensors") for place in (whole, out)]
    same = weights[0].keys() == weights[1].keys() and all(
        (weights[0][name] == weights[1][name]).all() for name in weights[0]
    )
    return None if same else "weights differ"


def _compare_trials(whole, out):
    def states(place):
        return sorted(row["state"] for row in pq.read_table(place / "trials.parquet").to_pylist())

    if len(states(whole)) != len(states(out)):
        return f"{len(states(out))} trials for {len(states(whole))}"
    return "a trial was lost" if states(out).count("failed") else None


DIGITS = ["--dataset", "digits", "--model", "lenet", "--objective", "gaussian"]
DIGITS += ["--set", "num_draws=1", "--precision", "fp32"]
CERTIFY = ["certify", "{run}", "--n", "{n}", "--skip", "30", "--precision", "fp32"]
CERTIFY += ["--address", "local"]
TRAIN = ["train", *DIGITS, "--epochs", "{epochs}"]
TUNE = [
    "tune", *DIGITS, "--epochs", "6", "--search", "lr=log(0.01,0.3)", "--trials", "4",
    "--concurrent", "1", "--no-final",
]  # fmt: skip
JOBS = {
    "certify": (CERTIFY, _compare_certificates),
    "train": (TRAIN, _compare_weights),
    "tune": (TUNE, _compare_trials),
}


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--jobs", default="certify,train,tune")
    parser.add_argument("--n", type=int, default=100_000, help="draws an image of a certification")
    parser.add_argument("--epochs", type=int, default=60, help="of a training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="kill-rounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
