"""Wait until a cluster that scales from zero has the CPUs and GPUs that a job asks for.

A job's command line begins with `python -m rsray.cluster.wait_for_resources GPU=4`.

Without it a command would find no GPU on a cluster whose workers have been given back, and would
train on the head. The request ends with this process; the autoscaler's idle time keeps the nodes.
"""

from __future__ import annotations

import sys

WAIT_SECONDS = 1800.0


def wait_for(resources: dict[str, float]) -> bool:
    """Tell whether the resources came in time; they are asked for in bundles of one unit."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    ray.init(address="auto", log_to_driver=False)
    bundles = [{name: 1.0} for name, amount in resources.items() for _ in range(int(amount))]
    group = placement_group(bundles, strategy="PACK")
    came = bool(group.wait(timeout_seconds=WAIT_SECONDS))
    remove_placement_group(group)
    ray.shutdown()
    return came


def main(arguments: list[str]) -> int:
    """Run from a job's command line; the exit status is 1 when the resources did not come."""
    wanted = {
        name: float(amount) for name, _, amount in (word.partition("=") for word in arguments)
    }
    spelled = " ".join(arguments)
    sys.stderr.write(f"waiting for {spelled}\n")
    if wait_for(wanted):
        return 0
    sys.stderr.write(f"error: {spelled} did not come within {WAIT_SECONDS / 60:.0f} minutes\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
