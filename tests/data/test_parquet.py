import io
import json
import pickle
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsray.data import open_split
from rsray.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 3), np.uint8)  # N, H, W, C
LABELS = np.arange(20) % 4


def encoded(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PNGS = [encoded(image) for image in PIXELS]


def write(path, images=PNGS, labels=LABELS, rows=slice(None), group=7, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": images, "label": labels, **columns}
    table = pa.table(
        {k: v if isinstance(v, pa.Array) else pa.array(list(v)[rows]) for k, v in columns.items()}
    )
    pq.write_table(table, path, row_group_size=group)


def tensors(kind):
    if kind == "fixed-shape HWC":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(PIXELS)
    if kind == "fixed-shape CHW":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(
            np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))
        )
    return pa.array(PIXELS.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8(), 3))))


COLUMNS = {
    "struct": lambda: [{"bytes": data, "path": "x"} for data in PNGS],
    "binary": lambda: PNGS,
    "large binary": lambda: pa.array(PNGS, pa.large_binary()),
    **{
        kind: lambda kind=kind: tensors(kind)
        for kind in ("fixed-shape HWC", "fixed-shape CHW", "nested lists")
    },
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_image_column(tmp_path, kind):
    write(tmp_path / "test.parquet", COLUMNS[kind]())
    for root in (str(tmp_path), tmp_path.as_uri(), str(tmp_path / "test.parquet")):
        split = pickle.loads(pickle.dumps(open_split("parquet", "test", root)))
        assert (split.image_shape, split.num_classes) == ((3, 5, 4), 4)
        order = [19, 0, 7, 7, 6, 13, 14]
        expected = PIXELS[order].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(split.images(order), expected)
        assert split.labels.tolist() == LABELS.tolist()
    small = open_split("parquet", "test", str(tmp_path), image_size=3)
    assert small.images([3]).shape == (1, 3, 3, 3)


def test_flat_square_grey(tmp_path):
    pixels = np.arange(2 * 16, dtype=np.uint8).reshape(2, 16)
    write(tmp_path / "train.parquet", pa.array(list(pixels)), [0, 1])
    split = open_split("parquet", "train", str(tmp_path))
    np.testing.assert_array_equal(split.images([0, 1]), pixels.reshape(2, 1, 4, 4))


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.parquet", "test-0.parquet"),
        ("train.parquet", "validation.parquet"),
        ("data/train/a.parquet", "data/test/a.parquet"),
        ("parquet/train_1.parquet", "parquet/val_1.parquet"),
        ("training.parquet", "testing.parquet"),
        ("mine_train.parquet", "mine_test.parquet"),
    ],
)
def test_splits_by_name_share_their_classes(tmp_path, names):
    words = np.array(["dog", "cat", "eel", "ant"])[LABELS]
    write(tmp_path / names[0], labels=words, rows=slice(0, 2))
    write(tmp_path / names[1], labels=words, rows=slice(2, 4))
    train, test = (open_split("parquet", s, str(tmp_path)) for s in ("train", "test"))
    assert train.class_names == test.class_names == ("ant", "cat", "dog", "eel")
    assert (train.labels.tolist(), test.labels.tolist()) == ([2, 1], [3, 0])


def test_files_of_a_set_that_are_missing_are_told(tmp_path, caplog):
    write(tmp_path / "test-00000-of-00003.parquet")
    write(tmp_path / "test-00002-of-00003.parquet")
    assert len(open_split("parquet", "test", str(tmp_path))) == 40
    assert "test: 1 of 3 files are missing" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("test-00000-of-00001", "test-00000-of-00002", "test-00001-of-00002"), "another writing"),
        (("test-00000-of-00001-1a2b", "test-00000-of-00001-3c4d"), "another writing"),
        (("data-00000-of-00001", "data"), "another writing"),
        (("full/test-0", "small/test-0"), "in full and in small: two data sets"),
        (("full/test/0000", "small/test/0000"), "in full and in small: two data sets"),
        (("test-0", "small/test-0"), "in . and in small: two data sets"),
    ],
)
def test_a_set_that_lies_there_twice_is_refused(tmp_path, names, message):
    for name in names:
        write(tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=message):
        open_split("parquet", "test", str(tmp_path))


def test_split_column(tmp_path):
    where = ["train"] * 15 + ["validation"] * 5
    write(tmp_path / "all.parquet", split=where)
    test = open_split("parquet", "test", str(tmp_path))
    np.testing.assert_array_equal(test.images([1])[0], PIXELS[16].transpose(2, 0, 1))
    assert len(open_split("parquet", "train", str(tmp_path))) == 15
    write(tmp_path / "all.parquet", split=["a"] * 20)
    with pytest.raises(UserError, match="column 'split'; it has a"):
        open_split("parquet", "train", str(tmp_path))


