"""`rsray data convert`: the shards hold the same images, bytes and labels as the folder."""

import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsray.data import DATASETS, open_split, selected
from rsray.data import convert as conversion
from rsray.data.convert import convert
from rsray.errors import UserError
from rsray.storage import Place


@pytest.fixture
def pictures(tmp_path, save_picture):
    """A folder with train and val; cats are missing in val, JPEG and PNG, sizes differ."""
    for i in range(23):
        suffix = "JPEG" if i % 3 else "png"
        save_picture(
            tmp_path / "in/train" / ("cat", "dog", "owl")[i % 3] / f"{i}.{suffix}", 8 + i, 9
        )
    for i in range(6):
        save_picture(tmp_path / "in/val" / ("dog", "owl")[i % 2] / f"v{i}.png", 9, 12)
    return tmp_path / "in"


def run(source, out, **options):
    return convert(Place.of(str(source)), Place.of(out), **options)


def same(a, b):
    assert (a.num_classes, a.class_names, a.image_shape) == (
        b.num_classes,
        b.class_names,
        b.image_shape,
    )
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.images(range(len(a))), b.images(range(len(b))))


def test_shards_hold_what_the_folder_holds(pictures, tmp_path):
    seen = []
    done = run(pictures, tmp_path / "out", shard_images=10, on_progress=seen.append)
    assert [(step.images, step.shards) for step in seen] == [(10, 1), (20, 2), (23, 3), (29, 4)]
    assert (done.images, done.total, done.total_shards) == (29, 29, 4)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert names == [f"train-0000{i}-of-00003.parquet" for i in range(3)] + [
        "validation-00000-of-00001.parquet"
    ]
    for split in ("train", "test"):
        same(
            open_split("parquet", split, str(tmp_path / "out"), image_size=8),
            open_split("imagefolder", split, str(pictures), image_size=8),
        )
    rows = pq.read_table(tmp_path / "out" / names[0]).to_pylist()
    files = sorted((pictures / "train/cat").iterdir(), key=lambda path: path.name)
    assert [row["image"]["path"] for row in rows[: len(files)]] == [path.name for path in files]
    assert [row["image"]["bytes"] for row in rows[: len(files)]] == [
        path.read_bytes() for path in files
    ]


def test_a_folder_without_splits_is_split_as_the_folder_is(tmp_path, save_picture):
    for i in range(30):
        save_picture(tmp_path / "in" / ("cat", "dog")[i % 2] / f"{i}.png")
    run(tmp_path / "in", tmp_path / "out", shard_images=7)
    for split in ("train", "test"):
        same(
            open_split("parquet", split, str(tmp_path / "out")),
            open_split("imagefolder", split, str(tmp_path / "in")),
        )


@pytest.mark.parametrize(
    ("train", "test", "prefix"),
    [
        ("training", "testing", "test"),
        ("train", "testing", "test"),
        ("Train", "Valid", "validation"),
        ("training", "val", "validation"),
    ],
)
def test_every_name_of_a_split_that_the_reader_knows(tmp_path, save_picture, train, test, prefix):
    for i in range(9):
        save_picture(tmp_path / "in" / train / ("ant", "bee", "cow")[i % 3] / f"{i}.png")
        save_picture(tmp_path / "in" / test / ("ant", "bee", "cow")[i % 3] / f"t{i}.png")
    run(tmp_path / "in", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").glob("*.parquet")}
    assert names == {f"{name}-00000-of-00001.parquet" for name in ("train", prefix)}
    for split in ("train", "test"):
        same(
            open_split("parquet", split, str(tmp_path / "out")),
            open_split("imagefolder", split, str(tmp_path / "in")),
        )


def test_two_folders_of_one_split_are_refused_and_other_folders_named(
    pictures, tmp_path, save_picture, caplog
):
    save_picture(pictures / "holdout/cat/1.png")
    run(pictures, tmp_path / "out")
    assert "not converted: holdout" in caplog.text
    save_picture(pictures / "training/cat/1.png")
    with pytest.raises(UserError, match="two folders of one split, train and training"):
        run(pictures, tmp_path / "more")


def test_folders_that_stand_above_splits_or_classes_are_refused(tmp_path, save_picture):
    """As the reader of the folder refuses them."""
    save_picture(tmp_path / "above/pets/train/cat/1.png")
    save_picture(tmp_path / "above/pets/test/cat/2.png")
    with pytest.raises(UserError, match="is 'pets' a class or a data set"):
        run(tmp_path / "above", tmp_path / "out")
    for name in ("cat", "dog"):
        save_picture(tmp_path / "one/train/images" / name / "1.png")
    with pytest.raises(UserError, match="has one class, 'images', whose pictures lie in"):
        run(tmp_path / "one", tmp_path / "out")


def test_an_interrupted_conversion_writes_only_what_is_missing(pictures, tmp_path):
    out = tmp_path / "out"

    def interrupt(done):
        if done.shards == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pictures, out, shard_images=10, on_progress=interrupt)
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(first) == 2
    done = run(pictures, out, shard_images=10)
    assert done.images == 29 and len(list(out.glob("*.parquet"))) == 4
    again = run(pictures, out, shard_images=10)
    assert again.bytes == 0
    assert all((out / name).stat().st_mtime_ns == time for name, time in first.items())
    same(
        open_split("parquet", "train", str(out), image_size=8),
        open_split("imagefolder", "train", str(pictures), image_size=8),
    )


