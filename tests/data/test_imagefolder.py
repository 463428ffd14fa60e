import os
import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from rsray.data import open_split
from rsray.errors import UserError
from rsray.storage import Place


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


def test_classes_of_one_split_and_loose_pictures_are_named(tmp_path, save_picture, caplog):
    for path in ("train/a/1.png", "train/b/1.png", "test/a/2.png", "test/c/2.png", "train/x.png"):
        save_picture(tmp_path / path)
    open_split("imagefolder", "test", str(tmp_path))
    assert "train has no picture of 1 classes: c" in caplog.text
    assert "test has no picture of 1 classes: b" in caplog.text
    assert "train: pictures beside the class folders are not read: 1" in caplog.text


def test_a_class_that_is_written_in_two_ways_is_refused(tmp_path, save_picture):
    for path in ("train/cat/1.png", "train/dog/1.png", "test/Cat/2.png", "test/dog/2.png"):
        save_picture(tmp_path / path)
    with pytest.raises(UserError, match="classes 'Cat' and 'cat': give them one name"):
        open_split("imagefolder", "test", str(tmp_path))


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


def test_pictures_in_folders_below_a_class_as_torchvision_reads_them(tmp_path, save_picture):
    from torchvision.datasets import ImageFolder

    for path in ("b/x/2.png", "b/1.png", "b/x-y/0.png", "b/x/deep/0.jpg", "a/0.png", "b/X/3.png"):
        save_picture(tmp_path / "train" / path)
    (tmp_path / "elsewhere").mkdir()
    save_picture(tmp_path / "elsewhere" / "linked.png")
    (tmp_path / "train" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    expected = ImageFolder(str(tmp_path / "train"))
    split = open_split("imagefolder", "train", str(tmp_path))
    assert [str(tmp_path / "train" / name) for name in split.image_names] == [
        path for path, _ in expected.samples
    ]
    assert split.labels.tolist() == expected.targets
    (tmp_path / "train" / "a" / "circle").symlink_to(tmp_path / "train" / "a")
    assert len(open_split("imagefolder", "train", str(tmp_path))) == len(expected.samples)


def test_clutter_hidden_and_empty_folders_are_no_classes(tmp_path, save_picture, caplog):
    for split in ("train", "test"):
        for name in ("cat", "dog", "__MACOSX", ".git", "@eaDir"):
            base = "._0.png" if name == "__MACOSX" else "0.png"
            save_picture(tmp_path / split / name / "0.png")
            (tmp_path / split / name / "0.png").rename(tmp_path / split / name / base)
        save_picture(tmp_path / split / "cat" / "__MACOSX" / "1.png")
        save_picture(tmp_path / split / "cat" / "@eaDir" / "0.png" / "thumb.png")
        (tmp_path / split / "cat" / "Thumbs.db").write_bytes(b"x")
        (tmp_path / split / "later").mkdir()
    split = open_split("imagefolder", "train", str(tmp_path))
    assert (split.class_names, len(split)) == (("cat", "dog"), 2)
    assert "no classes, since without pictures: later" in caplog.text
    save_picture(tmp_path / "test" / "later" / "0.png")  # of the other split: a class after all
    assert open_split("imagefolder", "train", str(tmp_path)).class_names == ("cat", "dog", "later")


def test_files_that_are_not_read_are_counted(tmp_path, save_picture, caplog):
    save_picture(tmp_path / "train" / "a" / "0.png")
    for name in ("1.heic", "2.heic", "notes.txt", "image3"):
        (tmp_path / "train" / "a" / name).write_bytes(b"x")
    open_split("imagefolder", "train", str(tmp_path))
    assert "4 files in class folders are not read as pictures (2 .heic, 1" in caplog.text
    (tmp_path / "train" / "b").mkdir()
    (tmp_path / "train" / "b" / "notes.txt").write_bytes(b"x")
    assert open_split("imagefolder", "train", str(tmp_path)).class_names == ("a",)
    # A class is not left out for the format of its pictures.
    (tmp_path / "train" / "b" / "1.HEIC").write_bytes(b"x")
    with pytest.raises(UserError, match="all pictures of the class 'b' are .heic, which are"):
        open_split("imagefolder", "train", str(tmp_path))


def test_split_folders_in_any_case(tmp_path, save_picture):
    for split in ("Train", "Testing"):
        save_picture(tmp_path / split / "a" / "0.png")
        save_picture(tmp_path / split / "b" / "0.png")
    assert open_split("imagefolder", "train", str(tmp_path)).class_names == ("a", "b")
    assert len(open_split("imagefolder", "test", str(tmp_path))) == 2


def test_folders_that_may_mean_something_else_are_refused(tmp_path, save_picture):
    save_picture(tmp_path / "data" / "pets" / "train" / "cat" / "0.png")
    save_picture(tmp_path / "data" / "birds" / "0.png")
    with pytest.raises(UserError, match="is 'pets' a class or a data set. Give --data-root"):
        open_split("imagefolder", "train", str(tmp_path / "data"))
    for name in ("cat", "dog"):
        save_picture(tmp_path / "zip" / "archive" / name / "0.png")
    with pytest.raises(UserError, match="one class, 'archive', whose pictures lie in the folders"):
        open_split("imagefolder", "train", str(tmp_path / "zip"))


def test_class_names_in_two_unicode_forms_are_one_class(tmp_path, save_picture):
    save_picture(tmp_path / "train" / "caf\u00e9" / "0.png")
    save_picture(tmp_path / "train" / "bar" / "0.png")
    save_picture(tmp_path / "test" / "cafe\u0301" / "0.png")
    train, test = (open_split("imagefolder", s, str(tmp_path)) for s in ("train", "test"))
    assert train.class_names == test.class_names == ("bar", "caf\u00e9")
    assert train.labels.tolist() == [0, 1] and test.labels.tolist() == [1]
    assert test.images([0]).shape == (1, 3, 6, 6)


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "tif", "tiff", "avif", "dib", "pbm"])
def test_suffixes_that_pillow_reads(tmp_path, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    kind = {"avif": "AVIF", "tif": "TIFF", "tiff": "TIFF", "dib": "BMP", "pbm": "PPM"}
    path = tmp_path / "train" / "a" / f"1.{suffix}"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (6, 6), (200, 10, 10)).save(path, kind.get(suffix, "JPEG"))
    split = open_split("imagefolder", "train", str(tmp_path))
    assert np.abs(split.images([0])[0, :, 3, 3].astype(int) - [200, 10, 10]).max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, kind, orientation):
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8] = 255  # one bright corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "train" / "a" / f"1.{kind.lower()}"
    path.parent.mkdir(parents=True)
    Image.fromarray(stored).save(path, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    split = open_split("imagefolder", "train", str(tmp_path))
    assert split.image_shape == (3, *expected.shape[:2])
    np.testing.assert_array_equal(split.images([0])[0], expected.transpose(2, 0, 1))


def test_grey_and_coloured_splits_of_one_data_set_agree(tmp_path, save_picture):
    save_picture(tmp_path / "train" / "a" / "0.png", mode="L")
    save_picture(tmp_path / "test" / "a" / "0.png", mode="L")
    grey = save_picture(tmp_path / "test" / "b" / "0.png", mode="LA")
    assert open_split("imagefolder", "test", str(tmp_path)).image_shape == (1, 6, 6)
    colour = save_picture(tmp_path / "train" / "b" / "0.png")
    test = open_split("imagefolder", "test", str(tmp_path))
    assert test.image_shape == (3, 6, 6)
    np.testing.assert_array_equal(test.images([1])[0], np.stack([grey[..., 0]] * 3))
    forced = open_split("imagefolder", "train", str(tmp_path), channels=1)
    expected = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(forced.images([1])[0, 0], expected)
    for name, channels in (("imagefolder", 2), ("digits", 3)):
        with pytest.raises(UserError, match="channels"):
            open_split(name, "train", str(tmp_path), channels=channels)


def test_pipes_empty_files_and_huge_pictures_are_named(tmp_path, save_picture):
    save_picture(tmp_path / "train" / "a" / "0.png")
    bad = tmp_path / "train" / "a" / "1.png"
    os.mkfifo(bad)
    with pytest.raises(UserError, match="a/1.png is no regular file: a pipe"):
        open_split("imagefolder", "train", str(tmp_path))
    with pytest.raises(UserError, match="no regular file"):
        Place.of(bad).read_bytes()
    bad.unlink()
    bad.write_bytes(b"")
    with pytest.raises(UserError, match="a/1.png: the file is empty"):
        open_split("imagefolder", "train", str(tmp_path))
    for side in (9_600, 15_000):
        Image.new("1", (side, side)).save(bad)
        with pytest.raises(UserError, match="a/1.png: pictures of more than 89,478,485 pixels"):
            open_split("imagefolder", "train", str(tmp_path))


def test_a_picture_that_is_added_moves_nobody(tmp_path, save_picture):
    for name in ("a", "b"):
        for number in range(40):
            save_picture(tmp_path / name / f"{number:04}.png")

    def part(split):
        return set(open_split("imagefolder", split, str(tmp_path)).image_names)

    train, test = part("train"), part("test")
    assert 4 < len(test) < 30
    save_picture(tmp_path / "a" / "0000-new.png")
    save_picture(tmp_path / "c" / "0.png")
    assert train <= part("train") and test <= part("test")
