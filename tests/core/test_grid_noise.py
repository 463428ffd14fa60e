"""Exact noise: thresholds against integer arithmetic, the distribution, the streams, the attack."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_noise import block
from scipy import stats
from torch import nn

from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.core import NOISES
from rsray.core.bounds.clopper_pearson import CLOPPER_PEARSON
from rsray.core.evidence import ABSTAIN, Evidence
from rsray.core.grid_noise import (
    LARGEST_SIGMA,
    CounterUniform,
    GridNoise,
    TorchUniform,
    uniform_source,
)
from rsray.core.noise import STAGES, Stream
from rsray.core.smoothed import SmoothedClassifier
from rsray.errors import UserError

CPU = torch.device("cpu")
HERE = Stream(3, 17, "estimation", 5)
BITS = 512


def pi_bits():
    """Return pi times 2^BITS, within 2^8, by Machin's formula in integers."""

    def arctan(inverse):
        term = total = (1 << (BITS + 32)) // inverse
        for k in itertools.count(1):
            term //= -inverse * inverse
            if term in (0, -1):
                return total
            total += term // (2 * k + 1)

    return (16 * arctan(5) - 4 * arctan(239)) >> 32


def normal_tail(numerator, denominator):
    """Return Phi(-numerator/denominator) times 2^BITS by integers alone, within 2^(BITS - 300).

    Phi(-x) = 1/2 - (x - x^3/6 + x^5/40 - ...) / sqrt(2 pi): the terms grow to at most 2^62 here.
    """
    one = 1 << BITS
    x = numerator * one // denominator
    power, total, k = x, x, 0
    while power:
        k += 1
        # x^(2k+1) / (2^k k!), without its sign.
        power = power * x // one * x // one // (2 * k)
        total += (-1) ** k * (power // (2 * k + 1))
    root = math.isqrt(2 * pi_bits() << BITS)
    return one // 2 - total * one // root


@pytest.mark.parametrize("sigma", [0.01, 0.12, 0.25, 0.5, 1.0, 2.0])
def test_thresholds_are_the_exact_ones_rounded(sigma):
    noise = GridNoise.of(sigma)
    below = noise.thresholds[: -noise.lowest][::-1]
    ratio_top, ratio_bottom = sigma.as_integer_ratio()
    chosen = {*range(0, len(below), max(1, len(below) // 60)), len(below) - 1}
    for i in sorted(chosen):
        exact = normal_tail((2 * i + 1) * ratio_bottom, 2 * 255 * ratio_top)
        # In units of 2^-64: half a unit is all that rounding may take.
        assert abs((int(below[i]) << (BITS - 64)) - exact) <= (1 << (BITS - 65)) + (1 << 250)
    beyond = normal_tail((2 * len(below) + 1) * ratio_bottom, 2 * 255 * ratio_top)
    assert beyond <= (1 << (BITS - 65)) + (1 << 250)
    above = noise.thresholds[-noise.lowest :]
    assert [2**64 - int(each) for each in above] == [int(each) for each in below]


@pytest.mark.parametrize("sigma", [0.01, 0.25, 2.0])
def test_the_total_variation_that_is_stated_covers_every_threshold(sigma):
    noise = GridNoise.of(sigma)
    own = (len(noise.thresholds) + 2) * 2.0**-65
    assert own <= noise.total_variation(sigma, (1,)) <= 2.2 * own
    assert noise.total_variation(sigma, (3, 224, 224)) == pytest.approx(
        150_528 * noise.total_variation(sigma, (1,))
    )
    assert noise.total_variation(1.0, (3, 224, 224)) < 1e-10


@pytest.mark.parametrize("sigma", [0.01, 0.25, 1.0, 2.0])
def test_table_and_search_give_what_the_definition_says(sigma):
    """At every threshold, beside it, at the ends of cells: the number of thresholds at most u."""
    noise = GridNoise.of(sigma)
    edges = [0, 1, 2**64 - 1, 2**63, 2**48, 2**48 - 1]
    edges += [int(t) + d for t in noise.thresholds[::7] for d in (-1, 0, 1)]
    edges += [int(t) for t in np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)]
    edges = [u for u in edges if u < 2**64]
    want = noise.lowest + np.searchsorted(noise.thresholds, np.array(edges, np.uint64), "right")
    want = want.tolist()

    undecided = {int(start) >> 48 for start in noise.starts}

    class Given:
        def cells(self, count):
            return np.array([u >> 48 for u in edges], dtype=np.uint16)

        def rest(self, count):
            words = [u & (2**48 - 1) for u in edges if u >> 48 in undecided]
            assert len(words) == count
            return np.array(words, dtype=np.uint64)

    assert noise._by_table(Given(), len(edges)).tolist() == want
    moved = torch.tensor([u - 2**63 for u in edges])
    assert noise._by_search(moved).tolist() == want


def chi_square(noise, values_per_part, parts, source):
    """Return the p-value of the counts of all values, the tails together, against the exact ones."""
    size = len(noise.thresholds) + 1
    counts = np.zeros(size, dtype=np.int64)
    for _ in range(parts):
        values = noise.draw(source, (values_per_part,)).numpy().astype(np.int64) - noise.lowest
        counts += np.bincount(values, minlength=size)
    bounds = [0.0, *(float(t) / 2.0**64 for t in noise.thresholds[: -noise.lowest])]
    half = np.diff([*bounds, 0.5])
    exact = np.concatenate([half[:-1], [1 - 2 * half[:-1].sum()], half[:-1][::-1]])
    expected = exact * counts.sum()
    # Tails of at least 10 expected values each: the outermost values stand together.
    cut = int(np.searchsorted(np.cumsum(expected), 10.0))
    pooled = [
        np.concatenate([[e[: cut + 1].sum()], e[cut + 1 : -cut - 1], [e[-cut - 1 :].sum()]])
        for e in (counts, expected)
    ]
    assert pooled[0].sum() == values_per_part * parts
    return stats.chisquare(pooled[0], pooled[1] * pooled[0].sum() / pooled[1].sum()).pvalue


@pytest.mark.parametrize(("sigma", "parts"), [(0.01, 4), (0.25, 50), (1.0, 4)])
def test_the_values_are_distributed_as_the_thresholds_say(sigma, parts):
    """Over up to 1e8 values, tails included; another sigma would fail."""
    noise = GridNoise.of(sigma)
    assert chi_square(noise, 2_000_000, parts, CounterUniform(HERE)) > 1e-4


def test_the_chi_square_test_can_fail():
    wrong = GridNoise.of(0.25)
    near = GridNoise(**{**vars(GridNoise.of(0.251)), "thresholds": wrong.thresholds})
    near = replace(near, lowest=wrong.lowest)
    assert chi_square(near, 2_000_000, 1, CounterUniform(HERE)) < 1e-6


def test_a_gpus_way_gives_the_same_distribution():
    source = TorchUniform(torch.Generator().manual_seed(5))
    assert chi_square(GridNoise.of(0.25), 2_000_000, 2, source) > 1e-4


def test_the_noise_is_as_it_was():
    """The same on every chip: numpy's Philox and integers; these values are part of a format."""
    values = block("grid", HERE, 2, (1, 2, 3), 0.25) * 255
    assert values.flatten().round().int().tolist() == GOLDEN


GOLDEN = [69, -57, 11, 34, -12, -75, 99, 62, -11, -184, -131, 11]


def test_no_two_blocks_share_a_number():
    """Key and counter are the stream's name, so it is enough that they differ."""

    def name(stream):
        source = CounterUniform(stream)
        states = [philox.state["state"] for philox in (source._cells, source._rest)]
        return [(tuple(s["key"].tolist()), tuple(s["counter"].tolist()[2:])) for s in states]

    images = [0, 1, 2, 12_642, 41_903, 49_999]
    blocks = [0, 1, 2, 50, 99, 100]
    streams = [Stream(7, i, stage, b) for i in images for stage in STAGES for b in blocks]
    names = [each for stream in streams for each in name(stream)]
    assert len(set(names)) == 2 * len(streams)
    assert name(Stream(7, 12_642, "estimation", 9)) == [
        ((7, 12_642), (9, 2)),
        ((7, 12_642), (9, 3)),
    ]


def test_no_two_blocks_of_50000_images_have_the_same_seed_on_a_gpu():
    """The seeds' upper halves tell images apart; where two agree, all their blocks are compared."""
    by_half = {}
    for index in range(50_000):
        first = Stream(0, index, "estimation", 0).number()
        by_half.setdefault(first >> 32, []).append(index)
    for images in (each for each in by_half.values() if len(each) > 1):
        numbers = [
            Stream(0, index, stage, b).number()
            for index in images
            for stage in ("selection", "estimation")
            for b in range(101)
        ]
        assert len(set(numbers)) == len(numbers)


def test_a_sigma_too_large_for_16_bits_is_refused():
    with pytest.raises(UserError, match="--noise float"):
        GridNoise.of(LARGEST_SIGMA * 1.01)
    with pytest.raises(UserError, match="sigma is 0"):
        GridNoise.of(0.0)


def test_uniform_numbers_come_from_torch_where_there_is_a_gpu():
    assert isinstance(uniform_source(HERE, CPU), CounterUniform)
    words = TorchUniform(torch.Generator().manual_seed(0)).words(100_000).double()
    assert stats.kstest(words.numpy() / 2.0**64 + 0.5, "uniform").pvalue > 1e-4


class ReadsLowBits(nn.Module):
    """Class 1 if some pixel lies in (-2^-8, 0) and is no multiple of 2^-31 (Voracek & Hein 2023).

    With float32 noise the black image's sums are rounded otherwise than those of the image 1/255.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        fine = images.double() * 2.0**31
        hit = ((images < 0) & (images > -(2**-8)) & (fine != fine.round())).flatten(1).any(1)
        return torch.stack([(~hit).float(), hit.float()], 1)


class ReadsParity(ReadsLowBits):
    """Class 1 if most negative pixels have an odd last bit of the mantissa."""

    def forward(self, images):
        bits = images.float().view(torch.int32) & 1
        odd = (bits * (images < 0)).flatten(1).sum(1) * 2 > (images < 0).flatten(1).sum(1)
        return torch.stack([(~odd).float(), odd.float()], 1)


def contradict(first, second, distance):
    """Whether two certificates (class, radius) cannot both hold at so small a distance."""
    is_said = min(first[0], second[0]) != ABSTAIN
    return is_said and first[0] != second[0] and first[1] + second[1] > distance


def engine_certificate(network, level, kind, precision, sigma=0.25, shape=(3, 32, 32)):
    evaluation = Evaluation("cpu", precision, "channels_last", 96)
    sampler = Sampler(
        network, evaluation, image_shape=shape, num_classes=2, sigma=sigma, seed=level, noise=kind
    )
    image = np.full(shape, level, dtype=np.uint8)
    tables = [
        sampler.counts(image, level, stage, [(0, draws)])
        for stage, draws in (("selection", 100), ("estimation", 2000))
    ]
    off = NOISES[kind].total_variation(sigma, shape)
    decision = CLOPPER_PEARSON.decide(
        Evidence.of_counts(*tables), sigma=sigma, alpha=0.001, total_variation=off
    )
    return int(decision.prediction[0]), float(decision.radius[0])


DISTANCE = math.sqrt(3 * 32 * 32) / 255


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", [ReadsLowBits(), ReadsParity()], ids=["low bits", "parity"])
def test_no_network_gets_two_contradictory_certificates_from_the_engine(network, precision):
    black, next_to_it = (engine_certificate(network, v, "grid", precision) for v in (0, 1))
    assert not contradict(black, next_to_it, DISTANCE)


def test_with_float_noise_the_attack_succeeds():
    black, next_to_it = (engine_certificate(ReadsLowBits(), v, "float", "fp32") for v in (0, 1))
    assert contradict(black, next_to_it, DISTANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("network", [ReadsLowBits, ReadsParity])
def test_nor_from_the_smoothed_classifier(network, dtype):
    smoothed = SmoothedClassifier(network().to(dtype), 0.25, 2)
    found = [
        smoothed.certify(
            torch.full((3, 32, 32), v / 255), n=2000, generator=torch.Generator().manual_seed(v)
        )
        for v in (0, 1)
    ]
    assert [each.noise for each in found] == ["grid", "grid"]
    assert not contradict(*((each.prediction, each.radius) for each in found), DISTANCE)


def test_an_image_off_the_grid_gets_float_noise_and_its_certificate_says_so():
    smoothed = SmoothedClassifier(ReadsLowBits(), 0.25, 2)
    image = torch.full((1, 8, 8), 0.5)
    assert smoothed.certify(image, n=200).noise == "float32"
    assert smoothed.certify((image * 255).round() / 255, n=200).noise == "grid"
    assert smoothed.certify((image * 255).to(torch.uint8), n=200).noise == "grid"
    wide = SmoothedClassifier(ReadsLowBits(), LARGEST_SIGMA + 1, 2)
    assert wide.certify((image * 255).to(torch.uint8), n=200).noise == "float32"


def test_the_total_variation_comes_off_the_bound():
    tables = np.array([[100, 0]]), np.array([[990, 10]])
    evidence = Evidence.of_counts(*tables)
    plain, less = (
        CLOPPER_PEARSON.decide(evidence, sigma=0.5, alpha=0.001, total_variation=off)
        for off in (0.0, 0.01)
    )
    assert less.p_a_lower == pytest.approx(plain.p_a_lower - 0.01)
    assert less.radius < plain.radius
