"""Folders on local paths and file:// URIs: whole files, names, the lock of one writer."""

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.place import TEMPORARY_PREFIX


@pytest.fixture(params=["path", "uri"])
def folder(request, tmp_path):
    where = tmp_path / "a" / "run"
    return Place.of(where if request.param == "path" else f"file://{where}").make()


def test_write_read_exists_delete(folder, tmp_path):
    folder.write("counts.bin", b"\x00\x01" * 1000)
    assert folder.read("counts.bin") == b"\x00\x01" * 1000
    assert (tmp_path / "a" / "run" / "counts.bin").read_bytes() == b"\x00\x01" * 1000
    assert folder.exists("counts.bin") and folder.is_file("counts.bin")
    folder.write("counts.bin", b"new")
    assert folder.read("counts.bin") == b"new"
    folder.delete("counts.bin")
    assert not folder.exists("counts.bin")
    folder.delete("counts.bin")  # is not there: nothing to do
    with pytest.raises(FileNotFoundError):
        folder.read("counts.bin")


def test_compressed_looking_names_are_read_as_they_are(folder):
    folder.write("a.gz", b"not gzip")
    assert folder.read("a.gz") == b"not gzip"


def test_folders_inside(folder):
    inner = (folder / "counts").make()
    inner.write("part", b"1")
    assert inner.make() == inner and inner.names() == ["part"]
    assert folder.names() == ["counts"] and folder.exists("counts") and not folder.is_file("counts")
    assert inner.exists() and not inner.is_file() and (inner / "part").is_file()
    folder.delete("counts")
    assert not inner.exists()


def test_names_are_sorted_and_filtered(folder):
    for name in ("part-2.parquet", "part-10.parquet", "summary.json", "part-1.parquet"):
        folder.write(name, b"")
    (folder.local_path / f"{TEMPORARY_PREFIX}99-part-3.parquet").write_bytes(b"cut off")
    assert folder.names(".parquet") == ["part-1.parquet", "part-10.parquet", "part-2.parquet"]
    assert folder.names() == ["part-1.parquet", "part-10.parquet", "part-2.parquet", "summary.json"]
    assert (folder / "nothing").names() == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    "problem", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"]
)
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(folder, monkeypatch, step, problem):
    folder.write("summary.json", b"old")

    def fail(*args):
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
        for name in ("summary.json", "other.json"):
            with pytest.raises(type(problem)):
                folder.write(name, b"new")
    assert folder.read("summary.json") == b"old"
    assert os.listdir(folder.local_path) == ["summary.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(folder, monkeypatch):
    folder.write("summary.json", b"old")
    seen = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (seen.append(folder.read("summary.json")), real(fd))
    )
    folder.write("summary.json", b"new")
    assert seen == [b"old"] and folder.read("summary.json") == b"new"


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Place.of("run").uri == str(tmp_path / "run")
    assert Place.of(Path("run")) == Place.of("run") == Place.of(tmp_path / "run")
    assert Place.of("~/run").uri == str(tmp_path / "home" / "run")
    assert str(Place.of("run")) == str(tmp_path / "run")


def test_uris(tmp_path):
    folder = Place.of(f"file://{tmp_path}/run/")
    assert folder.is_local and folder.local_path == tmp_path / "run"
    assert (folder / "counts").uri == f"file://{tmp_path}/run/counts"
    assert Place.of(f"file://{tmp_path}/a%20b").local_path == tmp_path / "a b"
    assert not Place("s3://bucket/run").is_local


def test_an_address_that_leads_nowhere_is_the_users_mistake():
    with pytest.raises(UserError, match="cannot open nosuch"):
        Place.of("nosuch://host/run")


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("...")
    with pytest.raises(UserError, match="cannot create folder"):
        Place.of(tmp_path / "file" / "run").make()


def test_only_the_address_travels(folder):
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder and len(pickle.dumps(folder)) < 1000


HOLD = """
    import sys
    from rsray.storage import Place
    with Place.of(sys.argv[1]).locked():
        print("held", flush=True)
        sys.stdin.read()
"""


def test_another_process_holds_the_lock_until_it_is_killed(folder):
    code = textwrap.dedent(HOLD)
    holder = subprocess.Popen(
        [sys.executable, "-c", code, folder.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another rsray is writing to .*use another --out"):
            with folder.locked():
                pass
    finally:
        holder.kill()
        holder.communicate()
    with folder.locked():  # a killed run leaves no lock behind
        pass


def test_the_lock_is_given_back(folder):
    with folder.locked(), pytest.raises(UserError, match="another rsray"), folder.locked():
        pass
    with pytest.raises(RuntimeError), folder.locked():
        raise RuntimeError
    with folder.locked():
        pass
    assert folder.names(".parquet") == []
