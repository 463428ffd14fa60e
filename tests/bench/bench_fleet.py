"""How many work items a second the driver carries, and what a fleet of so many actors makes of it.

    uv run python tests/bench/bench_fleet.py [--items 1000]
    uv run python tests/bench/bench_fleet.py --actors 100 500 1000 2000 [--processes 40] [--seconds 10]

Without --actors the items do nothing, so the driver and Ray Data are all that is measured; the
baseline in the same run is the plain loop over the same items, without Ray.

With --actors fleets of these sizes work on items that sleep for --seconds, as an actor that counts
for so long. There are at most --processes of Ray's actors: each answers for its part of the fleet,
in as many threads (0: a process for every actor, which takes about 100 MiB each). Printed is how
many items arrive a second, beside what so many actors would make if nothing held them up; how long
an answer is under way; and the driver's memory and share of a core.
"""

import argparse
import math
import resource
import time

import numpy as np

from rsray.certification.counting.answers import Answer, read_answers, task_table
from rsray.certification.counts.tables import counts_table
from rsray.certification.work_items import TASK_SECONDS, WorkItem
from rsray.distributed.capacity import FleetSize
from rsray.distributed.certify.ray_fleet import make_lot, stream
from rsray.distributed.session import session

# Of each actor: the first and the last are while others start or have ended
ITEMS_PER_ACTOR = 5


class Sleeper:
    """Answers every item with the same answer after a time; says when in the place of its device.

    It imports nothing of rsray: a process of it is small.
    """

    def __init__(self, settings):
        self.seconds, self.answer = settings

    def __call__(self, task):
        time.sleep(self.seconds)
        place = self.answer.schema.get_field_index("device_name")
        return self.answer.set_column(place, "device_name", [[repr(time.time())]])


def settings_of(seconds):
    """Return what a Sleeper is told: its seconds, and an answer with one row of counts."""
    counts = counts_table(0, 0, "estimation", [(0, 1000)], np.array([[999, 1]]))
    return seconds, Answer(counts, "").table()


def main():
    """Print items per second with and without Ray, or by the size of a fleet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--actors", type=int, nargs="*", default=[])
    parser.add_argument("--processes", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=TASK_SECONDS)
    options = parser.parse_args()
    if options.actors:
        for actors in options.actors:
            bench_fleet(actors, options.processes or actors, options.seconds)
    else:
        bench_driver(options.items)


def bench_driver(count):
    tasks = tasks_of(count)
    idle, started = Sleeper(settings_of(0.0)), time.perf_counter()
    rows = sum(num_rows(answer) for answer in map(idle, tasks))
    bare = count / (time.perf_counter() - started)
    fleet = FleetSize(8, 0.05, 0)
    with session("local"):
        sum(
            len(answer) for answer in stream(make_lot(tasks[:8]), Sleeper, settings_of(0.0), fleet)
        )  # processes start
        started, arrived, first = time.perf_counter(), 0, 0.0
        for answer in stream(make_lot(tasks), Sleeper, settings_of(0.0), fleet):
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


def bench_fleet(actors, processes, seconds):
    """Run one fleet, and print a line."""
    each = math.ceil(actors / processes)
    processes, actors = math.ceil(actors / each), each * math.ceil(actors / each)
    tasks = tasks_of(ITEMS_PER_ACTOR * actors)
    arrivals, delays, memory = [], [], memory_MiB()
    with session("local"):
        answer_for_many(each)
        cpu, started = time.process_time(), time.perf_counter()
        fleet = FleetSize(processes, 1 / processes, 0)
        for table in stream(make_lot(tasks), Sleeper, settings_of(seconds), fleet):
            now = time.time()
            for answer in read_answers(table):
                arrivals.append(time.perf_counter() - started)
                delays.append(now - float(answer.device_name))
        busy = (time.process_time() - cpu) / (time.perf_counter() - started)
    assert len(arrivals) == len(tasks)
    # The rounds in which every actor is at work
    first, last = actors, (ITEMS_PER_ACTOR - 1) * actors
    rate, ideal = (last - first) / (arrivals[last] - arrivals[first]), actors / seconds
    late = np.percentile(delays[first:last], [50, 99])
    print(
        f"{actors:5d} actors in {processes} processes, items of {seconds:g} s: {rate:.1f} items/s, "
        f"{rate / ideal:.3f} of {ideal:.0f}; first after {arrivals[0]:.0f} s; an answer is under way "
        f"for {late[0]:.2f} s (99 %: {late[1]:.2f}); driver {busy:.2f} of a core, "
        f"{memory_MiB() - memory:.0f} MiB more than before",
        flush=True,
    )


def answer_for_many(each):
    """Let every actor of Ray's answer for so many, in threads."""
    import ray.data
    from ray.data._internal.compute import ActorPoolStrategy

    many = {"max_tasks_in_flight_per_actor": 2 * each, "max_concurrent_calls_per_actor": each}
    ray.data.ActorPoolStrategy = lambda **asked: ActorPoolStrategy(**asked | many)


def tasks_of(count):
    return [task_table([WorkItem(i, 0, 0, 1, False, 0)]) for i in range(count)]


def num_rows(table):
    return sum(len(answer.counts) for answer in read_answers(table))


def memory_MiB():
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
