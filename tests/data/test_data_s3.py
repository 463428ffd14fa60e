"""Data sets on an S3 server: the same images as from disk, and no more read than is asked for."""

import gzip
import io
import pickle
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from rsray.data import open_split
from rsray.data.convert import RECORD, convert
from rsray.data.reading import tar_index
from rsray.errors import UserError
from rsray.storage import Place


@pytest.fixture
def store(bucket_of_options):
    return bucket_of_options


@pytest.fixture
def pictures(tmp_path, save_picture):
    for i in range(24):
        split, name = ("train" if i % 4 else "val"), ("cat", "dog", "owl")[i % 3]
        save_picture(tmp_path / "in" / split / name / f"{i:02}.png", 9, 7)
    return tmp_path / "in"


def same(remote, local):
    assert (remote.num_classes, remote.class_names) == (local.num_classes, local.class_names)
    np.testing.assert_array_equal(remote.labels, local.labels)
    order = np.random.default_rng(0).permutation(len(local))
    for split in (remote, pickle.loads(pickle.dumps(remote))):
        np.testing.assert_array_equal(split.images(order), local.images(order))


def test_imagefolder(store, pictures):
    store.upload(pictures, "sets/mine")
    for split in ("train", "test"):
        same(
            open_split("imagefolder", split, store.uri("sets/mine")),
            open_split("imagefolder", split, str(pictures)),
        )


def test_parquet_shards_converted_from_s3_to_s3(store, pictures):
    store.upload(pictures, "sets/mine")
    source, out = Place.of(store.uri("sets/mine")), Place.of(store.uri("shards"))

    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, out, shard_images=10, on_progress=interrupt)
    first = [key for key in store.keys("shards/") if key.endswith(".parquet")]
    assert len(first) == 1
    store.client.put_object_tagging(
        Bucket=store.name, Key=first[0], Tagging={"TagSet": [{"Key": "first", "Value": "yes"}]}
    )
    done = convert(source, out, shard_images=10)
    assert (done.images, done.total_shards) == (24, 3)
    tags = store.client.get_object_tagging(Bucket=store.name, Key=first[0])["TagSet"]
    assert tags == [{"Key": "first", "Value": "yes"}]  # it was not written again
    assert len(store.keys("shards/")) == 4 and f"shards/{RECORD}" in store.keys("shards/")
    for split in ("train", "test"):
        same(
            open_split("parquet", split, store.uri("shards")),
            open_split("imagefolder", split, str(pictures)),
        )


def test_mnist_raw(store):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 28, 28), np.uint8), np.arange(6, dtype=np.uint8)

    def idx(array):
        shape = np.asarray(array.shape, ">u4").tobytes()
        return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()

    store.put("data/MNIST/raw/t10k-images-idx3-ubyte.gz", gzip.compress(idx(pixels)))
    store.put("data/MNIST/raw/t10k-labels-idx1-ubyte.gz", gzip.compress(idx(labels)))
    split = open_split("mnist", "test", store.uri("data"))
    np.testing.assert_array_equal(split.images(range(6))[:, 0], pixels)
    assert split.labels.tolist() == labels.tolist()
    with pytest.raises(UserError, match="mnist .train. not found; looked for s3://[^?]*$"):
        open_split("mnist", "train", store.uri("data"))


@pytest.fixture
def tar(pictures):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i, path in enumerate(sorted((pictures / "train").rglob("*.png"))):
            for extension, content in (
                ("cls", path.parent.name.encode()),
                ("png", path.read_bytes()),
            ):
                info = tarfile.TarInfo(f"{i:03}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_tar_shards(store, pictures, tar, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.put("wds/mine-train-0.tar", tar)
    same(
        open_split("webdataset", "train", store.uri("wds")),
        open_split("imagefolder", "train", str(pictures)),
    )
    monkeypatch.setattr(tar_index, "_build", lambda file: pytest.fail("the tar was read again"))
    assert len(open_split("webdataset", "train", store.uri("wds"))) == 18
    store.put("wds/mine-train-0.tar", tar[:-9000])
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="mine-train-0.tar"):
        open_split("webdataset", "train", store.uri("wds"))


def test_one_picture_costs_one_row_group(bucket, tmp_path, save_picture, monkeypatch):
    for i in range(60):
        save_picture(tmp_path / "in/test/cat" / f"{i:02}.png", 120, 120)  # 43 KB each
    convert(Place.of(str(tmp_path / "in")), Place.of(bucket.uri("shards")))
    key = next(key for key in bucket.keys() if key.endswith(".parquet"))
    content = bucket.get(key)
    footer = pq.read_metadata(io.BytesIO(content))
    assert footer.num_row_groups == 3
    split = open_split("parquet", "test", bucket.uri("shards"))
    split.labels, split.images([0])
    read, real = [], Place.open

    class Counted:
        """Only what an opened file is asked for: reads, by size."""

        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            if name == "read_buffer":  # Arrow then reads by `read`
                raise AttributeError(name)
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

        def read(self, size=None):
            found = self.stream.read(size)
            read.append(len(found))
            return found

    monkeypatch.setattr(Place, "open", lambda self: Counted(real(self)))
    split.images([59, 58])
    group = footer.row_group(2).column(0)
    assert 0 < sum(read) < group.total_compressed_size * 1.1 < len(content) / 2


def test_a_certification_of_shards_does_not_open_the_training_shards(bucket, pictures):
    convert(Place.of(str(pictures)), Place.of(bucket.uri("shards")), shard_images=10)
    train = [key for key in bucket.keys("shards/") if "train-" in key]
    for key in train[1:]:  # the schema of one is read: it names the classes
        bucket.put(key, b"damaged")
    split = open_split("parquet", "test", bucket.uri("shards"))
    assert len(split) == 6 and split.class_names == ("cat", "dog", "owl")


def test_what_s3_refuses_is_said_in_one_line(store):
    with pytest.raises(UserError, match=r"imagefolder .test. not found") as problem:
        open_split("imagefolder", "test", store.uri("nothing"))
    assert "endpoint" not in str(problem.value) and "\n" not in str(problem.value)
