"""The counting engine against a naive loop, and what its counts must not depend on."""

import contextlib

import numpy as np
import pytest
import torch
from drawn_noise import slabs
from torch import nn

from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import BadLogitsError, Sampler, ShortOfMemoryError
from rsray.core.noise import Stream
from rsray.models import Normalise

SIGMA, SEED = 0.4, 11
BLOCKS = [(0, 70), (1, 70), (2, 33), (7, 1)]


def sampler(model, batch_size=32, shape=(1, 8, 8), classes=4, precision="fp32", **settings):
    values = {"sigma": SIGMA, "seed": SEED, **settings}
    evaluation = Evaluation("cpu", precision, "channels_last", batch_size)
    return Sampler(model, evaluation, image_shape=shape, num_classes=classes, **values)


@torch.no_grad()
def naive(model, image_CHW, index, stage, blocks, classes=4, seed=SEED, kind="grid"):
    """Counts with nothing but the noise and the model as it is."""
    counts, image = [], torch.from_numpy(image_CHW).float() / 255
    for block, draws in blocks:
        counts.append(np.zeros(classes, dtype=np.int64))
        stream = Stream(seed, index, stage, block)
        for noise in slabs(kind, stream, draws, image.shape, SIGMA):
            for row in noise:
                counts[-1][int(model((image + row)[None]).argmax())] += 1
    return np.stack(counts)


