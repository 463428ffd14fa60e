import pytest

from rsray import storage
from rsray.errors import UserError
from rsray.storage import Place


def test_files_make_their_folder_and_come_back(tmp_path):
    storage.write_file(tmp_path / "a" / "b", b"content")
    assert storage.read_file(f"file://{tmp_path}/a/b") == b"content"
    assert Place.of(tmp_path / "a").names() == ["b"]
    assert Place.of(tmp_path / "c").names() == []


def test_an_fsspec_uri(tmp_path):
    storage.write_file("memory://box/file", b"kept")
    assert storage.read_file("memory://box/file") == b"kept"
    assert Place.of("memory://box").is_file("file")


@pytest.mark.parametrize("path", ["nosuch://x/y", "s3:///"])
def test_unknown_scheme(path):
    with pytest.raises(UserError):
        storage.read_file(path)


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot"):
        storage.write_file(tmp_path / "file" / "below", b"")
    with pytest.raises(UserError, match="cannot read"):
        storage.read_file(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        storage.read_file(tmp_path / "nothing")