def test_seeded_split(tmp_path):
    write(tmp_path / "mine.parquet")
    train, test = (open_split("parquet", s, str(tmp_path)) for s in ("train", "test"))
    assert (len(train), np.bincount(test.labels).tolist()) == (15, [2, 1, 1, 1])
    pixels = np.concatenate([s.images(range(len(s))) for s in (train, test)]).reshape(20, -1)
    assert len(np.unique(pixels, axis=0)) == 20


def test_class_names_of_hugging_face(tmp_path):
    feature = {"label": {"names": ["zero", "one", "two", "three", "four"], "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": feature}}).encode()}
    table = pa.table({"image": PNGS, "label": LABELS}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "test.parquet")
    split = open_split("parquet", "test", str(tmp_path))
    assert split.num_classes == 5 and split.class_names[4] == "four"


def of_hugging_face(names, labels=LABELS):
    metadata = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    return pa.table({"image": PNGS, "label": labels}).replace_schema_metadata(metadata)


def test_files_that_number_their_classes_otherwise_are_refused(tmp_path):
    pq.write_table(of_hugging_face(["a", "b", "c", "d"]), tmp_path / "train.parquet")
    pq.write_table(of_hugging_face(["a", "c", "b", "d"]), tmp_path / "test.parquet")
    for split in ("train", "test"):
        with pytest.raises(UserError, match="label 1 is 'b' in the one and 'c' in the other"):
            open_split("parquet", split, str(tmp_path))
    write(tmp_path / "test.parquet")
    assert open_split("parquet", "test", str(tmp_path)).class_names == ("a", "b", "c", "d")
    # One name in two Unicode forms is one name.
    pq.write_table(of_hugging_face(["caf\u00e9", "b", "c", "d"]), tmp_path / "train.parquet")
    pq.write_table(of_hugging_face(["cafe\u0301", "b", "c", "d"]), tmp_path / "test.parquet")
    assert open_split("parquet", "test", str(tmp_path)).class_names[0] == "caf\u00e9"


def test_text_and_numbers_in_one_column_are_refused(tmp_path):
    write(tmp_path / "train.parquet", labels=np.array(["a", "b", "c", "d"])[LABELS])
    write(tmp_path / "test.parquet")
    with pytest.raises(UserError, match="is text in some files and numbers in others"):
        open_split("parquet", "test", str(tmp_path))


def test_numbers_as_text_are_in_the_order_of_numbers(tmp_path):
    write(tmp_path / "test.parquet", labels=np.array(["1", "2", "10", "9"])[LABELS])
    split = open_split("parquet", "test", str(tmp_path))
    assert split.class_names == ("1", "2", "9", "10")
    assert split.labels[:4].tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize(("names", "message"), [
    (["cat", "Cat", "dog", "owl"], "classes 'Cat' and 'cat': give them one name"),
    (["cat", "cat ", "dog", "owl"], "classes 'cat' and 'cat ': give them one name"),
    (["", "cat", "dog", "owl"], "a class called '', which is no name"),
    (["-1", "0", "1", "2"], "test.parquet: label -1 is no class"),
])  # fmt: skip
def test_doubtful_names(tmp_path, names, message):
    write(tmp_path / "test.parquet", labels=np.array(names)[LABELS])
    with pytest.raises(UserError, match=message):
        open_split("parquet", "test", str(tmp_path))


def test_letters_of_two_cases_are_classes(tmp_path):
    write(tmp_path / "test.parquet", labels=np.array(["a", "A", "b", "B"])[LABELS])
    assert open_split("parquet", "test", str(tmp_path)).class_names == ("A", "B", "a", "b")


