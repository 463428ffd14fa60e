"""Draws per second: the engine, the published loop, and the bare forward pass, in one run.

    uv run python tests/bench/bench_certify.py [--quick] [--network lenet] [--end-to-end RUN]

(a) the engine: `Sampler.counts`, noise and counting included, eager and compiled
(b) the published loop of Cohen et al. (2019): float32, contiguous, counted in Python, in a process
    of its own, which gives memory back to the kernel as any Python process does (ours keeps it)
(c) the limit: the fastest forward pass of the same network found by any means, nothing else
(d) with --end-to-end: the whole `rsray certify` command on a RUN, against (a) in as many one-thread
    processes as there are actors, and the peak memory of its process tree
The three are measured in turn, several rounds, and medians are shown: other load on the machine
falls on all alike. Networks are untrained, with batch norm settled on noisy pictures and a last layer
fitted by least squares to tell ten pictures apart, so that their answers have margins.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from published import Apart, as_published
from torch import nn

from rsray.certification.engine.compiled import CompileError, compiled_batch
from rsray.certification.engine.evaluation import EvaluatedNetwork, Evaluation, choose_evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.core.hardware import computes_bf16, dedicate_process, default_device, device_name
from rsray.models import build
from rsray.storage.yaml_files import from_yaml

SIGMA, CLASSES = 0.25, 10
SHAPES = {"lenet": (1, 28, 28), "resnet110": (3, 32, 32), "resnet50": (3, 224, 224)}
PUBLISHED_BATCH = {"lenet": 1000, "resnet110": 400, "resnet50": 32}
FITTED = {"lenet": 500, "resnet110": 300, "resnet50": 60}  # draws that the last layer is fitted to
COMPARED = {"lenet": 4000, "resnet110": 800, "resnet50": 120}  # draws whose top-1 is compared


def published_loop(model, x, num, batch_size, deadline):
    """Cohen et al.'s `_sample_noise`, to the letter; stops early at the deadline."""
    with torch.no_grad():
        counts, done = np.zeros(CLASSES, dtype=int), 0
        while num > 0 and time.perf_counter() < deadline:
            this_batch_size = min(batch_size, num)
            num -= this_batch_size
            batch = x.repeat((this_batch_size, 1, 1, 1))
            noise = torch.randn_like(batch, device=x.device) * SIGMA
            predictions = model(batch + noise).argmax(1)
            counts += count_arr(predictions.cpu().numpy(), CLASSES)
            done += this_batch_size
        return done


def count_arr(arr, length):
    """Cohen et al.'s `_count_arr`."""
    counts = np.zeros(length, dtype=int)
    for idx in arr:
        counts[idx] += 1
    return counts