def picture(shape=(1, 8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["grid", "float"])
def test_counts_are_those_of_the_naive_loop(tiny, kind):
    model = tiny()
    for stage, index in (("selection", 0), ("estimation", 12)):
        got = sampler(model, noise=kind).counts(picture(), index, stage, BLOCKS)
        want = naive(model, picture(), index, stage, BLOCKS, kind=kind)
        assert np.array_equal(got, want)
        assert got.dtype == np.int64 and got.sum(axis=1).tolist() == [70, 70, 33, 1]
        assert (got.sum(axis=0) > 0).sum() >= 3  # several classes: the test can fail


def test_several_slabs_in_a_block(tiny):
    shape = (3, 40, 40)  # 13 draws in a slab
    model = tiny(shape)
    got = sampler(model, shape=shape).counts(picture(shape), 3, "estimation", [(0, 60), (1, 13)])
    want = naive(model, picture(shape), 3, "estimation", [(0, 60), (1, 13)])
    assert np.array_equal(got, want)


@pytest.mark.parametrize("batch_size", [1, 7, 33, 174, 500])
def test_batch_size_does_not_matter(tiny, batch_size):
    want = sampler(tiny(), 32).counts(picture(), 5, "estimation", BLOCKS)
    assert np.array_equal(
        sampler(tiny(), batch_size).counts(picture(), 5, "estimation", BLOCKS), want
    )


def test_which_blocks_are_counted_together_does_not_matter(tiny):
    engine = sampler(tiny())
    together = engine.counts(picture(), 5, "estimation", BLOCKS)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        alone = {k: engine.counts(picture(), 5, "estimation", [BLOCKS[k]])[0] for k in order}
        assert np.array_equal(np.stack([alone[k] for k in range(4)]), together)
    pairs = [engine.counts(picture(), 5, "estimation", BLOCKS[k : k + 2]) for k in (0, 2)]
    assert np.array_equal(np.concatenate(pairs), together)
    backwards = engine.counts(picture(), 5, "estimation", BLOCKS[::-1])
    assert np.array_equal(backwards[::-1], together)


def test_the_selection_may_be_counted_in_the_same_batches(tiny):
    alone = sampler(tiny()).counts(picture(), 5, "selection", [(0, 20)])
    rest = sampler(tiny()).counts(picture(), 5, "estimation", BLOCKS)
    both = sampler(tiny()).counts(picture(), 5, "estimation", BLOCKS, selection_draws=20)
    assert np.array_equal(both, np.concatenate([alone, rest]))
    soft = [
        sampler(tiny()).moments(picture(), 5, "selection", [(0, 20)]),
        sampler(tiny()).moments(picture(), 5, "estimation", BLOCKS),
    ]
    found = sampler(tiny()).moments(picture(), 5, "estimation", BLOCKS, selection_draws=20)
    for values, first, others in zip(found, *soft, strict=True):
        assert np.array_equal(values, np.concatenate([first, others]))


def test_what_was_counted_before_does_not_matter(tiny):
    engine = sampler(tiny())
    for image in (picture(seed=1), np.zeros((1, 8, 8), np.uint8), picture(seed=2)):
        engine.counts(image, 9, "selection", [(0, 55)])
    want = sampler(tiny()).counts(picture(), 5, "estimation", BLOCKS)
    assert np.array_equal(engine.counts(picture(), 5, "estimation", BLOCKS), want)


def test_padding_of_the_last_batch_is_not_counted():
    # The blank rows of a fresh buffer are class 1, every noisy copy of the image is class 0.
    class Blank(nn.Module):
        def forward(self, images):
            is_blank = images.abs().amax((1, 2, 3)) == 0
            return torch.stack([~is_blank, is_blank], dim=1).float()

    counts = sampler(Blank(), 64, classes=2).counts(picture(), 0, "estimation", [(0, 5), (1, 3)])
    assert counts.tolist() == [[5, 0], [3, 0]]


def test_seed_index_stage_and_block_all_matter(tiny):
    model, blocks = tiny(), [(0, 500)]
    results = [
        sampler(model).counts(picture(), 5, "estimation", blocks),
        sampler(model, seed=SEED + 1).counts(picture(), 5, "estimation", blocks),
        sampler(model).counts(picture(), 6, "estimation", blocks),
        sampler(model).counts(picture(), 5, "selection", blocks),
        sampler(model).counts(picture(), 5, "estimation", [(1, 500)]),
    ]
    assert len({tuple(each[0].tolist()) for each in results}) == len(results)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_normalised_models(tiny, precision):
    shape = (3, 8, 8)
    model = nn.Sequential(Normalise((0.4, 0.5, 0.6), (0.5, 0.6, 0.7)), tiny(shape)).eval()
    got = sampler(model, shape=shape, precision=precision).counts(
        picture(shape), 2, "estimation", [(0, 300)]
    )
    want = naive(model, picture(shape), 2, "estimation", [(0, 300)])
    assert (want[0] > 10).sum() >= 2
    # Normalising image and noise apart rounds differently: at most a draw on a boundary moves.
    assert np.abs(got - want).sum() <= (2 if precision == "fp32" else 20)


def test_bfloat16_counts_are_near_those_of_float32(tiny):
    full, half = (
        sampler(tiny(), precision=precision).counts(picture(), 5, "estimation", [(0, 1000)])
        for precision in ("fp32", "bf16")
    )
    assert half.sum() == 1000 and np.abs(full - half).sum() <= 40


def test_no_gradients_and_no_mode_changes(tiny):
    model = tiny().train()
    engine = sampler(model)
    want = sampler(model.eval()).counts(picture(), 5, "estimation", BLOCKS)
    assert np.array_equal(engine.counts(picture(), 5, "estimation", BLOCKS), want)
    assert all(parameter.grad is None for parameter in model.parameters())


class DarkOnly(nn.Module):
    """NaN logits for bright images."""

    def forward(self, images):
        dark = torch.sqrt(0.5 - images.mean((1, 2, 3)))
        return torch.stack([dark, dark - 1], dim=1)


DARK, BRIGHT = np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 255, np.uint8)


@pytest.mark.parametrize("draws", [1, 32, 100])
def test_nan_logits_are_an_error_that_names_the_image(draws):
    with pytest.raises(BadLogitsError, match="NaN for image 41"):
        sampler(DarkOnly(), classes=2).counts(BRIGHT, 41, "estimation", [(0, draws)])