@pytest.mark.parametrize("name", ["image", "label"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    columns = {"image": pa.array(PNGS), "label": pa.array(LABELS)}
    table = pa.table(columns).append_column(name, columns[name])
    pq.write_table(table, tmp_path / "test-1.parquet")
    with pytest.raises(UserError, match=f"two columns are called {name}"):
        open_split("parquet", "test", str(tmp_path))
    write(tmp_path / "test-0.parquet")
    with pytest.raises(UserError, match="test-1.parquet.* exists 2 times"):
        open_split("parquet", "test", str(tmp_path)).images(range(40))


def test_two_columns_of_one_kind_are_asked_about(tmp_path):
    table = pa.table({"image": PNGS, "label": LABELS, "labels": LABELS // 2})
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(UserError, match="which is the label column, label or labels.*--label-col"):
        open_split("parquet", "test", str(tmp_path))
    assert open_split("parquet", "test", str(tmp_path), label_column="labels").num_classes == 2
    write(tmp_path / "test.parquet", img=PNGS)
    with pytest.raises(UserError, match=r"which is the image column, image or img\?"):
        open_split("parquet", "test", str(tmp_path))


@pytest.mark.parametrize("shape", [(48,), (3, 4, 3)])
def test_arrays_whose_order_would_be_a_guess_are_refused(tmp_path, shape):
    pixels = np.zeros((2, *shape), np.uint8)
    kind = pa.uint8()
    for _ in shape:
        kind = pa.list_(kind)
    write(tmp_path / "train.parquet", pa.array(pixels.tolist(), kind), [0, 1])
    with pytest.raises(UserError, match="are no images; allowed"):
        open_split("parquet", "train", str(tmp_path))


def test_arrays_that_arrow_stores_in_another_order_than_it_names(tmp_path):
    images = PIXELS.transpose(0, 3, 1, 2)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    assert column.type.permutation == [1, 2, 0]
    write(tmp_path / "test.parquet", column)
    found = open_split("parquet", "test", str(tmp_path)).images([7, 2])
    np.testing.assert_array_equal(found, images[[7, 2]])
    for order in ([1, 0, 2], [1, 0]):
        shape = [5, 4, 3] if len(order) == 3 else [5, 12]
        kind = pa.fixed_shape_tensor(pa.uint8(), shape, permutation=order)
        write(tmp_path / "test.parquet", pa.ExtensionArray.from_storage(kind, column.storage))
        with pytest.raises(UserError, match="stored in the permutation"):
            open_split("parquet", "test", str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1000, 2000] * 10, "2 different labels in 1000..2000: these are identifiers"),
        ([2, 3] * 10, "2 different labels in 2..3: these are identifiers"),
        ([-1] * 20, "labels -1..-1"),
        ([10**9] * 20, "labels 1000000000"),
        ([0.5] * 20, "column 'label' is of type double; must be integer or text"),
        ([None] + [1] * 19, "1 rows without a label"),
    ],
)
def test_bad_labels(tmp_path, labels, message):
    write(tmp_path / "test.parquet", labels=labels)
    with pytest.raises(UserError, match=message):
        open_split("parquet", "test", str(tmp_path))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            encoded(PIXELS[0][:4]),
            "test.parquet row 9: 4 x 4 pixels .* among images of 4 x 5; pass --image-size",
        ),
        (b"junk", "test.parquet row 9: not a readable image"),
        (None, "test.parquet row 9: no image bytes"),
    ],
)
def test_bad_image_is_named(tmp_path, image, message):
    write(tmp_path / "test.parquet", PNGS[:9] + [image] + PNGS[10:])
    split = open_split("parquet", "test", str(tmp_path))
    split.images([8, 10])
    with pytest.raises(UserError, match=message):
        split.images(range(20))


def test_grey_among_coloured_pictures_becomes_coloured(tmp_path):
    grey = PIXELS[0, :, :, 0]
    write(tmp_path / "test.parquet", [encoded(grey)] + PNGS[1:])
    split = open_split("parquet", "test", str(tmp_path))
    assert split.image_shape == (3, 5, 4)
    np.testing.assert_array_equal(split.images([0])[0], np.stack([grey] * 3))
    # The other split of the same data is grey throughout.
    write(tmp_path / "train.parquet", [encoded(grey)] * 20)
    assert open_split("parquet", "train", str(tmp_path)).image_shape == (3, 5, 4)


def test_colour_that_is_found_late_is_named(tmp_path):
    greys = [encoded(PIXELS[0, :, :, 0])] * 600
    greys[35] = PNGS[1]  # between the places that are looked at
    write(tmp_path / "test.parquet", greys, [0, 1] * 300, group=50)
    split = open_split("parquet", "test", str(tmp_path))
    assert split.image_shape == (1, 5, 4)
    with pytest.raises(UserError, match="row 35: a RGB image among grey ones.*--channels 3"):
        split.images([0, 35])
    assert open_split("parquet", "test", str(tmp_path), channels=3).images([0, 35]).shape[1] == 3
    made_grey = open_split("parquet", "test", str(tmp_path), channels=1).images([35])[0, 0]
    np.testing.assert_array_equal(made_grey, np.asarray(Image.fromarray(PIXELS[1]).convert("L")))


def test_channels_of_arrays(tmp_path):
    write(tmp_path / "test.parquet", tensors("fixed-shape HWC"))
    split = open_split("parquet", "test", str(tmp_path), channels=1)
    expected = np.asarray(Image.fromarray(PIXELS[3]).convert("L"))
    np.testing.assert_array_equal(split.images([3])[0, 0], expected)