@torch.no_grad()
def make_model(name, device):
    """Return (network, pictures uint8 [10, C, H, W])."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    model = build(name, image_shape=shape, num_classes=CLASSES).eval().to(device)
    coarse = torch.rand(CLASSES, shape[0], 7, 7)
    colours = torch.rand(CLASSES, shape[0], 1, 1)  # average pooling sees little else
    pictures = 0.4 * nn.functional.interpolate(coarse, shape[1:], mode="bilinear") + 0.6 * colours
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    labels = torch.arange(FITTED[name]) % CLASSES
    parts = [
        (pictures[part] + SIGMA * torch.randn(len(part), *shape)).to(device)
        for part in labels.split(20)
    ]
    settle(model, parts[0])
    features = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].double()))
    for part in parts:
        model(part)
    hook.remove()
    x = torch.cat(features)
    centre = x.mean(0)
    gram = (x - centre) @ (x - centre).T
    ridge = 1e-2 * gram.diagonal().mean() * torch.eye(len(x), device=device)
    wanted = nn.functional.one_hot(labels, CLASSES).double().to(device) - 1 / CLASSES
    weight = ((x - centre).T @ torch.linalg.solve(gram + ridge, wanted)).T
    head.weight.copy_(weight)
    head.bias.copy_(-(weight @ centre))
    return model, (pictures * 255).byte().numpy()


def settle(model, images):
    """Give every batch norm the statistics of these images, and a scale and shift at random.

    The last of a residual block gets a small scale, as in training's first epochs: a hundred
    random layers at full scale would leave nothing of the picture.
    """
    names = dict(model.named_modules())
    norms = {name: each for name, each in names.items() if isinstance(each, nn.BatchNorm2d)}
    for name, module in norms.items():
        block, _, own = name.rpartition(".")
        is_last = own == "bn3" or (own == "bn2" and f"{block}.bn3" not in names)
        module.weight.uniform_(0.5, 1.0)
        module.weight.mul_(0.2 if is_last else 1.0)
        module.bias.normal_(0, 0.1 * float(not is_last))
        module.momentum = 1.0
    if norms:
        model.train()(images)
        model.eval()


def make_sampler(model, evaluation, shape, classes=CLASSES):
    return Sampler(model, evaluation, image_shape=shape, num_classes=classes, sigma=SIGMA, seed=0)


def time_engine(sampler, picture, seconds):
    """Return draws per second of (a), in items of about a fifth of the time."""
    speed = max(sampler.evaluation.draws_per_second, 1)
    batch = sampler.evaluation.batch_size
    draws = batch * max(1, round(speed * seconds / 5 / batch))
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        sampler.counts(picture, 0, "estimation", [(done, draws)])
        done += draws
    return done / (time.perf_counter() - started)


def published_rate(name):
    """Return the function that `Apart` calls."""
    device = default_device()
    model, pictures = make_model(name, device)
    model, batch = as_published(name, model), PUBLISHED_BATCH[name]
    x = torch.from_numpy(pictures[0]).float().div(255).to(device)

    def rate(seconds):
        started = time.perf_counter()
        done = published_loop(model, x, 10**9, batch, started + seconds)
        return done / (time.perf_counter() - started)

    return rate


def time_forward(network, seconds):
    """Return draws per second of a bare forward pass over the buffer: (c)."""
    network.buffer_BCHW.normal_(0.5, SIGMA)
    started, rounds = time.perf_counter(), 0
    with torch.no_grad():
        while time.perf_counter() - started < seconds:
            network._forward(network.buffer_BCHW)
            if network.device.type == "cuda":
                torch.cuda.synchronize()
            rounds += 1
    return rounds * len(network.buffer_BCHW) / (time.perf_counter() - started)


def candidates(model, name, precision, device, quick, ready):
    """Yield (what it is, network) of forward passes that may be the fastest."""
    middle = compiled_batch(SHAPES[name], device.type)
    for evaluation, network in ready:
        yield f"{'compiled' if evaluation.compiled else 'eager'} {evaluation.memory_format} " \
              f"B {evaluation.batch_size}", network  # fmt: skip
    batches = (middle,) if quick else (middle // 2, middle, 2 * middle)
    for is_compiled in (False,) if quick else (False, True):
        for memory_format in ("channels_last", "contiguous"):
            for batch in batches:
                evaluation = Evaluation(device.type, precision, memory_format, batch, is_compiled)
                if is_compiled and memory_format == "contiguous":
                    continue  # compiled code lays its input out itself
                what = f"{'compiled' if is_compiled else 'eager'} {memory_format} B {batch}"
                try:
                    yield what, EvaluatedNetwork(model, evaluation, SHAPES[name])
                except CompileError as problem:
                    print(f"  {what}: {problem}")


@torch.no_grad()
def agreement(model, network, pictures, draws):
    """Return the share of noisy draws on which the optimised network's top-1 is the model's."""
    batch, same, done = len(network.buffer_BCHW), 0, 0
    generator = torch.Generator().manual_seed(1)
    while done < draws:
        which = torch.randint(len(pictures), (batch,), generator=generator)
        noise = SIGMA * torch.randn((batch, *pictures.shape[1:]), generator=generator)
        images = (torch.from_numpy(pictures)[which].float() / 255 + noise).to(network.device)
        network.buffer_BCHW.copy_(images)
        want = torch.cat([model(part) for part in images.split(32)]).argmax(1)
        same += int((network.logits().argmax(1) == want).sum())
        done += batch
    return same / done


def one_process(make, evaluation, picture, shape, classes, barrier, seconds, answers):
    """Time (a) with one thread, in a process of its own, at the same time as the others."""
    dedicate_process(1)
    sampler = make_sampler(make(), evaluation, shape, classes)
    barrier.wait()
    answers.put(time_engine(sampler, picture, seconds))


def in_processes(count, *arguments, seconds):
    """Return the sum of draws per second of `count` one-thread processes that run together."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=one_process, args=(*arguments, barrier, seconds, answers))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    total = sum(answers.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    return total


class Untrained:
    """Makes the network of a name; can be sent to another process."""

    def __init__(self, name):
        self.name = name

    def __call__(self):
        return make_model(self.name, torch.device("cpu"))[0]


class Trained:
    """Opens the network of a RUN; can be sent to another process."""

    def __init__(self, where):
        self.where = where

    def split(self):
        from rsray.certification.networks.opening import open_source
        from rsray.data import open_split

        source = open_source(self.where)
        return open_split(source.dataset, "test", source.data_root, image_size=source.image_size)

    def __call__(self):
        from rsray.certification.networks.opening import open_source

        return open_source(self.where).build(self.split())


