"""WebDataset tar files: what is in them, read sample by sample, equal to the pictures written."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from rsray.data import open_split
from rsray.data.reading import tar_index
from rsray.errors import UserError
from rsray.storage import Place

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 5, 4, 3), np.uint8)  # N, H, W, C
LABELS = np.arange(24) % 4
NAMES = ("cat", "dog", "owl", "pig")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rsray" / "tar-index"


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def sample(i, label, extension="png"):
    """The two members of sample i, told as `label` says."""
    said = label(int(LABELS[i]))
    kind = "json" if isinstance(said, dict) else "cls"
    text = json.dumps(said) if kind == "json" else str(said)
    return [(f"s{i:04}.{kind}", text.encode()), (f"s{i:04}.{extension}", png(PIXELS[i]))]


def samples(rows, label=int):
    return [member for i in rows for member in sample(i, label)]


WAYS = {
    "cls number": (int, None),
    "cls name": (lambda k: NAMES[k], NAMES),
    "json number": (lambda k: {"label": k, "width": 4}, None),
    "json number and name": (lambda k: {"label": k, "class_name": NAMES[k]}, NAMES),
    "json name": (lambda k: {"label": NAMES[k]}, NAMES),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_tell_the_class(tmp_path, way):
    label, names = WAYS[way]
    write_tar(tmp_path / "d" / "x-train-000.tar", samples(range(10), label))
    write_tar(tmp_path / "d" / "x-train-001.tar", samples(range(10, 16), label))
    write_tar(tmp_path / "d" / "x-val-000.tar", samples([17, 20], label))  # classes 1 and 0 alone
    train = open_split("webdataset", "train", str(tmp_path / "d"))
    test = open_split("webdataset", "test", str(tmp_path / "d"))
    assert (train.num_classes, test.num_classes) == (4, 4)
    assert train.class_names == test.class_names == names
    assert (len(train), train.image_shape) == (16, (3, 5, 4))
    assert np.array_equal(train.labels, LABELS[:16]) and test.labels.tolist() == [1, 0]
    order = np.random.default_rng(1).integers(0, 16, 30)
    for split in (train, pickle.loads(pickle.dumps(train))):
        np.testing.assert_array_equal(split.images(order), PIXELS[order].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.images([1]), PIXELS[[20]].transpose(0, 3, 1, 2))
    assert len(pickle.dumps(train)) < 2000


def test_names_in_a_file_beside_the_shards(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", samples(range(8)))
    write_tar(tmp_path / "test" / "0.tar", samples(range(8, 10)))
    (tmp_path / "classnames.txt").write_text("\n".join([*NAMES, "rat", ""]))
    split = open_split("webdataset", "test", str(tmp_path))
    assert (split.num_classes, split.class_names) == (5, (*NAMES, "rat"))
    assert split.labels.tolist() == [0, 1]


def test_shards_without_splits_are_split_once_and_for_all(tmp_path):
    write_tar(tmp_path / "webdataset" / "a.tar", samples(range(24)))
    train, test = (open_split("webdataset", s, str(tmp_path)) for s in ("train", "test"))
    assert len(train) + len(test) == 24 and set(test.labels.tolist()) == {0, 1, 2, 3}
    everything = np.concatenate([split.images(range(len(split))) for split in (train, test)])
    assert len(np.unique(everything, axis=0)) == 24
    # Samples that are added, in another order and in other shards, test no trained one.
    write_tar(tmp_path / "more" / "a.tar", samples(range(20, 24)))
    write_tar(tmp_path / "more" / "b.tar", samples(range(15)))
    fewer = {s: open_split("webdataset", s, str(tmp_path / "more")) for s in ("train", "test")}
    assert set(fewer["train"].image_names) <= set(train.image_names)


def test_a_field_of_the_json_that_holds_the_class(tmp_path):
    label = {0: "b", 1: "a", 2: "b", 3: "a"}.get
    said = samples(range(8), lambda k: {"label": k, "coarse": label(k)})
    write_tar(tmp_path / "train.tar", said)
    split = open_split("webdataset", "train", str(tmp_path), label_column="coarse")
    assert (split.class_names, split.labels.tolist()) == (("a", "b"), [1, 0] * 4)
    assert open_split("webdataset", "train", str(tmp_path)).num_classes == 4
    with pytest.raises(UserError, match="no class: it needs a field 'other' in .json"):
        open_split("webdataset", "train", str(tmp_path), label_column="other")


def test_labels_from_1_and_grey_among_coloured_pictures(tmp_path):
    members = samples(range(8), lambda k: k + 1)
    members[1] = (members[1][0], png(PIXELS[0, :, :, 0]))
    write_tar(tmp_path / "train.tar", members)
    split = open_split("webdataset", "train", str(tmp_path))
    assert (split.class_names, split.image_shape) == (("1", "2", "3", "4"), (3, 5, 4))
    assert split.labels.tolist() == LABELS[:8].tolist()
    grey = open_split("webdataset", "train", str(tmp_path), channels=1)
    assert grey.images([0, 1]).shape == (2, 1, 5, 4)


def test_folders_dots_and_long_names_in_a_tar(tmp_path):
    members = [
        ("./a.b/k1.cls", b"0"), ("./a.b/k1.jpeg.PNG", png(PIXELS[0])), ("./a.b/.hidden", b"?"),
        ("./a.b/k2.cls", b"1"), ("./a.b/k2.png", png(PIXELS[1])), ("./a.b/k2.txt", b"caption"),
        (f"./a.b/{'x' * 200}.png", png(PIXELS[2])), (f"./a.b/{'x' * 200}.json", b'{"label": 2}'),
    ]  # fmt: skip
    write_tar(tmp_path / "train.tar", members)
    split = open_split("webdataset", "train", str(tmp_path / "train.tar"))
    np.testing.assert_array_equal(split.images([0, 1, 2]), PIXELS[:3].transpose(0, 3, 1, 2))
    assert split.labels.tolist() == [0, 1, 2]


def test_a_number_may_be_written_with_zeros_before_it(tmp_path):
    members = []
    for i in range(2):
        said = b'{"label": %d, "class_name": "%s"}' % (i, b"ab"[i : i + 1])
        members += [(f"{i}.png", png(PIXELS[i])), (f"{i}.cls", b"00%d" % i), (f"{i}.json", said)]
    write_tar(tmp_path / "train.tar", members)
    split = open_split("webdataset", "train", str(tmp_path))
    assert (split.labels.tolist(), split.class_names) == ([0, 1], ("a", "b"))


def test_the_index_is_made_once_and_again_for_a_changed_file(tmp_path, cache, monkeypatch):
    file = tmp_path / "d" / "train.tar"
    write_tar(file, samples(range(4)))
    made = []
    build = tar_index._build
    monkeypatch.setattr(tar_index, "_build", lambda *of: (made.append(of[0]), build(*of))[1])
    for _ in range(3):
        assert len(open_split("webdataset", "train", str(tmp_path / "d"))) == 4
    assert len(made) == 1 and len(list(cache.iterdir())) == 1
    write_tar(file, samples(range(6)))
    os.utime(file, (1, 1))
    assert len(open_split("webdataset", "train", str(tmp_path / "d"))) == 6
    assert len(made) == 2
    for kept in cache.iterdir():
        kept.write_bytes(b"damaged")
    assert len(open_split("webdataset", "train", str(tmp_path / "d"))) == 6
    assert len(made) == 3


def test_a_home_that_cannot_be_written_is_no_reason_to_stop(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_tar(tmp_path / "train.tar", samples(range(4)))
    assert len(open_split("webdataset", "train", str(tmp_path))) == 4


def test_only_the_pictures_asked_for_are_read(tmp_path, monkeypatch):
    write_tar(tmp_path / "train.tar", samples(range(24)))
    reads = []

    class Spy:
        def __init__(self, stream):
            self.stream = stream

        def read_at(self, size, offset):
            reads.append(size)
            return self.stream.read_at(size, offset)

    split = pickle.loads(pickle.dumps(open_split("webdataset", "train", str(tmp_path))))
    real = Place.open
    monkeypatch.setattr(Place, "open", lambda self: Spy(real(self)))
    split.images([3, 20])
    assert reads == [len(png(PIXELS[3])), len(png(PIXELS[20]))]


DAMAGED = {
    "no picture": ([("a.cls", b"1")], "sample 'a' has no picture"),
    "no class": ([("a.png", png(PIXELS[0]))], "sample 'a' has no class: it needs .cls"),
    "json without label": ([("a.png", png(PIXELS[0])), ("a.json", b"{}")], "sample 'a' has no class"),
    "json is no json": ([("a.png", png(PIXELS[0])), ("a.json", b"{")], "the .json of sample 'a' is not valid JSON"),
    "label is a list": ([("a.png", png(PIXELS[0])), ("a.json", b'{"label": [1]}')], "has no class"),
    "cls is no text": ([("a.png", png(PIXELS[0])), ("a.cls", b"\xff\xfe")], "the .cls of sample 'a' is no text"),
    "nothing": ([], "no samples"),
    "two pictures": ([("a.mask.png", png(PIXELS[0])), ("a.png", png(PIXELS[0])), ("a.cls", b"0")], r"several pictures \(mask.png, png\)"),
    "two labels": ([("a.png", png(PIXELS[0])), ("a.cls", b"0"), ("a.json", b'{"label": 1}')], "its label is 0 and 1"),
    "two names of one sample": ([("a.png", png(PIXELS[0])), ("a.cls", b"cat"), ("a.json", b'{"label": "dog"}')], "its label is cat and dog"),
    "numbers and names": ([(f"{i}.{end}", png(PIXELS[i]) if end == "png" else [b"0", b"cat"][i]) for i in (0, 1) for end in ("png", "cls")], r"numbers \(0\) and others are names \(cat\)"),
    "without a label": ([("a.png", png(PIXELS[0])), ("a.cls", b"-1")], "label -1 is no class"),
    "two names": ([(f"{i}.{end}", png(PIXELS[i]) if end == "png" else b'{"label": 1, "class_name": "%d"}' % i) for i in (0, 1) for end in ("png", "json")], "one label have several class names"),
    "binary": ([("a.png", png(PIXELS[0])), ("a.cls", bytes(8))], "which is no name"),
    "no numbers of classes": ([("a.png", png(PIXELS[0])), ("a.cls", b"900000")], "label 900000"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_wrong_is_named(tmp_path, case):
    members, message = DAMAGED[case]
    write_tar(tmp_path / "train.tar", members)
    with pytest.raises(UserError, match=message) as problem:
        open_split("webdataset", "train", str(tmp_path))
    assert str(tmp_path) in str(problem.value) and "\n" not in str(problem.value)


def test_damaged_files(tmp_path):
    whole = tmp_path / "whole" / "train.tar"
    write_tar(whole, samples(range(4)))
    cut = tmp_path / "cut" / "train.tar"
    cut.parent.mkdir()
    last = tarfile.open(whole).getmembers()[-1]
    cut.write_bytes(whole.read_bytes()[: last.offset_data + 10])
    with pytest.raises(UserError, match="train.tar: damaged or no tar file"):
        open_split("webdataset", "train", str(cut.parent))
    cut.write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="train.tar: damaged or no tar file"):
        open_split("webdataset", "train", str(cut.parent))
    write_tar(cut, [("a.cls", b"0"), ("a.png", b"not a picture")])
    with pytest.raises(UserError, match="sample a: not a readable image"):
        open_split("webdataset", "train", str(cut.parent))


def test_a_missing_split_says_where_it_was_looked_for(tmp_path):
    write_tar(tmp_path / "train.tar", samples(range(4)))
    with pytest.raises(UserError, match=r"webdataset .test. not found.*test\*.tar"):
        open_split("webdataset", "test", str(tmp_path))