def test_label_column(tmp_path):
    fine = (LABELS + 1) % 4
    write(tmp_path / "test.parquet", fine_label=fine, coarse_label=LABELS // 2)
    table = pq.read_table(tmp_path / "test.parquet").drop(["label"])
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(UserError, match="fine_label, coarse_label.*--label-column"):
        open_split("parquet", "test", str(tmp_path))
    split = open_split("parquet", "test", str(tmp_path), label_column="fine_label")
    assert split.labels.tolist() == fine.tolist() and split.num_classes == 4
    coarse = open_split("parquet", "test", str(tmp_path), label_column="coarse_label")
    assert coarse.num_classes == 2
    with pytest.raises(UserError, match="no label column; it must be named other;"):
        open_split("parquet", "test", str(tmp_path), label_column="other")
    with pytest.raises(UserError, match="digits has no label columns"):
        open_split("digits", "test", label_column="fine_label")


def test_labels_from_1_are_shifted_with_a_word(tmp_path, caplog):
    write(tmp_path / "train.parquet", labels=LABELS + 1)
    write(tmp_path / "test.parquet", labels=[4] * 20)  # one class only: told by the other file
    train, test = (open_split("parquet", s, str(tmp_path)) for s in ("train", "test"))
    assert (train.num_classes, train.class_names) == (4, ("1", "2", "3", "4"))
    assert train.labels.tolist() == LABELS.tolist() and set(test.labels.tolist()) == {3}
    assert "counts its labels from 1" in caplog.text
    write(tmp_path / "train.parquet", labels=np.where(LABELS == 1, 5, LABELS + 1))  # no 2
    with pytest.raises(UserError, match="labels 1..5 without 0 and 2: is 1 the first class"):
        open_split("parquet", "train", str(tmp_path))


def test_text_labels_in_two_unicode_forms_are_one_class(tmp_path):
    words = np.array(["caf\u00e9", "cafe\u0301", "bar", "bar"])[LABELS]
    write(tmp_path / "test.parquet", labels=words)
    split = open_split("parquet", "test", str(tmp_path))
    assert split.class_names == ("bar", "caf\u00e9")
    assert split.labels.tolist() == [1, 1, 0, 0] * 5


def test_rows_without_splits_stay_in_their_part_when_rows_are_added(tmp_path):
    pictures = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PNGS)]
    parts = {}
    for rows in (range(2, 20), range(20)):  # two are added in front
        write(tmp_path / "mine.parquet", [pictures[i] for i in rows], LABELS[list(rows)])
        for split in ("train", "test"):
            parts[split, len(rows)] = set(open_split("parquet", split, str(tmp_path)).image_names)
    assert parts["train", 18] <= parts["train", 20] and parts["test", 18] <= parts["test", 20]
    assert "2/2.png" in parts["train", 20] | parts["test", 20]


def test_bad_files(tmp_path):
    path = tmp_path / "test.parquet"
    write(path)
    whole = path.read_bytes()
    for data in (whole[:-30], b"", b"PAR1junkPAR1"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="test.parquet: damaged or not Parquet"):
            open_split("parquet", "test", str(tmp_path))
    write(path, other=list(range(20)))
    pq.write_table(pq.read_table(path).drop(["label"]), path)
    with pytest.raises(UserError, match="no label column.*label or labels; found image, other"):
        open_split("parquet", "test", str(tmp_path))
    write(path, pa.array([1.5] * 20))
    with pytest.raises(UserError, match="images are of type double"):
        open_split("parquet", "test", str(tmp_path))
    write(path, [], [], rows=slice(0))
    with pytest.raises(UserError):
        open_split("parquet", "test", str(tmp_path))


def test_pages_damaged_inside_are_named(tmp_path):
    path = tmp_path / "test.parquet"
    write(path, group=20)
    data = bytearray(path.read_bytes())
    data[4:40] = bytes(36)  # the header of the first page
    path.write_bytes(data)
    with pytest.raises(UserError, match="test.parquet"):
        open_split("parquet", "test", str(tmp_path)).images(range(20))


def test_second_file_without_the_columns(tmp_path):
    write(tmp_path / "test-0.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "test-1.parquet")
    with pytest.raises(UserError, match="test-1.parquet: has no column"):
        open_split("parquet", "test", str(tmp_path))


def test_threads_read_the_same(tmp_path):
    write(tmp_path / "test.parquet", group=2)
    split = open_split("parquet", "test", str(tmp_path))
    expected, wrong = PIXELS.transpose(0, 3, 1, 2), []

    def read(seed):
        rows = np.random.default_rng(seed).permutation(20)
        if not np.array_equal(split.images(rows), expected[rows]):
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
