import pytest

from rsray.errors import UserError
from rsray.results import storage


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_bytes(path, b"old")

    class Broken:
        def __init__(self, filesystem):
            self.filesystem = filesystem

        def __getattr__(self, name):
            return getattr(self.filesystem, name)

        def move(self, *_):
            raise OSError("disk\nfull")

    locate = storage.locate
    monkeypatch.setattr(storage, "locate", lambda p: (Broken(locate(p)[0]), locate(p)[1]))
    with pytest.raises(UserError, match="disk full"):
        storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_kinds_and_names(tmp_path):
    storage.write_bytes(tmp_path / "a" / "b", b"")
    assert storage.kind(tmp_path / "a") == "folder"
    assert storage.kind(f"file://{tmp_path}/a/b") == "file"
    assert storage.kind(tmp_path / "c") == "missing"
    assert storage.names(tmp_path) == ["a"] and storage.names(tmp_path / "c") == []


@pytest.mark.parametrize("path", ["nosuch://x/y", "s3:///"])
def test_unknown_scheme(path):
    with pytest.raises(UserError):
        storage.read_bytes(path)


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        storage.write_bytes(tmp_path / "file" / "below", b"")
    with pytest.raises(UserError, match="cannot read"):
        storage.read_bytes(tmp_path)
