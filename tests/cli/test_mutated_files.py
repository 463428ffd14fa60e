"""Files that somebody changed, by bytes or by values: every command says so in one line, or works."""

import shutil
import time

import pytest
from file_kinds import KINDS, make_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LONGEST_SECONDS = 60.0  # of a command on a machine that is busy with other tests


@pytest.fixture(scope="session")
def base(tmp_path_factory, trained):
    """One file of each kind; tests change copies."""
    base = tmp_path_factory.mktemp("files")
    make_files(base, trained)
    return base


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def check_answer(result, kind):
    """An exit status that is allowed, one line for the user's mistake, and no command in any."""
    assert result.status in kind.allowed, result
    if result.status == 2:
        assert result.err.splitlines()[-1].startswith("error: "), result
    shown = result.out + result.err
    assert "Traceback" not in shown, result
    assert [c for c in shown if not c.isprintable() and c not in "\n\t"] == [], result


def read_mutated(name, base, at, examples, readers):
    """Each reader finds the files as they were made, but for one that is mutated.

    One reader alone finds what it left itself, but for results: copies take most of its time.
    """
    kind = KINDS[name]
    original = kind.original(base)

    shutil.copytree(base, at)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=examples <= 1000,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.randoms(use_true_random=False), st.sampled_from(readers))
    def check(random, read):
        if len(readers) > 1:
            shutil.rmtree(at)
            shutil.copytree(base, at)
        shutil.rmtree(at / "new", ignore_errors=True)
        kind.place(at, kind.mutate(random, original))
        started = time.perf_counter()
        result = read(at)
        assert time.perf_counter() - started < LONGEST_SECONDS
        if result is not None:
            check_answer(result, kind)

    check()


@pytest.mark.parametrize("name", KINDS)
def test_real_files_are_read(name, base, tmp_path):
    """What is not mutated is no mistake: else nothing below would be looked at."""
    shutil.copytree(base, tmp_path / "at")
    for read in KINDS[name].readers:
        read(tmp_path / "at")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(30, marks=pytest.mark.slow),
        pytest.param(1_000, marks=pytest.mark.long),
        pytest.param(10_000, marks=pytest.mark.long),
    ],
)
def test_mutations(name, examples, base, tmp_path):
    read_mutated(name, base, tmp_path / "at", examples, KINDS[name].readers)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_mutations_by_the_quickest_reader(name, base, tmp_path):
    kind = KINDS[name]
    read_mutated(name, base, tmp_path / "at", 1_000, [kind.readers[kind.quickest]])
