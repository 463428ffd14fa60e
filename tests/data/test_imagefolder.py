import pickle

import numpy as np
import pytest
from PIL import Image

from rsray.data import open_split
from rsray.errors import UserError


def test_split_folders_share_their_classes(tmp_path, save_picture):
    first = save_picture(tmp_path / "train" / "b" / "1.png")
    save_picture(tmp_path / "train" / "a" / "2.PNG")
    last = save_picture(tmp_path / "val" / "c" / "3.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    for root in (str(tmp_path), tmp_path.as_uri()):
        train, test = (open_split("imagefolder", s, root) for s in ("train", "test"))
        assert train.class_names == test.class_names == ("a", "b", "c")
        assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [2])
        np.testing.assert_array_equal(train.images([1])[0], first.transpose(2, 0, 1))
        np.testing.assert_array_equal(test.images([0])[0], last.transpose(2, 0, 1))


def test_a_class_may_be_called_train(tmp_path, save_picture):
    for name in ("train", "plane"):
        for number in range(5):
            save_picture(tmp_path / name / f"{number}.png")
    assert open_split("imagefolder", "train", str(tmp_path)).class_names == ("plane", "train")


def test_seeded_split_of_one_folder(tmp_path, save_picture):
    for name, count in (("x", 10), ("y", 20)):
        for number in range(count):
            save_picture(tmp_path / name / f"{number:02}.png", mode="L")
    train, test = (open_split("imagefolder", s, str(tmp_path)) for s in ("train", "test"))
    assert np.bincount(test.labels).tolist() == [2, 4]
    assert np.bincount(train.labels).tolist() == [8, 16]
    assert train.image_shape == (1, 6, 6)
    pixels = np.concatenate([s.images(range(len(s))) for s in (train, test)]).reshape(30, -1)
    assert len(np.unique(pixels, axis=0)) == 30
    again = open_split("imagefolder", "test", str(tmp_path))
    np.testing.assert_array_equal(again.images(range(6)), test.images(range(6)))


def test_sizes_that_differ_need_an_image_size(tmp_path, save_picture):
    save_picture(tmp_path / "train" / "a" / "1.png", 6, 6)
    save_picture(tmp_path / "train" / "a" / "2.png", 8, 6, mode="L")
    with pytest.raises(UserError, match="differ in size.*6 x 6.*6 x 8.*pass --image-size"):
        open_split("imagefolder", "train", str(tmp_path))
    split = open_split("imagefolder", "train", str(tmp_path), image_size=4)
    assert split.images([0, 1]).shape == (2, 3, 4, 4)


def test_transparent_and_deep_pictures(tmp_path, save_picture):
    saved = save_picture(tmp_path / "train" / "a" / "1.png", mode="RGBA")
    split = open_split("imagefolder", "train", str(tmp_path))
    np.testing.assert_array_equal(split.images([0])[0], saved[..., :3].transpose(2, 0, 1))
    deep = Image.fromarray(np.full((6, 6), 40_000, np.uint16))
    deep.save(tmp_path / "train" / "a" / "2.png")
    with pytest.raises(UserError, match="2.png: PIL mode I;16; .* 8 bits"):
        open_split("imagefolder", "train", str(tmp_path)).images([1])


def test_damaged_picture_is_named(tmp_path, save_picture):
    rng = np.random.default_rng(0)
    path = tmp_path / "train" / "a" / "1.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    split = open_split("imagefolder", "train", str(tmp_path))
    with pytest.raises(UserError, match="a/1.jpg: not a readable image: .*truncated"):
        split.images([0])
    path.write_bytes(b"GIF87a?")
    with pytest.raises(UserError, match="a/1.jpg: not a readable image"):
        open_split("imagefolder", "train", str(tmp_path))


def test_no_programs_are_started_for_postscript(tmp_path):
    path = tmp_path / "train" / "a" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\n")
    with pytest.raises(UserError, match="cannot identify"):
        open_split("imagefolder", "train", str(tmp_path))


def test_size_that_changes_later_is_named(tmp_path, save_picture):
    for name in ("1.png", "2.png"):
        save_picture(tmp_path / "train" / "a" / name)
    split = open_split("imagefolder", "train", str(tmp_path))
    save_picture(tmp_path / "train" / "a" / "2.png", 7, 6)
    with pytest.raises(UserError, match="2.png: 6 x 7 pixels"):
        split.images([0, 1])


def test_empty_folder(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no images in its class folders"):
        open_split("imagefolder", "train", str(tmp_path))


def test_files_that_change_under_a_pickled_split(tmp_path, save_picture):
    for name in ("1.png", "2.png"):
        save_picture(tmp_path / "train" / "a" / name)
    data = pickle.dumps(open_split("imagefolder", "train", str(tmp_path)))
    assert len(pickle.loads(data)) == 2
    save_picture(tmp_path / "train" / "a" / "0.png")
    with pytest.raises(UserError, match="files differ from when the run started"):
        len(pickle.loads(data))


def test_remote_folder(save_picture, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    pixels = [save_picture(tmp_path / f"{number}.png") for number in range(3)]
    memory = fsspec.filesystem("memory")
    for number in range(3):
        data = (tmp_path / f"{number}.png").read_bytes()
        memory.pipe(f"/pictures/test/c{number}/x.png", data)
    split = pickle.loads(pickle.dumps(open_split("imagefolder", "test", "memory://pictures")))
    assert split.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(split.images([2])[0], pixels[2].transpose(2, 0, 1))
