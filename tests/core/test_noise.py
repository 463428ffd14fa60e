"""Noise is N(0, sigma^2 I) and depends on (seed, index, stage, block) alone."""

import numpy as np
import pytest
import torch
from drawn_noise import block, slabs
from scipy import stats

from rsray.core import NOISES, grid_noise
from rsray.core import noise as noise_module
from rsray.core.noise import STAGES, Affine, Stream, _permute32, slab_draws

CPU = torch.device("cpu")
HERE = Stream(3, 17, "estimation", 5)
ELSEWHERE = [
    Stream(4, 17, "estimation", 5),
    Stream(3, 18, "estimation", 5),
    Stream(3, 17, "selection", 5),
    Stream(3, 17, "pilot", 5),
    Stream(3, 17, "validation", 5),
    Stream(3, 17, "estimation", 6),
    Stream(31, 7, "estimation", 5),  # the same digits, cut elsewhere
]


@pytest.fixture(params=["grid", "float"])
def kind(request):
    return request.param


def noise(kind, stream, draws=40, shape=(3, 8, 8), sigma=1.0):
    return block(kind, stream, draws, shape, sigma)


def spread_out(kind, values):
    """Noise on the grid spread evenly over its steps, so that it can be tested as continuous."""
    if kind == "float":
        return values
    return values + np.random.default_rng(0).uniform(-0.5, 0.5, values.shape) / 255


def test_same_name_same_noise(kind):
    assert torch.equal(noise(kind, HERE), noise(kind, Stream(3, 17, "estimation", 5)))


def test_other_random_numbers_do_not_matter(kind):
    want = noise(kind, HERE)
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state()
    assert torch.equal(noise(kind, HERE), want)
    assert torch.equal(torch.get_rng_state(), before)  # nor are they touched


def test_noise_does_not_depend_on_the_number_of_threads(kind):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = noise(kind, HERE, 700)
        torch.set_num_threads(2)
        assert torch.equal(noise(kind, HERE, 700), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("other", ELSEWHERE, ids=str)
def test_another_name_other_independent_noise(other, kind):
    a, b = noise(kind, HERE, 400).flatten(), noise(kind, other, 400).flatten()
    assert not torch.equal(a, b)
    correlation = torch.corrcoef(torch.stack([a, b]))[0, 1]
    assert abs(correlation) < 4.5 / np.sqrt(len(a))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 5, 7)])
def test_slabs_in_order_are_the_block(shape, kind):
    size = slab_draws(shape, CPU)
    for draws in (1, 7, size - 1, size, size + 1, 3 * size + 5):
        pieces = [slab.clone() for slab in slabs(kind, HERE, draws, shape, 1.0)]
        assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
        assert sum(map(len, pieces)) == draws
        assert torch.equal(torch.cat(pieces), noise(kind, HERE, draws, shape))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 5, 7)])
def test_a_longer_block_begins_with_the_shorter_ones_whole_slabs(shape, kind):
    size = slab_draws(shape, CPU)
    long = noise(kind, HERE, 4 * size + 3, shape)
    for whole in (1, 2, 4):
        assert torch.equal(noise(kind, HERE, whole * size, shape), long[: whole * size])


def test_what_is_done_to_a_slab_does_not_reach_the_next(kind):
    want = noise(kind, HERE, 100, (3, 32, 32))
    got = []
    for slab in slabs(kind, HERE, 100, (3, 32, 32), 1.0):
        got.append(slab.clone())
        slab.fill_(float("nan"))
    assert torch.equal(torch.cat(got), want)


def test_values_come_from_torchs_generator_in_channels_last_order():
    generator = torch.Generator().manual_seed(HERE.number())
    want = torch.empty(6, 8, 9, 3).normal_(0.0, 0.5, generator=generator).permute(0, 3, 1, 2)
    assert torch.equal(noise("float", HERE, 6, (3, 8, 9), 0.5), want)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_slabs_are_float32_and_channels_last(shape, kind):
    channels, height, width = shape
    for slab in slabs(kind, HERE, 10, shape, 0.25):
        assert slab.shape == (10, *shape) and slab.dtype == torch.float32
        assert slab.stride() == (channels * height * width, 1, channels * width, channels)
        assert slab.is_contiguous(memory_format=torch.channels_last)