def bench(name, options, device, precision):
    """Print (a), (b), (c) and the agreement of one network."""
    seconds, rounds = (1.0, 3) if options.quick else (3.0, 5)
    (model, pictures), shape = make_model(name, device), SHAPES[name]
    samplers = {}
    for compile in ("off",) if options.no_compile else ("off", "on"):
        started = time.perf_counter()
        chosen = choose_evaluation(
            model, shape, precision=precision, device=device, compile=compile
        )
        if compile == "off" or chosen.compiled:
            samplers[compile] = make_sampler(model, chosen, shape)
            print(f"  {_what(chosen)}: chosen and made in {time.perf_counter() - started:.1f} s")
    ready = [(each.evaluation, each._network) for each in samplers.values()]
    limits = list(candidates(model, name, precision, device, options.quick, ready))
    for _, network in limits:  # warm
        time_forward(network, 0.05)
    trial = {what: time_forward(network, seconds / 4) for what, network in limits}
    best = sorted(trial, key=trial.get)[-2:]
    if "on" in samplers:
        best = list({*best, limits[1][0]})
    rates, published = {}, Apart(published_rate, name)
    for _ in range(rounds):
        for key, sampler in samplers.items():
            rates.setdefault(f"a {key}", []).append(time_engine(sampler, pictures[0], seconds))
        for what in best:
            rates.setdefault(f"c {what}", []).append(time_forward(dict(limits)[what], seconds / 2))
        rates.setdefault("b", []).append(published.rate(seconds))
    report(name, samplers, rates, best, model, pictures)
    if options.processes and device.type == "cpu":
        fastest = samplers.get("on", samplers["off"]).evaluation
        total = in_processes(
            options.processes,
            Untrained(name),
            fastest,
            pictures[0],
            shape,
            CLASSES,
            seconds=seconds,
        )
        print(f"  (a) in {options.processes} one-thread processes together {total:11,.0f}")


def report(name, samplers, rates, best, model, pictures):
    middle = {key: statistics.median(values) for key, values in rates.items()}
    limit = max((f"c {what}" for what in best), key=middle.get)
    for key, sampler in samplers.items():
        a = rates[f"a {key}"]
        over_b = statistics.median(x / y for x, y in zip(a, rates["b"], strict=True))
        over_c = statistics.median(x / y for x, y in zip(a, rates[limit], strict=True))
        same = agreement(model, sampler._network, pictures, COMPARED[name])
        print(
            f"  (a) engine, {_what(sampler.evaluation):40s} {middle[f'a {key}']:11,.1f}   "
            f"a/b {over_b:5.2f}  a/c {over_c:4.2f}  top-1 agrees {same:.2%}"
        )
    print(f"  (b) published loop, fp32, B {PUBLISHED_BATCH[name]:<32d} {middle['b']:11,.1f}")
    print(f"  (c) limit: {limit[2:]:46s} {middle[limit]:11,.1f}")
    print("      all rounds: " + json.dumps({k: [round(x) for x in v] for k, v in rates.items()}))


def _what(evaluation):
    compiled = "compiled" if evaluation.compiled else "eager"
    return f"{evaluation.precision} {compiled} {evaluation.memory_format} B {evaluation.batch_size}"


