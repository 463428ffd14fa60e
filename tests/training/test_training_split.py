"""However a batch is split (groups, workers, shards), it is the same batch: noise and gradient."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from rsray.objectives import smoothmix
from rsray.training import step as step_module
from rsray.training.batches.randomness import (
    SHARD_IMAGES,
    draw_batch_noise,
    draw_uniforms,
    epoch_order,
    generator_from_slot,
    seeded_generator,
)
from rsray.training.opened_run import Team
from rsray.training.step import MemoryShortError

CPU = torch.device("cpu")
SHAPE = (2, 3, 5)
ONE_STEP = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "lr": 0.1, "lr_drops": []}


def noise(rows, num_draws=3, sigma=0.5, key=(0, 1, 2)):
    return draw_batch_noise(rows, num_draws, SHAPE, sigma, key, CPU)


def test_noise_of_rows_is_a_slice_of_the_whole():
    whole = noise(range(37))
    assert whole.shape == (37, 3, *SHAPE)
    assert torch.equal(noise(range(0, 37)), whole)
    for low in range(0, 37, 5):
        for high in (low + 1, low + SHARD_IMAGES, 36, 37):
            if low < high <= 37:
                assert torch.equal(noise(range(low, high)), whole[low:high]), (low, high)


@pytest.mark.parametrize("num_draws", [1, 2, 16])
def test_noise_of_random_partitions(num_draws):
    whole = noise(range(53), num_draws)
    chooser = torch.Generator().manual_seed(num_draws)
    for _ in range(20):
        cuts = torch.randint(1, 53, (4,), generator=chooser).unique().tolist()
        parts = [
            noise(range(a, b), num_draws) for a, b in zip([0, *cuts], [*cuts, 53], strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_a_longer_batch_begins_with_the_shorter():
    assert torch.equal(noise(range(60))[:11], noise(range(11)))


def test_noise_is_gaussian_and_independent():
    values = noise(range(400), num_draws=8, sigma=0.5).double()
    flat = values.reshape(400, 8, -1)
    count = flat.numel()
    assert abs(flat.mean()) < 5 * 0.5 / count**0.5
    assert abs(flat.std() - 0.5) < 5 * 0.5 / (2 * count) ** 0.5
    rows = flat.flatten(1) / 0.5
    correlation = (rows @ rows.T / rows.shape[1]).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / rows.shape[1] ** 0.5, "two images share draws"
    assert len(flat.flatten().unique()) > 0.99 * count


def test_every_part_of_the_key_counts():
    base = noise(range(8))
    for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (1, 0, 2), (0, 12, 0)):
        assert not torch.equal(noise(range(8), key=key), base)
    assert not torch.equal(epoch_order(50, 0, 0), epoch_order(50, 0, 1))
    assert torch.equal(epoch_order(50, 0, 1), epoch_order(50, 0, 1))
    assert torch.equal(epoch_order(50, 3, 1).sort().values, torch.arange(50))
    assert (
        seeded_generator(CPU, 1, 23).initial_seed() != seeded_generator(CPU, 12, 3).initial_seed()
    )


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    noise(range(9))
    epoch_order(9, 0, 0)
    assert torch.equal(torch.rand(3), expected)


def weights(lab, config, team=None, group_size=None, rows=None):
    training = lab.training(config, team=team)
    training.stepper.group_size = group_size
    training.run_epochs(lambda row: rows.append(row) if rows is not None else None)
    return training.model.state_dict()


def pixels_of(monkeypatch, lab, world, **changes):
    """Return the images of every global batch as `world` workers train on them, and the shares
    that smoothmix drew for them."""
    seen, shares = {}, {}
    backward, uniform = step_module.Stepper._backward, smoothmix.uniform

    def look(self, batch, *rest):
        for row, image in zip(batch.slots, batch.images_BCHW, strict=True):
            seen[batch.key, row] = image.clone()
        return backward(self, batch, *rest)

    def draw(labels_B, generator):
        drawn = uniform(labels_B, generator)
        shares.setdefault(len(shares), drawn)
        return drawn

    with monkeypatch.context() as watched:
        watched.setattr(step_module.Stepper, "_backward", look)
        watched.setattr(smoothmix, "uniform", draw)
        for rank in range(world):
            lab.training(lab.config(**changes), team=Team(rank, world)).run_epochs()
    return seen, list(shares.values())


MIX = {"objective": "smoothmix", "num_draws": 2, "num_steps": 1, "warm_up_epochs": 0}


@pytest.mark.parametrize("world", [2, 3])
def test_workers_see_the_augmented_batch_of_one(world, lab, monkeypatch):
    changes = {"limit": 31, "batch_size": 31, "augmentation": "crop-flip", **ONE_STEP, **MIX}
    alone, (shares,) = pixels_of(monkeypatch, lab, 1, **changes)
    together, parts = pixels_of(monkeypatch, lab, world, **changes)
    assert len(alone) == 31 and set(alone) == set(together)
    assert all(torch.equal(alone[key], together[key]) for key in alone)
    assert torch.equal(torch.cat(parts), shares) and len(shares.unique()) == 31
    plain, _ = pixels_of(monkeypatch, lab, 1, **{**changes, "augmentation": "none"})
    assert sum(not torch.equal(alone[key], plain[key]) for key in alone) > 25


def test_uniform_numbers_of_rows_are_a_slice_of_the_whole():
    whole = torch.rand(1000, generator=generator_from_slot(range(1000), 0, "x"))
    for low, high in ((0, 1), (3, 5), (15, 16), (16, 17), (17, 400), (999, 1000)):
        mine = torch.rand(high - low, generator=generator_from_slot(range(low, high), 0, "x"))
        assert torch.equal(mine, whole[low:high])
    table = draw_uniforms(range(40), 40, 3, 0, "x")
    assert torch.equal(draw_uniforms(range(7, 19), 40, 3, 0, "x"), table[7:19])


METHODS = {
    "smoothmix": {"num_draws": 2, "num_steps": 2, "warm_up_epochs": 0},
    "catrs-self": {"num_draws": 2, "num_steps": 2},
    "gaussian": {},
    "macer": {"num_draws": 3, "trade_off": 4.0, "deferred": False},
    "consistency": {},
    "adre": {"num_draws": 3},
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("group_size", [1, 5, 30, 31, 99])
def test_groups_give_the_gradient_of_the_batch(name, group_size, lab):
    config = lab.config(objective=name, limit=31, batch_size=31, **ONE_STEP, **METHODS[name])
    whole_rows, rows = [], []
    whole = weights(lab, config, rows=whole_rows)
    grouped = weights(lab, config, group_size=group_size, rows=rows)
    for key, value in whole.items():
        torch.testing.assert_close(grouped[key], value, rtol=1e-5, atol=1e-6)
    assert rows[0]["loss"] == pytest.approx(whole_rows[0]["loss"], rel=1e-5)
    assert rows[0]["noisy_accuracy"] == whole_rows[0]["noisy_accuracy"]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_workers_together_make_the_step_of_one(name, world, lab):
    """Data-parallel training averages gradients; with plain SGD that averages the weights."""
    config = lab.config(objective=name, limit=31, batch_size=31, **ONE_STEP, **METHODS[name])
    alone_rows, rows, sums = [], [], []
    alone = weights(lab, config, rows=alone_rows)

    def sum_over(mine):
        sums.append(mine.clone())
        return torch.stack(sums).sum(0)

    parts = [
        weights(lab, config, Team(rank, world, sum_over=sum_over), rows=rows)
        for rank in range(world)
    ]
    for key, value in alone.items():
        mean = torch.stack([part[key] for part in parts]).mean(0)
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(parts[0][key], parts[1][key]) for key in alone)
    assert rows[-1]["loss"] == pytest.approx(alone_rows[0]["loss"], rel=1e-5)
    assert rows[-1]["noisy_accuracy"] == pytest.approx(alone_rows[0]["noisy_accuracy"])


def trained_by_two(lab, config):
    """Train as a team of threads: `sum_over` meets the other's tensor at a barrier."""
    barrier, box = threading.Barrier(2, timeout=10), {}

    def sum_over(rank, mine):
        box[rank] = mine.clone()
        barrier.wait()
        total = box[0] + box[1]
        barrier.wait()
        return mine.copy_(total)

    teams = [Team(rank, 2, sum_over=partial(sum_over, rank)) for rank in range(2)]
    trainings = [lab.training(config, team=team) for team in teams]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda training: training.run_epochs(), trainings))
    return trainings


