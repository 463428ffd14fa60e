"""Checkpoints are written while the training goes on, and are those of the epoch's end."""

import threading

import pytest
import torch

from rsray.storage import Place
from rsray.training.opened_run import Team
from rsray.training.run_folder.checkpoint import Position, load_checkpoint
from rsray.training.run_folder.writer import RunWriter

FIRST = "epoch-00001.pt"


@pytest.fixture
def slow_store(monkeypatch):
    """A store that does not finish the first checkpoint before it is let."""
    write, finish = Place.write, threading.Event()

    def wait(self, name, data):
        if name == FIRST:
            assert finish.wait(30)
        write(self, name, data)

    monkeypatch.setattr(Place, "write", wait)
    return finish


def test_training_does_not_wait_for_an_upload(lab, slow_store):
    run, seen = lab.folder("run"), []
    training = lab.training(lab.config(epochs=3), run)

    def on_progress(progress):
        if (
            progress.epoch == 1 and progress.epoch_figures is not None
        ):  # the second epoch is trained
            seen.append((run / "checkpoints").names())
            slow_store.set()

    training.on_progress = on_progress
    training.run_epochs()
    assert seen == [[]]
    assert (run / "checkpoints").names() == ["epoch-00002.pt", "epoch-00003.pt"]
    assert run.exists("model.safetensors")
    # What was written late is what the first epoch left, not what the second made of it.
    slow_store.set()
    other = lab.folder("other")
    lab.training(lab.config(epochs=1), other).run_epochs()
    late = lab.folder("late")
    again = lab.training(lab.config(epochs=2), late)
    again.run_epochs()
    left, kept = (load_checkpoint(where, Position(1)) for where in (other, late))
    assert all(torch.equal(left["model"][key], kept["model"][key]) for key in left["model"])
    momenta = [state["optimiser"]["state"][0]["momentum_buffer"] for state in (left, kept)]
    assert torch.equal(*momenta)


def test_a_store_that_fails_stops_the_training(lab, monkeypatch):
    run, write = lab.folder("run"), Place.write

    def fail(self, name, data):
        if name == FIRST:
            raise OSError("no space left")
        write(self, name, data)

    monkeypatch.setattr(Place, "write", fail)
    with pytest.raises(OSError, match="no space left"):
        lab.training(lab.config(epochs=5), run).run_epochs()
    assert not run.exists("model.safetensors") and not run.exists("checkpoints/epoch-00002.pt")


def test_writes_are_in_order_and_the_last_is_waited_for(lab, slow_store, monkeypatch):
    run, done, write = lab.folder("run"), [], Place.write
    monkeypatch.setattr(
        Place, "write", lambda self, name, data: (write(self, name, data), done.append(name))
    )
    with RunWriter(run, 0) as writer:
        writer.save(Position(1), {})
        assert done == []
        slow_store.set()
        writer.save(Position(2), {})
    assert done == [FIRST, "epoch-00002.pt"]


def test_workers_continue_from_the_checkpoint_that_the_first_of_them_sees(lab):
    run, config = lab.folder("run"), lab.config(epochs=2)
    lab.rows(config, run)
    first = torch.tensor([1, 0])  # the first worker says: one epoch, no step
    told = Team(1, 2, sum_over=lambda mine: mine + first[: len(mine)])
    assert lab.training(config, run, team=told).epoch == 1
    assert lab.training(config, run).epoch == 2
