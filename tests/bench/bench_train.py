"""Draws per second of a MACER training step: ours, and the published one, in one run.

    uv run python tests/bench/bench_train.py [--quick] [--network lenet] [--precision bf16]

(a) our step: noise, one forward pass, objective, backward, SGD, figures kept on the device; like
    (b) without fetching and augmenting the images
(b) the published step: float32, contiguous, boolean indexing, `.item()` twice a step, in a process
    of its own, which gives memory back to the kernel as any Python process does (ours keeps it)
(c) the limit: forward and backward of the same network on as many noisy images, laid out alike, that
    are there already, nothing else
The three are timed in turn, several rounds, and medians of the rounds' ratios are shown: other load
on the machine falls on all alike. The share of the step outside forward and backward is 1 - a/c.
"""

import argparse
import datetime
import itertools
import os
import platform
import statistics
import time

import torch
import torch.nn.functional as F  # noqa: N812
from published import Apart, as_published

from rsray.core.hardware import computes_bf16, dedicate_process, default_device, device_name
from rsray.models import build
from rsray.objectives import Macer
from rsray.training.batches.randomness import draw_batch_noise
from rsray.training.step import AutocastNetwork, Batch, EpochSums, Stepper

SIGMA, TRADE_OFF, HINGE, BETA = 0.25, 12.0, 8.0, 16.0
# shape, classes, images of a batch, draws per image: the papers' settings
CASES = {
    "lenet": ((1, 28, 28), 10, 64, 16),
    "resnet110": ((3, 32, 32), 10, 64, 16),
    "resnet50": ((3, 224, 224), 1000, 16, 2),
}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)


class Ours:
    def __init__(self, name, precision, device):
        shape, classes, self.images, self.draws = CASES[name]
        torch.manual_seed(0)
        model = build(name, image_shape=shape, num_classes=classes)
        self.model = model.to(device, memory_format=torch.channels_last).train()
        self.network = AutocastNetwork(self.model, precision)
        self.stepper = Stepper(self.network, sgd(self.model))
        self.objective = Macer(
            sigma=SIGMA, num_draws=self.draws, trade_off=TRADE_OFF, hinge=HINGE,
            inverse_temperature=BETA,
        )  # fmt: skip
        self.tally, self.count = EpochSums(device), itertools.count()
        self.pictures = torch.randint(
            0, 256, (self.images, *shape), dtype=torch.uint8, device=device
        )
        self.labels = torch.randint(0, classes, (self.images,), device=device)

    def step(self):
        key = (0, 0, next(self.count))
        batch = Batch(self.pictures, self.labels, range(self.images), self.images, key)
        self.stepper.step(batch, self.objective, self.tally)


class Limit(Ours):
    def __init__(self, name, precision, device):
        super().__init__(name, precision, device)
        shape, classes, *_ = CASES[name]
        rows = self.images * self.draws
        noise = draw_batch_noise(range(self.images), self.draws, shape, 1.0, (0,), device)
        self.noisy = noise.flatten(0, 1)  # the strides that a step's images have
        self.gradient = torch.randn(rows, classes, device=device) / rows

    def step(self):
        self.model.zero_grad(set_to_none=True)
        logits = self.network(self.noisy)
        logits.backward(self.gradient.to(logits.dtype))


class Published:
    """The authors' step as their paper and code describe it."""

    def __init__(self, name, device):
        shape, classes, self.images, self.draws = CASES[name]
        torch.manual_seed(0)
        model = build(name, image_shape=shape, num_classes=classes)
        self.model = as_published(name, model).to(device).train()
        self.optimiser, self.total = sgd(self.model), 0.0
        self.normal = torch.distributions.Normal(
            torch.tensor([0.0], device=device), torch.tensor([1.0], device=device)
        )
        self.pictures = torch.rand(self.images, *shape, device=device)
        self.labels = torch.randint(0, classes, (self.images,), device=device)

    def step(self):
        images, (size, draws) = self.pictures, (self.images, self.draws)
        images = images.repeat((1, draws, 1, 1)).view(size * draws, *images.shape[1:])
        logits = self.model(images + torch.randn_like(images) * SIGMA).reshape(size, draws, -1)
        mean = F.softmax(logits, dim=2).mean(1)
        classification = F.nll_loss(torch.log(mean + 1e-10), self.labels, reduction="sum")
        self.total += classification.item()
        top, which = torch.topk(F.softmax(logits * BETA, dim=2).mean(1), 2)
        right = which[:, 0] == self.labels
        first, second = top[right, 0], top[right, 1]
        gap = self.normal.icdf(second) - self.normal.icdf(first)
        kept = ~torch.isnan(gap) & ~torch.isinf(gap) & (gap.abs() <= HINGE)
        first, second = first[kept], second[kept]
        hinge = (self.normal.icdf(second) - self.normal.icdf(first) + HINGE).sum() * SIGMA / 2
        self.total += hinge.item()
        loss = (classification + TRADE_OFF * hinge) / size
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def published_rate(name):
    """Return the function that `Apart` calls."""
    device = default_device()
    each = Published(name, device)
    each.step()
    return lambda seconds: rate(each, seconds, device)


def rate(each, seconds, device):
    """Return draws per second over about so many seconds."""
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or not rounds:
        each.step()
        rounds += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return rounds * each.images * each.draws / (time.perf_counter() - started)


def bench(name, precisions, device, quick):
    seconds, rounds = (1.0, 3) if quick else (4.0, 5)
    published, contenders = Apart(published_rate, name), {}
    for precision in precisions:
        contenders[f"a {precision}"] = Ours(name, precision, device)
        contenders[f"c {precision}"] = Limit(name, precision, device)
    found = {key: [] for key in ("b", *contenders)}
    for each in contenders.values():
        each.step()
    for _ in range(rounds):
        found["b"].append(published.rate(seconds))
        for key, each in contenders.items():
            found[key].append(rate(each, seconds, device))
    images, draws = CASES[name][2:]
    print(f"{name}, {images} images x {draws} draws")
    print(f"  (b) published step, fp32             {statistics.median(found['b']):10,.1f} draws/s")
    for precision in precisions:
        ours, limit = found[f"a {precision}"], found[f"c {precision}"]
        over_b = statistics.median(x / y for x, y in zip(ours, found["b"], strict=True))
        over_c = statistics.median(x / y for x, y in zip(ours, limit, strict=True))
        print(
            f"  (a) our step, {precision}                   {statistics.median(ours):10,.1f} draws/s"
            f"   a/b {over_b:.2f}   outside forward and backward {1 - over_c:.1%}"
        )
        print(
            f"  (c) forward and backward, {precision}       {statistics.median(limit):10,.1f} draws/s"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--network", choices=CASES, action="append")
    parser.add_argument("--precision", choices=("fp32", "bf16"), action="append")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    dedicate_process(options.threads)
    device = default_device()
    usual = ["bf16", "fp32"] if computes_bf16(device.type) else ["fp32"]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"{datetime.date.today()}  {platform.node()}  {device_name(device)}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, load {load}"
    )
    for name in options.network or CASES:
        bench(name, options.precision or usual, device, options.quick)


if __name__ == "__main__":
    main()
