"""Where in an epoch a run is, told through a file."""

from rsray.distributed.train import worker
from rsray.distributed.train.worker import STEP_FILE, StepRecord, read_step
from rsray.storage import Place
from rsray.training.loop import Progress


def test_a_step_is_read_as_it_was_written_from_time_to_time(tmp_path, monkeypatch):
    now, run = [0.0], Place.of(tmp_path)
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    tell = StepRecord(run)
    tell(Progress(1, 9, 3, 40))
    assert read_step(run) is None
    now[0] = 21.0
    tell(Progress(1, 9, 4, 40))
    tell(Progress(1, 9, 5, 40))
    assert read_step(run) == Progress(1, 9, 4, 40)
    (tmp_path / STEP_FILE).write_text('{"epoch": 1')
    assert read_step(run) is None
    (tmp_path / STEP_FILE).write_text("[1]")
    assert read_step(run) is None