def test_workers_share_what_batch_norm_measured(lab):
    """Each measures its own images; what is stored is the mean of both, on both."""
    config = lab.config(model="resnet20", limit=30, batch_size=30, **{**ONE_STEP, "lr": 1e-9})
    first, second = (training.model.state_dict() for training in trained_by_two(lab, config))
    names = [name for name in first if name.endswith(("running_mean", "running_var"))]
    assert len(names) > 20 and all(torch.equal(first[name], second[name]) for name in names)
    own = [weights(lab, config, Team(rank, 2, sum_over=lambda mine: 2 * mine)) for rank in (0, 1)]
    name = names[0]  # of the first layer: both saw their images through the same weights
    assert not torch.equal(own[0][name], own[1][name])
    torch.testing.assert_close(first[name], (own[0][name] + own[1][name]) / 2)


def test_workers_share_one_companion(lab):
    """It makes the step that it makes in one process: the draws are those of the images."""
    # So small a step that the classifiers, which nobody averages here, stay alike.
    settings = {"num_draws": 2, "mapping_draws": 5, "mapping_interval": 1, "lr": 1e-6}
    config = lab.config(
        **{"objective": "sodm", "limit": 31, "batch_size": 31, **ONE_STEP, **settings}
    )
    alone = lab.training(config)
    alone.run_epochs()
    trainings = trained_by_two(lab, config)
    first, second = (training.companion.state_dict() for training in trainings)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value)
    for key in ("outer.weight", "outer.bias"):  # 0 at the start: all of them is the step
        assert first[key].abs().max() > 0
        torch.testing.assert_close(
            first[key], alone.companion.state_dict()[key], rtol=1e-3, atol=1e-12
        )


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_workers_share_out_every_batch(world, lab):
    teams = [
        lab.training(lab.config(limit=50, batch_size=16), team=Team(rank, world))
        for rank in range(world)
    ]
    shared = [team.schedule.shares(0) for team in teams]
    alone = lab.training(lab.config(limit=50, batch_size=16)).schedule.shares(0)
    whole = [part.positions_B for part in alone]
    kept = [batch for batch in whole if len(batch) >= world]  # a worker never gets an empty part
    for step, batch in enumerate(kept):
        mine = [parts[step] for parts in shared]
        assert torch.equal(torch.cat([part.positions_B for part in mine]), batch)
        assert [row for part in mine for row in part.slots] == list(range(len(batch)))
        assert {part.global_size for part in mine} == {len(batch)}
        assert {part.key for part in mine} == {(0, 0, step)}
    assert {len(parts) for parts in shared} == {len(kept)}


