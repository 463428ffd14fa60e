"""What a search tells while its trials run."""

from types import SimpleNamespace

from rsray.distributed.search import watch
from rsray.distributed.search.watch import Watcher
from rsray.progress import Watch


def trial(name, status):
    return SimpleNamespace(trial_id=name, status=status, config={"lr": 0.1}, last_result=None)


def test_between_looks_it_tells_that_trials_are_under_way(monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    watcher = Watcher(20, 3, Watch(trial=told.append))
    trials = [trial("a", "RUNNING"), trial("b", "RUNNING"), trial("c", "PENDING")]
    watcher.on_trial_result(1, trials, trials[0], {"epoch": 4, "projected_acr": 0.5})
    now[0] = 9.0
    watcher.on_step_end(2, trials)
    assert len(told) == 1
    now[0] = 10.0
    watcher.on_step_end(3, trials)
    watcher.on_step_end(4, trials)
    assert len(told) == 2
    event = told[-1]
    assert (event.kind, event.finished, event.trials, event.best) == ("report", 3, 20, 0.5)
    assert event.running == "2 running, last looks at epoch 4, 0"
