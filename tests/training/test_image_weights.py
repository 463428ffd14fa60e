"""Images that an objective drops or repeats: the order of an epoch, workers, and going on."""

from dataclasses import replace

import pytest
import torch

from rsray.errors import UserError
from rsray.training.batches.randomness import weighted_order
from rsray.training.batches.schedule import Schedule
from rsray.training.opened_run import Team
from rsray.training.validation import count_right

EASY = {
    "objective": "easy", "num_draws": 2, "num_steps": 1, "warm_up_epochs": 1, "reweigh_every": 2,
    "threshold": 0.3, "epochs": 4, "lr_drops": [],
}  # fmt: skip


def test_images_are_drawn_in_proportion_to_their_weights():
    weights = torch.tensor([0.0, 1.0, 3.0]).repeat(1000)
    order = weighted_order(weights, 0, 1)
    assert len(order) == 3000 and torch.equal(order, weighted_order(weights, 0, 1))
    assert not torch.equal(order, weighted_order(weights, 0, 2))
    counts = torch.bincount(order % 3, minlength=3).tolist()
    assert counts[0] == 0 and 2 <= counts[2] / counts[1] <= 4


def test_workers_share_the_order():
    weights = torch.rand(50, generator=torch.Generator().manual_seed(0))
    whole = Schedule(50, 16, 5, 0, weights_N=weights).shares(3)
    parts = [Schedule(50, 16, 5, 0, rank, 2, weights).shares(3) for rank in (0, 1)]
    for step, share in enumerate(whole):
        joined = torch.cat([part[step].positions_B for part in parts])
        assert torch.equal(joined, share.positions_B)
    assert len(whole) == len(Schedule(50, 16, 5, 0).shares(3)), "an epoch is as long as before"


def test_right_draws_are_counted(lab):
    training = lab.training(lab.config(limit=20))
    images, labels = training.held_in.tensors()

    class Knows(torch.nn.Module):
        def forward(self, noisy):
            return torch.nn.functional.one_hot(torch.full((len(noisy),), 3), 10).float()

    known = {"sigma": 0.5, "precision": "fp32", "seed": 0, "num_draws": 7}
    found = count_right(Knows(), images, labels, **known)
    assert torch.equal(found, (labels == 3) * 7)
    network = training.model.train()
    found = count_right(network, images, labels, **known)
    assert network.training and torch.equal(found, count_right(network, images, labels, **known))


def test_weights_change_when_they_are_due(lab):
    training, seen, rows, told = lab.training(lab.config(**EASY)), [], [], []
    training.on_progress = told.append
    training.run_epochs(lambda row: rows.append(row) or seen.append(training.schedule.weights_N))
    weighing = [(each.epoch, each.step, each.steps) for each in told if each.is_weighing]
    assert {epoch for epoch, *_ in weighing} == {1, 3} and weighing[-1] == (3, 64, 64)
    assert seen[0] is None and seen[1] is seen[2] and seen[3] is not seen[2]
    assert len(seen[1]) == 64 and (seen[1] >= 0).all() and (seen[1] > 0).any()
    assert "images_dropped" not in rows[0] and rows[1]["images_dropped"] == (seen[1] == 0).sum()


def test_classes_of_which_no_image_is_left_are_counted(lab):
    training = lab.training(lab.config(**EASY))
    _, labels = training.held_in.tensors()
    training.schedule = replace(training.schedule, weights_N=(labels > 1).float())
    number = int((labels <= 1).sum())
    assert training._dropped() == {"images_dropped": number, "classes_dropped": 2}


def test_a_run_that_was_stopped_goes_on_with_the_same_images(lab):
    config = lab.config(**EASY)
    whole = lab.weights(config)
    for stop in (1, 2):
        folder = lab.folder(f"run{stop}")
        lab.training(config, folder).run_epochs(lambda row, last=stop: row["epoch"] + 1 == last)
        folder.local_path.joinpath("model.safetensors").unlink()
        resumed = lab.training(config, folder)
        assert resumed.epoch == stop and (resumed.schedule.weights_N is None) == (stop == 1)
        resumed.run_epochs()
        for key, value in resumed.model.state_dict().items():
            assert torch.equal(value, whole[key]), (stop, key)


def test_each_worker_counts_its_share(lab):
    def counts(team):
        return lab.training(lab.config(**EASY), team=team)._count_right(5)

    parts = [counts(Team(rank, 2)) for rank in (0, 1)]
    assert parts[0][1::2].sum() == parts[1][0::2].sum() == 0
    assert (parts[0] + parts[1]).max() <= 5 and (parts[0] + parts[1]).sum() > 0


def test_images_that_are_read_as_they_are_needed_cannot_be_weighed(lab, monkeypatch):
    monkeypatch.setattr("rsray.training.batches.feeds.IN_MEMORY_BYTES", 100)
    with pytest.raises(UserError, match="Easy looks at all images again and again"):
        lab.training(lab.config(**EASY))
    with pytest.raises(UserError, match="Easy looks at all images again and again"):
        lab.training(lab.config(**EASY), lab.folder("run"))
    assert not lab.folder("run").exists()


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta")
def test_weights_of_a_run_that_goes_on_are_on_its_device(lab):
    run, config = lab.folder("run"), lab.config(**{**EASY, "epochs": 3})
    lab.rows(config, run)
    # The first worker says: the first precision, and not compiled; then two epochs, no step.
    told = iter([torch.tensor([0, 0]), torch.tensor([2, 0])])
    team, meta = Team(1, 2, sum_over=lambda mine: next(told)), torch.device("meta")
    training = lab.training(config, run, team=team, device=meta)
    assert training.schedule.weights_N.device == meta