def test_one_nan_logit_among_many_draws_is_an_error():
    class Rarely(nn.Module):
        def forward(self, images):
            first = images.flatten(1)[:, 0]
            worst = torch.where(first == first.max(), torch.nan, first)
            return torch.stack([torch.zeros_like(first), worst], dim=1)

    with pytest.raises(BadLogitsError):
        sampler(Rarely(), classes=2).counts(DARK, 0, "estimation", [(0, 32)])


def test_infinite_logits_are_logits():
    class Certain(nn.Module):
        def forward(self, images):
            return torch.tensor([-torch.inf, torch.inf]).expand(len(images), 2)

    counts = sampler(Certain(), classes=2).counts(DARK, 0, "estimation", [(0, 50)])
    assert counts.tolist() == [[0, 50]]


@pytest.mark.parametrize(
    ("logits", "soft"),
    [([-torch.inf, torch.inf], [0, 50]), ([torch.inf, 3.0], [50, 0]), ([-torch.inf] * 2, [25, 25])],
)
def test_infinite_logits_have_soft_probabilities(logits, soft):
    class Certain(nn.Module):
        def forward(self, images):
            return torch.tensor(logits).expand(len(images), 2)

    counts, sums, squares = sampler(Certain(), classes=2).moments(DARK, 0, "estimation", [(0, 50)])
    assert counts.sum() == 50 and sums.tolist() == [soft]
    assert squares.tolist() == [[share * share / 50 for share in soft]]


def test_an_image_of_floats_is_not_changed(tiny):
    image = np.random.default_rng(0).uniform(0, 255, DARK.shape).astype(np.float32)
    before, engine = image.copy(), sampler(DarkOnly(), classes=2)
    with contextlib.suppress(BadLogitsError):
        engine.counts(image, 0, "estimation", [(0, 50)])
    assert np.array_equal(image, before)


@pytest.mark.parametrize("count", ["counts", "moments"])
def test_short_memory_outside_the_network_stops_the_run_too(monkeypatch, count):
    """It is not the image's fault."""

    class Fine(nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3))[:, None] * torch.ones(2)

    def short(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = sampler(Fine(), 32, classes=2)
    monkeypatch.setattr(torch, "empty" if count == "counts" else "repeat_interleave", short)
    with pytest.raises(ShortOfMemoryError, match="free memory"):
        getattr(engine, count)(DARK, 0, "estimation", [(0, 64)])


def test_a_bad_image_does_not_spoil_the_next():
    engine = sampler(DarkOnly(), 32, classes=2)
    with pytest.raises(BadLogitsError):
        engine.counts(BRIGHT, 1, "estimation", [(0, 64)])
    assert engine.counts(DARK, 2, "selection", [(0, 20)]).tolist() == [[20, 0]]


def test_a_model_that_raises_for_an_image_does_not_raise_for_the_next():
    class Picky(nn.Module):
        def forward(self, images):
            if (images.mean((1, 2, 3)) > 0.8).any():
                raise ValueError("too bright")
            return torch.zeros(len(images), 2)

    engine = sampler(Picky(), 32, classes=2)
    with pytest.raises(ValueError, match="too bright"):
        engine.counts(BRIGHT, 1, "estimation", [(0, 64)])
    assert engine.counts(DARK, 2, "selection", [(0, 20)]).sum() == 20


def test_a_model_that_fails_on_a_blank_image_alone_is_counted():
    class Standardised(nn.Module):
        """Divides by the standard deviation of each image: 0/0 where nothing is drawn."""

        def forward(self, images):
            flat = images.flatten(1)
            flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
            return torch.stack([flat.sum(1), flat.sum(1) + 1], dim=1)

    counts = sampler(Standardised(), 32, classes=2).counts(DARK, 0, "selection", [(0, 20)])
    assert counts.tolist() == [[0, 20]]