def test_another_conversion_is_refused(pictures, tmp_path, save_picture):
    run(pictures, tmp_path / "out", shard_images=10)
    with pytest.raises(UserError, match="another conversion: shard_images is 11 now but was 10"):
        run(pictures, tmp_path / "out", shard_images=11)
    save_picture(pictures / "train/cat/new.png")
    with pytest.raises(UserError, match="another conversion: splits is .*use another --out"):
        run(pictures, tmp_path / "out", shard_images=10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("")
    with pytest.raises(UserError, match="not empty and is no conversion"):
        run(pictures, tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        run(pictures, tmp_path / "mine/notes.txt")
    with Place.of(tmp_path / "out").locked(), pytest.raises(UserError, match="another"):
        run(pictures, tmp_path / "out", shard_images=10)


def test_bad_input(tmp_path, pictures):
    with pytest.raises(UserError, match="nowhere is no folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty/cat").mkdir(parents=True)
    with pytest.raises(UserError, match="no pictures in class folders"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="shard size 0"):
        run(pictures, tmp_path / "out", shard_images=0)
    assert not (tmp_path / "out").exists()
    (pictures / "train/dog/1.JPEG").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="dog/1.JPEG: not a readable image"):
        run(pictures, tmp_path / "out")


def test_row_groups_are_small_and_only_those_asked_for_are_read(
    tmp_path, save_picture, monkeypatch
):
    monkeypatch.setattr(conversion, "GROUP_BYTES", 4000)
    for i in range(40):
        save_picture(tmp_path / "in/test/cat" / f"{i:02}.png", 20, 20)  # 1.2 KB each
    run(tmp_path / "in", tmp_path / "out")
    file = next((tmp_path / "out").glob("*.parquet"))
    footer = pq.read_metadata(file)
    assert 10 <= footer.num_row_groups <= 20
    assert all(footer.row_group(g).total_byte_size <= 4800 for g in range(footer.num_row_groups))
    split = open_split("parquet", "test", str(tmp_path / "out"))
    read, real = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **k: (read.append(group), real(self, group, **k))[1],
    )
    split.images([39, 39])
    assert read == [footer.num_row_groups - 1]


# ImageNet from its folders, from shards made of them, and from tar files.


def write_tars(val, out):
    """Write val/<synset>/* as WebDataset does ImageNet: numbers in .cls, the synset in .json."""
    out.mkdir(parents=True)
    files = sorted(val.rglob("*.JPEG"), key=lambda path: (path.parent.name, path.name))
    classes = sorted({path.parent.name for path in files})
    for number in range(2):
        with tarfile.open(out / f"imagenet1k-validation-{number:02}.tar", "w") as archive:
            for i, path in list(enumerate(files))[
                number * len(files) // 2 : (number + 1) * len(files) // 2
            ]:
                label = classes.index(path.parent.name)
                said = json.dumps({"label": label, "synset": path.parent.name}).encode()
                for extension, content in (
                    ("cls", b"%d" % label),
                    ("jpg", path.read_bytes()),
                    ("json", said),
                ):
                    info = tarfile.TarInfo(f"val_{i:06}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def expected(path):
    """The evaluation transform of the papers, by torchvision."""
    transforms = pytest.importorskip("torchvision.transforms")
    chain = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    return np.asarray(chain(Image.open(path).convert("RGB"))).transpose(2, 0, 1)


@pytest.mark.parametrize("classes", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_real_imagenet_is_the_same_from_folders_parquet_and_tar(
    shared_data, tmp_path, monkeypatch, classes
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    synsets = sorted(Place.of(f"{shared_data}/imagenet/val").folders())[:classes]
    for synset in synsets:
        target = tmp_path / "folders/imagenet/val" / synset
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(f"{shared_data}/imagenet/val/{synset}")
    run(tmp_path / "folders/imagenet", tmp_path / "parquet/imagenet", shard_images=classes // 3)
    files = [next(p.iterdir()) for p in sorted((tmp_path / "folders/imagenet/val").iterdir())]
    real = tmp_path / "real"
    for file in files:  # rglob does not follow links
        (real / file.parent.name).mkdir(parents=True)
        (real / file.parent.name / file.name).symlink_to(file.resolve())
    write_tars(real, tmp_path / "tar/imagenet/data")
    roots = [str(tmp_path / kind) for kind in ("folders", "parquet", "tar")]
    splits = [open_split("imagenet", "test", root) for root in roots]
    rows = [0, 1, classes // 2, classes - 1]
    for root, split in zip(roots, splits, strict=True):
        assert (split.num_classes, split.image_shape) == (classes, (3, 224, 224))
        assert split.class_names == tuple(synsets)
        assert np.array_equal(split.labels, np.arange(classes))
        images = split.images(rows)
        for row, image in zip(rows, images, strict=True):
            np.testing.assert_array_equal(image, expected(files[row]))
        mini = open_split("mini-imagenet50", "test", root)
        assert len(mini) == mini.num_classes == 50
        first = synsets.index(mini.class_names[0])
        np.testing.assert_array_equal(mini.images([0])[0], expected(files[first]))
    assert np.array_equal(
        splits[0].images(range(0, classes, 7)), splits[1].images(range(0, classes, 7))
    )
    # The papers' 500 images of 50,000: every hundredth, unless told otherwise.
    assert len(selected(50_000, 0, DATASETS["imagenet"].skip, None)) == 500