def tree_bytes(root):
    """Return the proportional memory of a process and all below it; 0 where /proc is no help."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
        except OSError:
            continue
    members = {root}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    total = 0
    for pid in members:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def end_to_end(options):
    """Print (d): the command's draws per second against (a), and its peak memory.

    (a) is measured before the command and after it, where it does not compile the network, and
    after it alone otherwise: the machine's speed drifts.
    """
    trained, actors = Trained(options.end_to_end), options.actors or os.cpu_count()
    split = trained.split()

    def engine(evaluation):
        return in_processes(
            actors, trained, evaluation, split.images([0])[0], split.image_shape,
            split.num_classes, seconds=2.0 if options.quick else 20.0,
        )  # fmt: skip

    precision = options.precision or ("bf16" if computes_bf16("cpu") else "fp32")
    eager = choose_evaluation(
        trained(), split.image_shape, precision=precision, device=torch.device("cpu"), compile="off"
    )
    engines = [engine(eager)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(options.keep or folder) / "cert"
        arguments = [
            "certify", options.end_to_end, "--n", str(options.n), "--limit", str(options.limit),
            "--out", str(out), *(["--actors", str(options.actors)] if options.actors else []),
            *options.argument,
        ]  # fmt: skip
        command = [sys.executable, "-c", "from rsray_cli.main import run; run()", *arguments]
        started, peak, over = time.perf_counter(), [0], threading.Event()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def watch():
            while not over.wait(10.0):  # it takes 60 ms, of the cores that are measured
                peak[0] = max(peak[0], tree_bytes(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = process.wait()
        seconds = time.perf_counter() - started
        over.set()
        watcher.join()
        if status:
            sys.exit(f"rsray {' '.join(arguments)} failed with status {status}")
        summary = json.loads((out / "summary.json").read_text())
        record = from_yaml((out / "certify.yaml").read_bytes(), "certify.yaml")
    evaluation = Evaluation(**record["evaluation"])
    if evaluation.compiled:
        engines.clear()
    engines.append(engine(evaluation))
    draws, inside, bare = summary["draws"], summary["seconds"], statistics.mean(engines)
    print(f"rsray {' '.join(arguments)}: {draws:,} draws, {_what(evaluation)}")
    shown = ", ".join(f"{each:,.0f}" for each in engines)
    print(f"  (a) in {actors} one-thread processes {bare:11,.0f}   ({shown})")
    print(f"  (d) whole command, {seconds:6.1f} s     {draws / seconds:11,.0f}   d/a {draws / seconds / bare:.2f}")  # fmt: skip
    print(f"      from first plan to last count, {inside:.1f} s: d/a {draws / inside / bare:.2f}")
    print(f"      peak memory of the process tree {peak[0] / 2**20:,.0f} MiB")


@torch.no_grad()
def agree(options, device, precision):
    """Print how often the engine's network and the original agree on a trained RUN's test images.

    Both see the same noise; counts are compared with the spread that other noise would give them.
    """
    from rsray.certification.networks.opening import open_source

    trained = Trained(options.agreement)
    sigma, split = open_source(options.agreement).sigma, trained.split()
    model, per_image = trained().to(device), 200 if options.quick else 1000
    chosen = np.linspace(0, len(split) - 1, 20 if options.quick else 50).astype(np.int64)
    for compile in ("off",) if options.no_compile else ("off", "on"):
        evaluation = choose_evaluation(
            model, split.image_shape, precision=precision, device=device, compile=compile
        )
        network = EvaluatedNetwork(model, evaluation, split.image_shape)
        batch, same, largest = evaluation.batch_size, 0, 0.0
        for index in chosen.tolist():
            image = torch.from_numpy(split.images([index])[0]).float() / 255
            generator = torch.Generator().manual_seed(index)
            rounds = -(-per_image // batch)
            got, want = np.zeros(split.num_classes), np.zeros(split.num_classes)
            for _ in range(rounds):
                noise = torch.randn((batch, *split.image_shape), generator=generator)
                noisy = (image + sigma * noise).to(device)
                seen = noisy
                if network.mean_C is not None:
                    mean_C, std_C = network.mean_C.to(device), network.std_C.to(device)
                    seen = (noisy - mean_C[:, None, None]) / std_C[:, None, None]
                network.buffer_BCHW.copy_(seen)
                ours = network.logits().argmax(1)
                theirs = torch.cat([model(part) for part in noisy.split(64)]).argmax(1)
                same += int((ours == theirs).sum())
                got += np.bincount(ours.cpu().numpy(), minlength=split.num_classes)
                want += np.bincount(theirs.cpu().numpy(), minlength=split.num_classes)
            draws = rounds * batch
            spread = np.sqrt(np.maximum(want * (draws - want) / draws, 1.0))
            largest = max(largest, float((np.abs(got - want) / spread).max()))
        total = draws * len(chosen)
        print(
            f"{options.agreement}: {_what(evaluation)}: top-1 agrees on {same / total:.2%} of {total:,} "
            f"draws; counts differ by at most {largest:.2f} standard deviations"
        )


def main():
    """Print the header, then each network, then the whole command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--network", choices=list(SHAPES), action="append")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--agreement", metavar="RUN", help="compare top-1 on a trained network only"
    )
    parser.add_argument("--processes", type=int, default=0, help="also (a) in N processes at once")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--end-to-end", metavar="RUN")
    parser.add_argument("--keep", metavar="FOLDER", help="leave CERT of --end-to-end in there")
    parser.add_argument("--n", type=int, default=100_000, help="of --end-to-end")
    parser.add_argument("--limit", type=int, default=60, help="images of --end-to-end")
    parser.add_argument("--actors", type=int, help="of --end-to-end")
    parser.add_argument("--argument", action="append", default=[], help="more for rsray certify")
    options = parser.parse_args()
    dedicate_process(options.threads)
    device = default_device()
    precision = options.precision or ("bf16" if computes_bf16(device.type) else "fp32")
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"{datetime.date.today()}  {platform.node()}  {device_name(device)}, {os.cpu_count()} cores, "
        f"{options.threads} threads, torch {torch.__version__}, load {load}; draws per second"
    )
    if options.agreement:
        agree(options, device, precision)
    elif not options.end_to_end or options.network:
        for name in options.network or SHAPES:
            print(f"{name} {'x'.join(map(str, SHAPES[name]))}", flush=True)
            bench(name, options, device, precision)
    if options.end_to_end:
        end_to_end(options)
    print(f"load now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
