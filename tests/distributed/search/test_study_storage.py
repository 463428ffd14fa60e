"""Optuna's study on an S3 server: the same study as in a file, durable after every record."""

import json
import pickle

import optuna
import pytest
from optuna.storages import InMemoryStorage

from rsray.distributed.search import study_storage
from rsray.distributed.search.study_storage import SegmentedJournal
from rsray.storage import Place

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_study(storage):
    sampler = optuna.samplers.TPESampler(seed=3, n_startup_trials=2)
    return optuna.create_study(
        storage=storage,
        study_name="rsray",
        direction="maximize",
        load_if_exists=True,
        sampler=sampler,
    )


def objective(trial):
    x = trial.suggest_float("x", 0.01, 1.0, log=True)
    model = trial.suggest_categorical("model", ["lenet", "resnet20"])
    trial.report(x, 0)
    if trial.number == 2:
        raise ValueError
    return x + (model == "lenet")


def facts(study):
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in study.trials]


@pytest.mark.parametrize("segment", [64 * 1024, 300])
def test_a_study_on_s3_equals_one_in_memory(bucket, monkeypatch, segment):
    monkeypatch.setattr(study_storage, "SEGMENT_BYTES", segment)
    out = Place.of(bucket.uri("tune"))
    expected = open_study(InMemoryStorage())
    expected.optimize(objective, n_trials=6, catch=ValueError)
    for _ in range(2):  # the second start knows only what is on S3
        study = open_study(study_storage.study_storage(out))
        study.sampler = expected.sampler.__class__(seed=3, n_startup_trials=2)
        if not study.trials:
            study.optimize(objective, n_trials=6, catch=ValueError)
        assert facts(study) == facts(expected)
        assert study.best_params == expected.best_params
    keys = bucket.keys("tune/study/")
    assert (len(keys) == 1) == (segment > 10_000)
    lines = [json.loads(line) for key in keys for line in bucket.get(key).splitlines()]
    assert {line["op_code"] for line in lines} >= {0, 4, 5, 6}


def test_every_record_is_stored_before_optuna_goes_on(bucket):
    """A search killed at any moment: what Optuna was told is there for the next start."""
    out = Place.of(bucket.uri("tune"))
    study = open_study(study_storage.study_storage(out))
    for number in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, float(number))
        fresh = open_study(study_storage.study_storage(out))
        assert [t.value for t in fresh.trials] == list(range(number + 1))
        assert facts(fresh) == facts(study)


def test_a_record_that_cannot_be_stored_is_not_known(bucket, monkeypatch):
    journal = SegmentedJournal(Place.of(bucket.uri("tune/study")))
    journal.append_logs([{"op_code": 0, "n": 1}])

    def fail(self, name, data):
        raise OSError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(Place, "write", fail)
        with pytest.raises(OSError, match="no network"):
            journal.append_logs([{"op_code": 0, "n": 2}])
    journal.append_logs([{"op_code": 0, "n": 3}])
    for each in (journal, pickle.loads(pickle.dumps(journal)), SegmentedJournal(journal._folder)):
        assert [log["n"] for log in each.read_logs(0)] == [1, 3]
        assert [log["n"] for log in each.read_logs(1)] == [3]


def test_a_local_study_stays_in_its_file(tmp_path):
    study = open_study(study_storage.study_storage(Place.of(tmp_path)))
    study.optimize(objective, n_trials=2)
    assert (tmp_path / "study.journal").read_text().count("\n") > 4
    assert facts(open_study(study_storage.study_storage(Place.of(tmp_path)))) == facts(study)
