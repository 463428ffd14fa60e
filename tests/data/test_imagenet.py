import io
import json
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsray.certification.data_check import fitted
from rsray.data import imagenet, open_split
from rsray.data.reading.decode import Geometry, fit
from rsray.errors import UserError


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (100, 333), (301, 1000)])
@pytest.mark.parametrize("crop", [224, 32])
def test_transform_is_torchvisions(size, crop):
    transforms = pytest.importorskip("torchvision.transforms")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    short = round(crop * 256 / 224)
    chain = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(crop)])
    expected = np.asarray(chain(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(fit(image, Geometry(3, crop, crop, short), "x"), expected)


def write_classes(folder, save_picture, count):
    for k in range(count):
        save_picture(folder / f"n{k:08}" / "x.JPEG", 40, 50)


def test_some_classes(tmp_path, save_picture):
    write_classes(tmp_path / "imagenet" / "val", save_picture, 3)
    (tmp_path / "imagenet" / "test").mkdir()  # unlabelled: not the test split
    split = open_split("imagenet", "test", str(tmp_path), image_size=16)
    assert (split.num_classes, split.image_shape) == (3, (3, 16, 16))
    assert split.labels.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="imagenet .train. not found.*train/<synset>"):
        open_split("imagenet", "train", str(tmp_path))
    with pytest.raises(UserError, match="found 3 classes of ImageNet, needs 50"):
        open_split("mini-imagenet50", "test", str(tmp_path))


def test_mini_imagenet_from_folders_and_shards_agree(tmp_path, save_picture):
    write_classes(tmp_path / "folders" / "val", save_picture, 120)
    paths = sorted((tmp_path / "folders" / "val").rglob("*.JPEG"))
    order = np.random.default_rng(0).permutation(120)
    rows = {
        "image": [{"bytes": paths[k].read_bytes(), "path": None} for k in order],
        "label": order,
    }
    shards = tmp_path / "shards" / "imagenet" / "data"
    shards.mkdir(parents=True)
    pq.write_table(pa.table(rows).slice(0, 70), shards / "validation-0-of-2.parquet")
    pq.write_table(pa.table(rows).slice(70), shards / "validation-1-of-2.parquet")
    unlabelled = {"image": rows["image"][:1], "label": [-1]}
    pq.write_table(pa.table(unlabelled), shards / "test-0-of-1.parquet")
    a = open_split("mini-imagenet50", "test", str(tmp_path / "folders"), image_size=8)
    b = open_split("mini-imagenet50", "test", str(tmp_path / "shards"), image_size=8)
    b = pickle.loads(pickle.dumps(b))
    assert a.labels.tolist() == list(range(50)) == sorted(b.labels.tolist())
    chosen = np.sort(np.random.default_rng(0).choice(120, 50, replace=False))
    assert a.class_names == tuple(f"n{k:08}" for k in chosen)
    np.testing.assert_array_equal(b.images(np.argsort(b.labels)), a.images(range(50)))


@pytest.mark.parametrize("form", ["n{:08}", "{:04}", "{:03}"])
def test_a_thousand_folders_in_the_order_of_their_names(form):
    classes = tuple(form.format(at) for at in range(1000))
    imagenet._check_order(classes, "here: folder", "imagefolder")


@pytest.mark.parametrize("form", ["{}", "class {}", "n{:07}"])
def test_a_thousand_folders_of_other_names_are_in_no_known_order(form, tmp_path):
    for at in range(1000):
        (tmp_path / "val" / form.format(at)).mkdir(parents=True)
    with pytest.raises(UserError, match="is named by no synset"):
        open_split("imagenet", "test", str(tmp_path))


@pytest.fixture
def write_shard(tmp_path, save_picture, monkeypatch):
    """Return a function that writes labels, each beside the same picture, and returns the root."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(kind, labels, class_names=()):
        save_picture(tmp_path / "x.png")
        picture = (tmp_path / "x.png").read_bytes()
        if kind == "parquet":
            rows = {"image": [{"bytes": picture, "path": None}] * len(labels), "label": labels}
            feature = {"names": list(class_names), "_type": "ClassLabel"}
            told = json.dumps({"info": {"features": {"label": feature}}})
            table = pa.table(rows).replace_schema_metadata({"huggingface": told})
            pq.write_table(table, tmp_path / "validation-0-of-1.parquet")
            return str(tmp_path)
        if class_names:
            (tmp_path / "classes.txt").write_text("\n".join(class_names))
        with tarfile.open(tmp_path / "val-0.tar", "w") as archive:
            for at, label in enumerate(labels):
                for suffix, content in (("png", picture), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{at:04}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return str(tmp_path)

    return write


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        ([f"class {at:03}" for at in range(1000)], ()),
        # As the development kit numbers them, which is no order of synsets
        (list(range(1, 1001)), ()),
        # As numbers of names that a folder's reader sorted
        (list(range(1000)), [f"class {at:03}" for at in range(1000)]),
        (list(range(1000)), [f"n{999 - at:08}" for at in range(1000)]),
    ],
)
def test_a_thousand_classes_in_shards_in_no_known_order(write_shard, kind, labels, class_names):
    root = write_shard(kind, labels, class_names)
    for name in ("imagenet", "mini-imagenet50"):
        with pytest.raises(UserError, match="is named by no synset|has number 0, but ImageNet"):
            open_split(name, "test", root)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        ([f"n{at:08}" for at in range(1000)], ()),
        (list(range(1000)), ()),
        ([str(at) for at in range(1000)], ()),
        # Hugging Face's names are in ImageNet's order, not in the alphabet's
        (list(range(1000)), ["tench", "goldfish", *(f"kind {at}" for at in range(2, 1000))]),
    ],
)
def test_a_thousand_classes_in_shards_in_their_order(write_shard, kind, labels, class_names):
    split = open_split("imagenet", "test", write_shard(kind, labels, class_names))
    assert split.labels.tolist() == list(range(1000))


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_classes_without_names_keep_their_numbers_in_mini_imagenet(write_shard, kind):
    root = write_shard(kind, list(range(1000)))
    mini, kept = open_split("mini-imagenet50", "test", root), imagenet.mini_classes(1000)
    assert mini.labels.tolist() == list(range(50)) and mini.classes == tuple(map(str, kept))
    record = {"dataset": "imagenet", "classes": open_split("imagenet", "test", root).classes}
    assert fitted(mini, record, "run").labels.tolist() == kept.tolist()


def test_real_imagenet(shared_data):
    split = open_split("imagenet", "test", shared_data)
    assert (len(split), split.num_classes, split.image_shape) == (1000, 1000, (3, 224, 224))
    assert np.array_equal(split.labels, np.arange(1000))
    assert split.class_names[0] == "n01440764" and split.class_names[999] == "n15075141"
    assert split.images([0, 999]).shape == (2, 3, 224, 224)
    mini = open_split("mini-imagenet50", "test", shared_data)
    index = split.class_names.index(mini.class_names[7])
    np.testing.assert_array_equal(mini.images([7]), split.images([index]))
    assert len(pickle.dumps(split)) < 20_000
