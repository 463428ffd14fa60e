import pickle

import pytest

from rsray.errors import UserError
from rsray.storage import Place


def test_local_paths_and_file_uris_are_the_same(tmp_path):
    (tmp_path / "a b" / "c").mkdir(parents=True)
    (tmp_path / "a b" / "x.bin").write_bytes(b"123")
    (tmp_path / "a b" / ".hidden").write_bytes(b"")
    for root in (str(tmp_path), tmp_path.as_uri()):
        folder = pickle.loads(pickle.dumps(Place.of(root) / "a b"))
        assert folder.is_dir() and not folder.is_file() and folder.is_local
        assert (folder.files(), folder.folders()) == (["x.bin"], ["c"])
        assert (folder / "x.bin").read_bytes() == b"123"
        assert str(folder / "x.bin").endswith(f"{tmp_path}/a b/x.bin")
        with pytest.raises(UserError, match="cannot read .*nothing"):
            (folder / "nothing").read_bytes()


def test_relative_path_survives_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_bytes(b"1")
    location = Place.of("f")
    monkeypatch.chdir("/")
    assert location.is_file()


def test_other_file_systems_through_fsspec():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/rsray/d/one.bin", b"1")
    memory.pipe("/rsray/d/e/two.bin", b"2")
    folder = Place.of("memory://rsray/d")
    assert not folder.is_local and folder.is_dir()
    assert (folder.files(), folder.folders()) == (["one.bin"], ["e"])
    assert (folder / "e" / "two.bin").read_bytes() == b"2"


def test_messages_hide_credentials_and_options():
    text = str(Place.of("s3://key:secret@bucket/data?region=eu") / "mnist")
    assert text == "s3://bucket/data/mnist"


def test_unknown_scheme():
    with pytest.raises(UserError, match="cannot open nosuch://x.*allowed: a local path"):
        Place.of("nosuch://x").is_dir()
