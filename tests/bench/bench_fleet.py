"""How many work items a second the driver carries, and so how many actors it can keep busy.

    uv run python tests/bench/bench_fleet.py [--items 1000] [--actors 8]

The items do nothing, so the driver and Ray Data are all that is measured. The baseline in the same
run is the plain loop over the same items, without Ray.
"""

import argparse
import time

import numpy as np

from rsray.certification.counting.answers import Answer, read_answers, task_table
from rsray.certification.counts.tables import counts_table
from rsray.certification.work_items import TASK_SECONDS, WorkItem
from rsray.distributed.capacity import FleetSize
from rsray.distributed.certify.stream import stream
from rsray.distributed.session import session


class Idle:
    """Answers an item with one row of counts, at once."""

    def __init__(self, job):
        self.job = job

    def __call__(self, task):
        index = task["index"][0].as_py()
        counts = counts_table(index, 0, "estimation", [(0, 1000)], np.array([[999, 1]]))
        return Answer(counts, "a chip").table()


def num_rows(table):
    return sum(len(answer.counts) for answer in read_answers(table))


def main():
    """Print items per second with and without Ray."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--actors", type=int, default=8, help="idle actors; they share the cores")
    options = parser.parse_args()
    count, fleet = options.items, FleetSize(options.actors, 0.05, 0)
    tasks = [task_table([WorkItem(i, 0, 0, 1, False, 0)]) for i in range(count)]
    idle, started = Idle({}), time.perf_counter()
    rows = sum(map(num_rows, map(idle, tasks)))
    bare = count / (time.perf_counter() - started)
    with session("local"):
        sum(len(answer) for answer in stream(tasks[:8], Idle, {}, fleet))  # processes start
        started, arrived, first = time.perf_counter(), 0, 0.0
        for answer in stream(tasks, Idle, {}, fleet):
            first = first or time.perf_counter() - started
            arrived += num_rows(answer)
        total = time.perf_counter() - started
    assert arrived == rows == count
    rate = (count - 1) / (total - first)
    print(f"plain loop       {bare:12,.0f} items/s")
    print(
        f"driver + Ray Data{rate:12,.1f} items/s  ({1000 / rate:.1f} ms an item; first after {first:.1f} s)"
    )
    print(f"ratio            {rate / bare:12.4f}")
    print(
        f"items of {TASK_SECONDS:g} s: the driver is the limit from {rate * TASK_SECONDS:,.0f} actors"
    )


if __name__ == "__main__":
    main()
