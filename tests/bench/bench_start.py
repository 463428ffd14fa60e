"""Seconds to the first count of a certification and to its end, on this machine and on Ray.

    python tests/bench/bench_start.py RUN [--n 1000] [--repeat 3]

Each is a process of its own, timed from its start, imports included.
"""

import argparse
import subprocess
import sys
import tempfile
import time

CERTIFY = """
import sys, rsray
from rsray.progress import Watch
run, n, out, address = sys.argv[1:]

def tell(now):
    if now["draws"]:
        print("count", flush=True)

watch = Watch(certifying=tell, say=lambda line: print(line, flush=True))
rsray.certify(run, n=int(n), out=out, address=address or None, progress=watch)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    for name, address in (("own processes", ""), ("Ray", "local")):
        for _ in range(options.repeat):
            first, end = timed(options.run, options.n, address)
            print(
                f"{name:<14} first count after {first:5.1f} s, end after {end:5.1f} s", flush=True
            )


def timed(run, n, address):
    """Return the seconds to the first count and to the end."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", CERTIFY, run, str(n), f"{folder}/cert", address]
        started, first = time.perf_counter(), 0.0
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line == "count\n":
                first = first or time.perf_counter() - started
            else:
                print(f"  {line}", end="")
        assert process.wait() == 0
        return first, time.perf_counter() - started


if __name__ == "__main__":
    main()
