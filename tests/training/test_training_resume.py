"""A run that was interrupted ends with the weights of one that was not, bit for bit."""

import pytest
import torch
from interrupted_runs import METHODS, PowerCutError, same

from rsray.errors import UserError
from rsray.storage import Place
from rsray.training.run_folder.checkpoint import (
    START,
    Position,
    latest_position,
    load_checkpoint,
    save_checkpoint,
)
from rsray.training.run_folder.metrics import MetricsLog, read_metrics


def latest_checkpoint(run):
    position = latest_position(run)
    return load_checkpoint(run, position) if position != START else None


def cut_after(epoch):
    def on_epoch(row):
        if row["epoch"] == epoch:
            raise PowerCutError

    return on_epoch


@pytest.mark.parametrize("name", METHODS)
def test_resumed_equals_uninterrupted(name, lab, moody):
    run = lab.folder("run")
    config = lab.config(
        objective=name.split(",")[0],
        model=moody,
        epochs=4,
        lr_drops=[2, 3],
        limit=40,
        batch_size=16,
        **METHODS[name],
    )
    whole = lab.weights(config)
    with pytest.raises(PowerCutError):
        lab.training(config, run).run_epochs(cut_after(1))
    assert not run.exists("model.safetensors")
    resumed = lab.training(config, run)
    assert resumed.epoch == 2
    resumed.run_epochs()
    assert same(resumed.model.state_dict(), whole)
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    drops = [0.05, 0.05, 0.005, 0.0005]
    rates = [0.05, 0.05, 0.0375, 0.0125] if "cosine" in name else drops
    assert [row["lr"] for row in rows] == pytest.approx(rates)
    assert (run / "checkpoints").names() == ["epoch-00003.pt", "epoch-00004.pt"]


def test_cut_before_the_first_and_after_the_last_epoch(lab):
    run, config = lab.folder("run"), lab.config()
    whole = lab.weights(config)
    first = lab.training(config, run)
    first.on_progress = lambda progress: (_ for _ in ()).throw(PowerCutError)
    with pytest.raises(PowerCutError):
        first.run_epochs()
    with pytest.raises(PowerCutError):
        lab.training(config, run).run_epochs(cut_after(1))
    assert not run.exists("model.safetensors")
    resumed = lab.training(config, run)
    assert resumed.epoch == 2
    resumed.run_epochs()
    assert same(resumed.model.state_dict(), whole) and run.exists("model.safetensors")
    assert [row["epoch"] for row in read_metrics(run)] == [0, 1]


def test_without_the_newest_checkpoint_the_one_before_goes_on(lab):
    run, config = lab.folder("run"), lab.config(epochs=3)
    whole = lab.weights(config)
    with pytest.raises(PowerCutError):
        lab.training(config, run).run_epochs(cut_after(1))
    (run / "checkpoints").delete("epoch-00002.pt")
    resumed = lab.training(config, run)
    assert resumed.epoch == 1
    resumed.run_epochs()
    assert same(resumed.model.state_dict(), whole)
    assert [row["epoch"] for row in read_metrics(run)] == [0, 1, 2], "no line twice"


def test_the_state_is_of_tensors_and_numbers_only(lab):
    run = lab.folder("run")
    lab.rows(lab.config(epochs=1), run)
    state = latest_checkpoint(run)  # weights_only
    assert state["epoch"] == 1 and set(state) >= {"model", "optimiser", "optimiser_schedule"}


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "half"])
def test_a_damaged_checkpoint(damage, lab):
    run, config = lab.folder("run"), lab.config()
    with pytest.raises(PowerCutError):
        lab.training(config, run).run_epochs(cut_after(0))
    file = run.local_path / "checkpoints" / "epoch-00001.pt"
    good = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "cut": good[:-1000],
            "noise": b"hello world\n",
            "half": good[: len(good) // 2],
        }[damage]
    )
    with pytest.raises(UserError, match="epoch-00001.pt is damaged") as refused:
        lab.training(config, run)
    assert "\n" not in str(refused.value)
    file.unlink()
    assert lab.training(config, run).epoch == 0, "what the message advises works"


def test_a_flipped_bit(lab):
    run, config = lab.folder("run"), lab.config(epochs=1)
    lab.rows(config, run)
    file = run.local_path / "checkpoints" / "epoch-00001.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 64  # in the middle of a tensor
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        latest_checkpoint(run)


def test_noise_that_starts_like_a_pickle(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch-00001.pt").write_bytes(b"c\xb2\n\xff\n")
    with pytest.raises(UserError, match="damaged"):
        latest_checkpoint(Place.of(tmp_path))


def test_cut_between_the_checkpoint_and_the_metrics(lab, monkeypatch):
    run, config = lab.folder("run"), lab.config(epochs=3)
    write = Place.write

    def cut(self, name, data):
        wrote = (run / "checkpoints").exists("epoch-00002.pt")
        if wrote or (name == "metrics.jsonl" and b'"epoch": 1' in data):
            raise PowerCutError
        write(self, name, data)

    monkeypatch.setattr(Place, "write", cut)
    with pytest.raises(PowerCutError):
        lab.training(config, run).run_epochs()
    monkeypatch.undo()
    lab.training(config, run).run_epochs()
    assert [row["epoch"] for row in read_metrics(run)] == [0, 1, 2]


def test_a_checkpoint_is_never_executed(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "epoch-00001.pt").write_bytes(pickle.dumps({"epoch": Trap()}, protocol=2))
    with pytest.raises(UserError, match="damaged"):
        latest_checkpoint(Place.of(tmp_path / "run"))
    torch.save({"epoch": Trap()}, folder / "epoch-00001.pt")
    with pytest.raises(UserError, match="damaged"):
        latest_checkpoint(Place.of(tmp_path / "run"))
    assert not (tmp_path / "sprung").exists()


def test_the_newest_of_many_epochs_is_taken(tmp_path):
    run = Place.of(tmp_path)
    assert latest_checkpoint(run) is None
    for epoch in (9, 10, 99, 100, 101):
        save_checkpoint(run, Position(epoch), {"value": torch.tensor(epoch)})
    assert latest_checkpoint(run)["value"] == 101
    assert (run / "checkpoints").names() == ["epoch-00100.pt", "epoch-00101.pt"]
    (tmp_path / "checkpoints" / ".tmp-77-epoch-00102.pt").write_bytes(
        b"half"
    )  # of a killed process
    assert latest_checkpoint(run)["epoch"] == 101


def test_metrics_drop_the_epochs_that_are_done_again(tmp_path):
    run = Place.of(tmp_path)
    log = MetricsLog(run, 0)
    for epoch in range(3):
        log.add({"epoch": epoch, "loss": float(epoch)})
    log.close()
    log = MetricsLog(run, 1)
    log.add({"epoch": 1, "loss": 10.0})
    log.close()
    assert read_metrics(run) == [{"epoch": 0, "loss": 0.0}, {"epoch": 1, "loss": 10.0}]
