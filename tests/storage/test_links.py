"""Folders that somebody else prepared with links: nothing is written, cut or deleted through one."""

import os
import pickle
import subprocess
import sys
import textwrap

import pytest

from rsray.errors import UserError
from rsray.storage import Place, place, read_file, write_file


@pytest.fixture
def victim(tmp_path):
    file = tmp_path / "victim"
    file.write_text("precious")
    return file


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return Place.of(tmp_path / "out")


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_is_whole(out, victim):
    (out.local_path / ".lock").symlink_to("../victim")
    with pytest.raises(UserError, match=r"\.lock is a link.*delete it"), out.locked():
        pass
    assert victim.read_text() == "precious"
    (out.local_path / ".lock").unlink()
    (out.local_path / ".lock").symlink_to("../nothing")
    with pytest.raises(UserError, match=r"\.lock is a link"), out.locked():
        pass
    assert not (victim.parent / "nothing").exists()


def test_the_content_of_a_lock_file_stays(out):
    (out.local_path / ".lock").write_text("notes")
    with out.locked(), pytest.raises(UserError, match="another rsray"), out.locked():
        pass
    assert (out.local_path / ".lock").read_text() == "notes"


def test_a_lock_that_is_a_pipe_does_not_hang(out):
    os.mkfifo(out.local_path / ".lock")
    script = (
        "import sys; from rsray.storage import Place\nwith Place.of(sys.argv[1]).locked(): pass"
    )
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), out.uri], timeout=300)
    assert done.returncode in (0, 1)


def test_a_file_that_is_a_link_is_replaced_itself(out, victim):
    (out.local_path / "run.yaml").symlink_to("../victim")
    out.write("run.yaml", b"a: 1")
    assert victim.read_text() == "precious"
    assert not (out.local_path / "run.yaml").is_symlink() and out.read("run.yaml") == b"a: 1"
    (out.local_path / "page.html").symlink_to("../victim")
    write_file(out / "page.html", b"<html>")
    assert victim.read_text() == "precious"


def test_the_temporary_file_of_a_write_cannot_be_foreseen(out, victim, monkeypatch):
    # The name that was used before: a link there was followed.
    (out.local_path / f"{place.TEMPORARY_PREFIX}{os.getpid()}-a").symlink_to("../victim")
    out.write("a", b"1")
    assert victim.read_text() == "precious" and out.read("a") == b"1"
    monkeypatch.setattr(place.secrets, "token_hex", lambda size: "guessed")
    (out.local_path / f"{place.TEMPORARY_PREFIX}{os.getpid()}-guessed-b").symlink_to("../victim")
    with pytest.raises(FileExistsError):
        out.write("b", b"1")
    assert victim.read_text() == "precious"


def test_a_folder_below_out_that_is_a_link_is_not_written_to(out, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (out.local_path / "counts").symlink_to("../elsewhere")
    counts = pickle.loads(pickle.dumps(out / "counts"))
    deeper = out / "counts" / "more"
    for action in (
        counts.make,
        lambda: counts.write("part-1.parquet", b"1"),
        lambda: write_file(counts / "x.json", b"{}"),
        lambda: counts.delete("part-1.parquet"),
        lambda: counts.locked().__enter__(),
        deeper.make,
    ):
        with pytest.raises(UserError, match=r"counts is a link: rsray writes inside .*out only"):
            action()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_users_own_out_may_be_a_link(out, tmp_path):
    (tmp_path / "disk").symlink_to("out")
    linked = Place.of(tmp_path / "disk")
    (linked / "counts").make().write("a", b"1")
    with linked.locked():
        write_file(f"{linked}/b", b"2")
    assert (out / "counts").read("a") == b"1" and out.read("b") == b"2"


def test_a_link_is_deleted_and_not_what_it_leads_to(out, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("1")
    (out.local_path / "old").symlink_to("../elsewhere")
    out.delete("old")
    assert (tmp_path / "elsewhere" / "file").read_text() == "1" and not out.exists("old")


def test_the_mode_of_a_file_is_the_users(out):
    before = os.umask(0o027)
    try:
        out.write("a", b"1")
    finally:
        os.umask(before)
    assert (out.local_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_pipe_or_a_device_in_a_folder_is_not_read(out):
    """A stranger's run.yaml that is a pipe would be read for ever."""
    os.mkfifo(out.local_path / "run.yaml")
    (out.local_path / "certify.yaml").symlink_to("/dev/zero")
    for name in ("run.yaml", "certify.yaml"):
        with pytest.raises(UserError, match=rf"{name}: it is no regular file"):
            out.read(name)
        with pytest.raises(UserError, match="it is no regular file"):
            read_file(out / name)


def test_a_file_for_another_package_is_no_hard_link_and_no_pipe(out, victim):
    os.link(victim, out.local_path / "study.journal")
    os.mkfifo(out.local_path / "pipe")
    for name in ("study.journal", "pipe"):
        with pytest.raises(UserError, match="is a link or no file"):
            out.refuse_link(name)
    (out.local_path / "own").write_text("a")
    out.refuse_link("own")
    out.refuse_link("absent")


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(out):
    os.mkfifo(out.local_path / "page.html")
    with pytest.raises(UserError, match=r"page.html: it is no regular file"):
        write_file(out / "page.html", b"<html>")
    with pytest.raises(UserError, match=r"/dev/rsray-no-such-device: it is no regular file"):
        write_file("/dev/rsray-no-such-device", b"")