def test_sigma_scales_and_nothing_else():
    quarter, whole = noise("float", HERE, sigma=0.25), noise("float", HERE)
    torch.testing.assert_close(quarter, 0.25 * whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("index", range(4))
def test_noise_is_standard_normal(index, kind):
    values = noise(kind, Stream(0, index, "estimation", 0), 150, (3, 16, 16), 0.5).double().numpy()
    n = values.size
    assert abs(values.mean()) < 4 * 0.5 / np.sqrt(n)
    assert abs(values.std() / 0.5 - 1) < 4 / np.sqrt(2 * n)
    assert stats.kstest(spread_out(kind, values).ravel() / 0.5, "norm").pvalue > 1e-3


def test_pixels_and_draws_are_uncorrelated(kind):
    values = noise(kind, HERE, 4000, (1, 4, 4)).flatten(1).double()
    between_pixels = torch.corrcoef(values.T) - torch.eye(16)
    assert between_pixels.abs().max() < 5 / np.sqrt(4000)
    after_each_other = torch.corrcoef(torch.stack([values[:-1, 0], values[1:, 0]]))[0, 1]
    assert abs(after_each_other) < 5 / np.sqrt(4000)


def test_the_first_values_of_many_blocks_are_normal(kind):
    # Seeds of neighbouring blocks must not give related streams.
    first = [
        float(noise(kind, Stream(0, 0, "estimation", block), 1, (1, 4, 4))[0, 0, 0, 0])
        for block in range(2000)
    ]
    assert stats.kstest(spread_out(kind, np.array(first)), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4.5 / np.sqrt(2000)


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (0, 49_999), (12_345, 7)])
def test_no_two_blocks_of_an_image_share_torchs_32_bits(seed, index):
    blocks = 10_000  # 10 million draws per stage in blocks of 1000
    numbers = {
        Stream(seed, index, stage, block).number() for stage in STAGES for block in range(blocks)
    }
    assert len({number & 0xFFFFFFFF for number in numbers}) == len(STAGES) * blocks
    assert len({number >> 32 for number in numbers}) == 1  # the image's own half
    assert all(0 <= number < 2**64 for number in numbers)


def test_torchs_cpu_generator_uses_the_low_32_bits():
    # Why the low half must be a permutation: if torch changes this, nothing is lost.
    number = HERE.number()
    low = torch.randn(100, generator=torch.Generator().manual_seed(number & 0xFFFFFFFF))
    assert torch.equal(torch.randn(100, generator=torch.Generator().manual_seed(number)), low)


def test_the_mix_is_a_permutation():
    def unshift(value, shift):
        result = value
        for _ in range(32 // shift + 1):
            result = value ^ (result >> shift)
        return result

    def inverse(value):
        value = unshift(value, 16) * pow(0x846CA68B, -1, 2**32) & 0xFFFFFFFF
        value = unshift(value, 15) * pow(0x7FEB352D, -1, 2**32) & 0xFFFFFFFF
        return unshift(value, 16)

    values = [0, 1, 2**31, 2**32 - 1, *np.random.default_rng(0).integers(0, 2**32, 1000).tolist()]
    assert [inverse(_permute32(value)) for value in values] == values


def test_different_images_have_different_streams():
    numbers = {Stream(s, i, "estimation", 0).number() for s in range(5) for i in range(2000)}
    assert len(numbers) == 10_000


def test_blocks_that_share_a_slab_on_a_gpu_have_the_noise_that_they_have_alone(kind, monkeypatch):
    """A GPU's way, on a CPU: slabs are joined there, and numbers come from torch's generators."""
    monkeypatch.setattr(noise_module, "JOINED_VALUES", 90 * 6)
    joined, slabs_of_streams = [], noise_module.slabs_of_streams

    def of_a_gpu(streams, make, image_shape, device):
        def make_here(stream, _):
            return make(stream, device)

        for parts in slabs_of_streams(streams, make_here, image_shape, torch.device("cuda")):
            joined.append([draws for _, draws in parts])
            yield parts

    for module in (noise_module, grid_noise):
        monkeypatch.setattr(module, "slabs_of_streams", of_a_gpu)
    monkeypatch.setattr(
        grid_noise, "uniform_source", lambda s, device: grid_noise.TorchUniform(s.generator(device))
    )
    image_HWC = torch.arange(6, dtype=torch.uint8).view(2, 3, 1)
    streams = [(Stream(3, 5, "estimation", b), n) for b, n in enumerate([40, 40, 40, 100, 7, 40])]

    def drawn(streams):
        slabs = NOISES[kind].of(0.5).noisy_slabs(image_HWC, streams, Affine())
        return torch.cat([slab.clone() for slab in slabs])

    together = drawn(streams)
    assert joined == [[40, 40], [40], [100], [7, 40]] and together.shape == (267, 1, 2, 3)
    assert torch.equal(together, torch.cat([drawn([each]) for each in streams]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_slabs_on_a_gpu(kind):
    device = torch.device("cuda")
    shape, size = (3, 32, 32), slab_draws((3, 32, 32), device)
    long = block(kind, HERE, size + 10, shape, 0.5, device)
    assert torch.equal(long[:size], block(kind, HERE, size, shape, 0.5, device))
    values = spread_out(kind, long[:60].cpu().numpy().ravel())
    assert stats.kstest(values / 0.5, "norm").pvalue > 1e-3
