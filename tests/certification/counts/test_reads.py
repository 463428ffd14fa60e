"""How often a stored part is read: counts can be many gigabytes, on a disk far away."""

from collections import Counter

import pytest

from rsray.certification.counts.store import CountStore
from rsray.certification.folder import finish
from rsray.certification.recertify import recertify
from rsray.storage import Place


@pytest.fixture
def reads(monkeypatch):
    """Count the reads of each part."""
    found, read = Counter(), CountStore.read

    def counted(store, name):
        found[name] += 1
        return read(store, name)

    monkeypatch.setattr(CountStore, "read", counted)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampling": "skip"},
        {"sampling": "adaptive", "tolerance": 0.12, "n0": 40},
        {"at_radius": (0.05, 0.2), "n": 400},
        {"bound": "tcertify"},
        {"bound": "hoeffding"},
    ],
    ids=["fixed", "skip", "adaptive", "at-radius", "tcertify", "soft"],
)
def test_what_is_done_and_the_certificates_come_from_one_pass(small_run, reads, settings):
    run = small_run(**settings)
    run.count(run.items(run.claimed.plan.num_blocks), per_part=4)
    names = run.store.names()
    assert len(names) > 3
    gathered = run.gathered()
    assert gathered.is_complete(range(12)).all()
    finish(run.claimed, gathered, seconds=1.0, failed={})
    assert reads == dict.fromkeys(names, 1)


def test_recertify_looks_at_all_counts_before_it_copies_them(small_run, reads):
    run = small_run()
    run.count()
    finish(run.claimed, run.gathered(), seconds=1.0, failed={})
    reads.clear()
    recertify(run.where, Place.of(f"{run.where}-again"), alpha=0.2)
    assert reads == dict.fromkeys(run.store.names(), 2)
