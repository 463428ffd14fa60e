import io
import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsray.data import open_split
from rsray.data.cifar10 import CLASSES
from rsray.errors import UserError

RNG = np.random.default_rng(0)
DATA = RNG.integers(0, 256, (4, 3072), np.uint8)


def write_batches(root, protocol=2, data=DATA, labels=(0, 9, 5, 5)):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"data": data, "labels": list(labels), "filenames": ["a", "b"]}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
@pytest.mark.parametrize("place", ["", "cifar10"])
def test_pickled_batches(tmp_path, protocol, place):
    write_batches(tmp_path / place, protocol)
    test, train = (open_split("cifar10", s, str(tmp_path)) for s in ("test", "train"))
    assert test.labels.tolist() == [0, 9, 5, 5] and len(train) == 20
    np.testing.assert_array_equal(train.images([6])[0], DATA[2].reshape(3, 32, 32))


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class NestedImport:
    def __reduce__(self):
        return eval, ("__import__('os').getpid()",)


def test_pickle_that_runs_code_is_refused(tmp_path):
    folder = write_batches(tmp_path)
    for bad in (Exploit(str(tmp_path / "owned")), {"data": NestedImport()}):
        (folder / "test_batch").write_bytes(pickle.dumps(bad))
        with pytest.raises(UserError, match="test_batch: refused.*it asks for"):
            open_split("cifar10", "test", str(tmp_path))
    assert not (tmp_path / "owned").exists()


def test_damaged_batches(tmp_path):
    folder = write_batches(tmp_path)
    whole = (folder / "test_batch").read_bytes()
    for data in (whole[:-20], b"", b"junk", pickle.dumps([1, 2]), pickle.dumps({"data": DATA})):
        (folder / "test_batch").write_bytes(data)
        with pytest.raises(UserError, match="test_batch: "):
            open_split("cifar10", "test", str(tmp_path))
    write_batches(tmp_path, labels=(0, 1, 2, 10))
    with pytest.raises(UserError, match="label 10; labels must be 0..9"):
        open_split("cifar10", "test", str(tmp_path))


def test_class_folders(tmp_path, save_picture):
    saved = [
        save_picture(tmp_path / "cifar10" / "test" / f"class{k}" / "0.png", 32, 32)
        for k in range(10)
    ]
    split = open_split("cifar10", "test", str(tmp_path))
    assert split.labels.tolist() == list(range(10))
    np.testing.assert_array_equal(split.images([7])[0], saved[7].transpose(2, 0, 1))
    np.testing.assert_array_equal(split.images([7, 3, 7])[2], saved[7].transpose(2, 0, 1))


def test_class_folders_of_other_names_have_no_order_that_is_cifar10s(tmp_path, save_picture):
    for name in "plane car bird cat deer dog frog horse ship truck".split():
        save_picture(tmp_path / "cifar10" / "test" / name / "0.png", 32, 32)
    with pytest.raises(UserError, match="must have the class folders airplane, .* or 0..9"):
        open_split("cifar10", "test", str(tmp_path))


def test_parquet_of_hugging_face(tmp_path):
    pixels = DATA.reshape(4, 32, 32, 3)
    rows = [{"bytes": png(image), "path": None} for image in pixels]
    folder = tmp_path / "cifar10" / "plain_text"
    folder.mkdir(parents=True)
    table = pa.table({"img": rows, "label": [3, 1, 2, 0]})
    pq.write_table(table, folder / "test-00000-of-00001.parquet", row_group_size=3)
    split = pickle.loads(pickle.dumps(open_split("cifar10", "test", str(tmp_path))))
    assert split.labels.tolist() == [3, 1, 2, 0]
    order = [3, 0, 3, 2]
    np.testing.assert_array_equal(split.images(order), pixels[order].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("names", "is_right"), [
    (CLASSES, True), (("plane", "car", *CLASSES[2:]), True), (CLASSES[::-1], False),
    (tuple("abcdefghij"), False), ((*CLASSES[:8], "truck", "ship"), False),
])  # fmt: skip
def test_parquet_that_names_its_classes_in_another_order_is_refused(tmp_path, names, is_right):
    metadata = json.dumps({"info": {"features": {"label": {"names": names}}}})
    rows = [{"bytes": png(image), "path": None} for image in DATA.reshape(4, 32, 32, 3)]
    table = pa.table({"img": rows, "label": [3, 1, 2, 0]})
    table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "train-0.parquet")
    if is_right:
        assert open_split("cifar10", "train", str(tmp_path)).class_names == CLASSES
        return
    with pytest.raises(UserError, match="expected, in this order, airplane, automobile"):
        open_split("cifar10", "train", str(tmp_path))


def test_real_cifar10(shared_data):
    split = open_split("cifar10", "test", shared_data)
    assert (len(split), split.image_shape) == (10_000, (3, 32, 32))
    assert np.bincount(split.labels).tolist() == [1000] * 10
    assert split.class_names[6] == "frog"
    table = pq.read_table(f"{shared_data}/cifar10/plain_text/test-00000-of-00001.parquet")
    rows = [0, 999, 1000, 9999]
    expected = [
        np.asarray(Image.open(io.BytesIO(table["img"][row]["bytes"].as_py()))) for row in rows
    ]
    np.testing.assert_array_equal(split.images(rows), np.stack(expected).transpose(0, 3, 1, 2))
    assert np.bincount(open_split("cifar10", "train", shared_data).labels).tolist() == [5000] * 10
