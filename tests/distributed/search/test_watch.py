"""What a search tells while its trials run."""

import pickle
from types import SimpleNamespace

from rsray.distributed.search import watch
from rsray.distributed.search.watch import Watcher
from rsray.progress import Watch


def trial(name, status):
    return SimpleNamespace(trial_id=name, status=status, config={"lr": 0.1}, last_result=None)


def test_between_looks_it_tells_that_trials_are_under_way(monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    standing = SimpleNamespace(number_of={"a": 7}.get, best_acr=lambda: 0.5)
    watcher = Watcher(20, 3, Watch(trial=told.append), standing)
    trials = [trial("a", "RUNNING"), trial("b", "RUNNING"), trial("c", "PENDING")]
    watcher.on_trial_result(1, trials, trials[0], {"epoch": 4, "projected_acr": 0.9})
    now[0] = 9.0
    watcher.on_step_end(2, trials)
    assert len(told) == 1 and told[0].number == 7
    now[0] = 10.0
    watcher.on_step_end(3, trials)
    watcher.on_step_end(4, trials)
    assert len(told) == 2
    event = told[-1]
    assert (event.kind, event.finished, event.trials, event.best) == ("report", 3, 20, 0.5)
    assert event.running == "2 running, last looks at epoch 4, 0"


def test_the_best_is_that_of_complete_trials_and_every_trial_keeps_its_number():
    best, told = [None], []
    standing = SimpleNamespace(number_of={"a": 4, "b": 5}.get, best_acr=lambda: best[0])
    watcher = Watcher(20, 3, Watch(trial=told.append), standing)
    first, second = trial("a", "RUNNING"), trial("b", "RUNNING")
    look = {"epoch": 2, "epochs": 8, "projected_acr": 0.9}
    watcher.on_trial_result(1, [], first, look)
    first.last_result = look
    watcher.on_trial_complete(2, [], first)
    assert [(event.number, event.best, event.acr) for event in told] == [(4, None, 0.9)] * 2
    best[0] = 0.3
    second.last_result = {"epoch": 8, "epochs": 8, "projected_acr": 0.3}
    watcher.on_trial_complete(3, [], second)
    assert (told[-1].number, told[-1].finished, told[-1].best) == (5, 5, 0.3)
    assert pickle.loads(pickle.dumps(watcher)).standing is None