def test_only_the_first_worker_writes(lab):
    config = lab.config(epochs=1, limit=32)
    for rank in (1, 0):
        run = lab.folder(f"run-{rank}")
        lab.training(config, run, team=Team(rank, 2)).run_epochs()
        assert run.exists("model.safetensors") == run.exists("metrics.jsonl") == (rank == 0)
        assert run.exists("checkpoints") == (rank == 0)


class Cramped:
    """A network that runs out of memory above `most` images at a time."""

    def __init__(self, network, most):
        self.network, self.most, self.module = network, most, network.module
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(images)


def test_short_memory_halves_the_group(lab, monkeypatch):
    still_raised = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: still_raised.append(sys.exc_info()[0]))
    config = lab.config(limit=31, batch_size=31, **ONE_STEP)
    whole = weights(lab, config)
    training = lab.training(config)
    training.stepper.network = cramped = Cramped(training.network, 8)
    rows = []
    training.run_epochs(lambda row: rows.append(row))
    assert still_raised == [None, None], "what raised still holds the memory"
    assert cramped.sizes == [31, 16, 8, 8, 8, 7] and training.stepper.group_size == 8
    for key, value in whole.items():
        torch.testing.assert_close(training.model.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    assert rows[0]["draws_per_second"] * rows[0]["seconds"] == pytest.approx(31), "counted once"


def test_memory_too_short_for_one_image(lab):
    training = lab.training(lab.config(limit=5, **ONE_STEP))
    training.stepper.network = Cramped(training.network, 0)
    with pytest.raises(torch.OutOfMemoryError):
        training.run_epochs()


def test_short_memory_among_several_workers_is_for_all_to_begin_anew(lab):
    """One alone cannot repeat its forward pass: the others wait for its gradients."""
    config, run = lab.config(limit=32, batch_size=32, **ONE_STEP), lab.folder("run")
    team = Team(0, 2)  # 16 images of the batch
    for size in (8, 4):
        training = lab.training(config, run, team=team)
        training.stepper.network = cramped = Cramped(training.network, 4)
        with pytest.raises(MemoryShortError, match=f"no memory for more than {size} images"):
            training.run_epochs()
        assert cramped.sizes == [2 * size] and not run.exists("model.safetensors")
    training = lab.training(config, run, team=team)
    training.stepper.network = cramped = Cramped(training.network, 4)
    training.run_epochs()
    assert cramped.sizes == [4, 4, 4, 4] and run.exists("model.safetensors")


def test_noise_is_the_same_on_any_number_of_cores():
    alone = noise(range(3, 29))
    torch.set_num_threads(3)
    assert torch.equal(noise(range(3, 29)), alone)
