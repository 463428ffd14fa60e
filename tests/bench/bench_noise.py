"""Exact noise against float32 noise: what it costs, and whether hits are as theory says.

    uv run python tests/bench/bench_noise.py [--network lenet ...] [--seconds 5] [--hits 3e8]

Values per second of each noise by itself, beside torch's normal_; draws per second of the counting
engine with each, in turn over several rounds, as medians and their ratio. With --hits, so many
draws of a linear network, whose hits have a known probability: z should have mean 0 and spread 1.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from bench_certify import SHAPES, SIGMA, make_model
from scipy.special import ndtr
from torch import nn

from rsray.certification.engine.evaluation import Evaluation, choose_evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.core import NOISES
from rsray.core.hardware import computes_bf16, dedicate_process, device_name
from rsray.core.noise import Affine, Stream

CPU, ROUNDS = torch.device("cpu"), 5
KINDS = ("float", "grid")


def values_per_second(kind, sigma, seconds=1.0):
    black = torch.zeros((32, 32, 3), dtype=torch.uint8)
    noise, done, started = NOISES[kind].of(sigma), 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        for slab in noise.noisy_slabs(black, [(Stream(0, 0, "estimation", done), 500)], Affine()):
            done += slab.numel()
    return done / spent


def of_torch(seconds=1.0):
    buffer, generator = torch.empty(2**16), torch.Generator().manual_seed(0)
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        done += buffer.normal_(0.0, SIGMA, generator=generator).numel()
    return done / spent


def speed_alone():
    for sigma in (0.25, 0.5, 1.0):
        rounds = [
            (of_torch(), *(values_per_second(kind, sigma) for kind in KINDS)) for _ in range(3)
        ]
        plain, floats, grid = (statistics.median(each) / 1e6 for each in zip(*rounds, strict=True))
        print(
            f"sigma {sigma:<5g} million values/s: normal_ {plain:.0f}; noisy images with float noise "
            f"{floats:.0f}, grid {grid:.0f} (grid/float {grid / floats:.2f})"
        )


def speed_of_engine(name, seconds):
    model, pictures = make_model(name, CPU)
    precision = "bf16" if computes_bf16(CPU) else "fp32"
    chosen = choose_evaluation(model, SHAPES[name], precision=precision, device=CPU, compile="off")
    samplers = {
        kind: Sampler(
            model, chosen, image_shape=SHAPES[name], num_classes=10, sigma=SIGMA, seed=0, noise=kind
        )
        for kind in KINDS
    }
    draws = chosen.batch_size * max(1, round(chosen.draws_per_second / chosen.batch_size))
    found = {kind: [] for kind in KINDS}
    for turn in range(ROUNDS):
        for kind in KINDS:
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < seconds / ROUNDS:
                samplers[kind].counts(pictures[0], turn, "estimation", [(done, draws)])
                done += draws
            found[kind].append(done / (time.perf_counter() - started))
    floats, grid = (statistics.median(found[kind]) for kind in KINDS)
    limit = chosen.draws_per_second
    print(
        f"{name} {precision}: engine with float noise {floats:,.0f} draws/s, grid {grid:,.0f} "
        f"(grid/float {grid / floats:.2f}, grid/forward pass alone {grid / limit:.2f})"
    )


def z_of_hits(kind, draws, images=3000, sigma=0.25):
    """Return the z-scores of the hits of a linear network, one for each image."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 2)
    with torch.no_grad():
        linear.weight[0].zero_()
        linear.bias.zero_()
    weight = linear.weight[1].detach().double().numpy()
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (images, 1, 8, 8), dtype=np.uint8)
    margins = pictures.reshape(images, 64) / 255.0 @ weight
    # Each image has a bias of its own, so that its probability is spread over (0.05, 0.95).
    wanted = rng.uniform(-1.6, 1.6, images) * sigma * np.linalg.norm(weight)
    sampler = Sampler(
        nn.Sequential(nn.Flatten(), linear), Evaluation("cpu", "fp32", "contiguous", 1024),
        image_shape=(1, 8, 8), num_classes=2, sigma=sigma, seed=1, noise=kind,
    )  # fmt: skip
    last = next(m for m in sampler._network.network.modules() if isinstance(m, nn.Linear))
    each = int(draws / images)
    scores = np.empty(images)
    for i in range(images):
        bias = np.float32(wanted[i] - margins[i])
        with torch.no_grad():
            last.bias[1] = float(bias)
        p = ndtr((margins[i] + float(bias)) / (sigma * np.linalg.norm(weight)))
        hits = sampler.counts(pictures[i], i, "estimation", [(0, each)])[0, 1]
        scores[i] = (hits - each * p) / np.sqrt(each * p * (1 - p))
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="*", default=["lenet"], choices=SHAPES)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--hits", type=float, default=0.0)
    options = parser.parse_args()
    dedicate_process(1, 0.0)
    print(f"{device_name(CPU)}, one thread")
    speed_alone()
    for name in options.network:
        speed_of_engine(name, options.seconds)
    for kind in KINDS if options.hits else ():
        z = z_of_hits(kind, options.hits)
        mean, error = z.mean(), 1 / np.sqrt(len(z))
        print(
            f"{kind} noise, {options.hits:.1e} draws of a linear network over {len(z)} images: "
            f"mean z {mean:+.4f} ({mean / error:+.2f} standard errors), spread {z.std():.3f}"
        )


if __name__ == "__main__":
    main()
