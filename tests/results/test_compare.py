import dataclasses

import numpy as np
import pytest

from rsray.errors import UserError
from rsray.results import compare
from rsray.results.certificates import write_certificates
from rsray.results.reading.cohen import write_log
from rsray.results.reading.sources import load_results
from rsray.storage.yaml_files import to_yaml


def write(folder, result):
    write_certificates(folder / "certificates.parquet", result.columns(), result.metadata)


def test_loads_every_kind_of_result(tmp_path, make):
    write(tmp_path / "cert", make())
    write(tmp_path / "search" / "best" / "certificates", make(50))
    write_log(tmp_path / "log-0.50.tsv", make(60))
    write_log(tmp_path / "noise_0.25" / "sigma_0.50", make(70))
    loaded = {
        "cert": compare.load(tmp_path / "cert"),
        "cert file": compare.load(tmp_path / "cert" / "certificates.parquet"),
        "cert uri": compare.load(f"file://{tmp_path}/cert/"),
        "search": compare.load(f"{tmp_path}/search/"),
        "best": compare.load(tmp_path / "search" / "best"),
        "inner": compare.load(tmp_path / "search" / "best" / "certificates"),
        "log": compare.load(tmp_path / "log-0.50.tsv"),
        "log by its header": compare.load(tmp_path / "noise_0.25" / "sigma_0.50"),
    }
    assert [len(result) for result in loaded.values()] == [40, 40, 40, 50, 50, 50, 60, 70]
    names = [result.name for result in loaded.values()]
    assert names == [*["cert"] * 3, *["search"] * 3, "log-0.50", "sigma_0.50"]
    assert loaded["log by its header"].parameter("sigma") == 0.5


@pytest.mark.parametrize(
    ("inside", "match"),
    [
        ("nothing", "no run; expected a CERT folder"),
        ("counts", "unfinished certification"),
        ("run.yaml", "training run without"),
        ("tune.yaml", "unfinished search"),
    ],
)
def test_a_folder_that_is_no_result(tmp_path, inside, match):
    (tmp_path / inside).write_text("")
    with pytest.raises(UserError, match=match) as caught:
        compare.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_other_paths(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    for name, match in (("summary.json", "is no result"), ("gone", "does not exist")):
        with pytest.raises(UserError, match=match):
            compare.load(tmp_path / name)


def test_a_log_of_predictions_is_refused_whatever_its_name(tmp_path):
    for name in ("sigma_0.25", "sigma_0.25.tsv"):
        rows = "idx\tlabel\tpredict\tbasePredict\tcorrect\ttime\n3\t2\t2\t2\t1\t0.5\n"
        (tmp_path / name).write_text(rows)
        with pytest.raises(UserError, match="log of predictions"):
            compare.load(tmp_path / name)


def test_labels_name_the_results(tmp_path, make):
    for run in ("a", "b"):
        write(tmp_path / run, make())
    paths = [tmp_path / "a", tmp_path / "b"]
    assert [r.name for r in load_results(paths, labels=["one", "2"]).results] == ["one", "2"]
    with pytest.raises(UserError, match="1 labels were given for 2 results"):
        load_results(paths, labels=["one"])


def test_equal_names_are_told_apart(tmp_path, make):
    for run in ("a", "b"):
        write(tmp_path / run / "cert", make())
    names = [r.name for r in load_results([tmp_path / "a/cert", tmp_path / "b/cert"]).results]
    assert names == [f"cert ({tmp_path}/a/cert)", f"cert ({tmp_path}/b/cert)"]


def test_like_results_warn_of_nothing_known(make):
    one, two = make(name="a", split="test"), make(name="b", split="test")
    assert compare.differences([one, two]) == []
    assert compare.differences([one]) == []


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n", 7),
        ("n0", 5),
        ("alpha", 0.01),
        ("sigma", 0.25),
        ("bound", "tcertify"),
        ("dataset", "x"),
    ],
)
def test_each_difference_is_named_with_its_values(make, parameter, value):
    one, two = make(name="a", split="test"), make(name="b", split="test", **{parameter: value})
    (warning,) = compare.differences([one, two])
    assert warning.startswith(f"{parameter} differs: {one.parameter(parameter)} (a), {value} (b)")


def with_metadata(result, **more):
    return dataclasses.replace(result, metadata={**result.metadata, **more})


def test_adaptive_draws_are_told_beside_n_draws(make):
    adaptive = make(name="b", split="test", sampling="adaptive", tolerance=0.1)
    assert compare.differences([adaptive, adaptive]) == []
    for other in (make(name="a", sampling="fixed"), make(name="a")):
        (text,) = [t for t in compare.differences([other, adaptive]) if "draws per image" in t]
        assert "n (a), fewer than n, tolerance 0.1 (b)" in text


def test_abstentions_of_skipped_images_are_told_beside_others(make):
    """An image that is skipped might have abstained: nobody looked."""
    one, two = make(name="a", split="test"), make(name="b", split="test", sampling="skip")
    assert compare.differences([one, two]) == [], "nothing was skipped"
    skipped = dataclasses.replace(two, skipped=two.prediction < 0)
    (text,) = compare.differences([one, skipped])
    assert text == "what abstained counts differs: all images (a), images that were not skipped (b)"
    decided = with_metadata(one, at_radius=[0.5])
    assert not any("abstained" in t for t in compare.differences([decided, skipped]))


def test_images_of_other_shapes_and_classes_are_told(make):
    """Two data sets of the same labels: of the same number of images, and of classes as many."""
    cats = with_metadata(
        make(name="a", split="test"), image_shape=[1, 28, 28], classes=["bird", "cat"]
    )
    pears = with_metadata(
        make(name="b", split="test"), image_shape=[3, 8, 8], classes=["bird", "pear"]
    )
    shapes, classes = compare.differences([cats, pears])
    assert shapes.startswith("image_shape differs: 1 x 28 x 28 (a), 3 x 8 x 8 (b), and l2 radii")
    assert classes == "class 1 differs: cat (a), pear (b)"
    more = with_metadata(cats, classes=["bird", "cat", "dog"])
    (number,) = compare.differences([cats, dataclasses.replace(more, name="c")])
    assert number == "the number of classes differs: 2 (a), 3 (c)"
    digit, writer = (with_metadata(cats, label_column=name) for name in ("digit", "writer"))
    assert compare.differences([digit, writer]) == ["label_column differs: digit (a), writer (a)"]
    assert compare.differences([cats, make(name="log", split="test")]) == [], (
        "what is not known is not unlike"
    )


def test_images_labels_and_the_unknown(make):
    one, two = make(40, name="a"), make(30, name="b", start=5, skip=2, alpha=None)
    images, labels, unknown = compare.differences([one, two])
    assert "a: 40 images (0, 1 ... 39); b: 30 images (5, 7 ... 63)" in images
    assert "18 shared indices" in labels
    assert unknown == "unknown, so not compared: split (a); split, alpha (b)"


def test_results_of_other_data_are_told_apart(tmp_path, make):
    """Two folders of one's own: the same classes, the same number of pictures of each."""
    data = {"images": 40, "labels": "0a", "names": "1b"}
    recorded = {"a": data, "b": {**data, "names": "2c"}, "c": {"images": 40, "labels": "0a"}}
    for name, told in recorded.items():
        write(tmp_path / name, make(split="test"))
        (tmp_path / name / "certify.yaml").write_bytes(to_yaml({"images_fingerprint": told}))
    one, two, unnamed = (compare.load(tmp_path / name) for name in recorded)
    (text,) = compare.differences([one, two])
    assert text == "data (names) differs: 1b (a), 2c (b); an index may not be the same image"
    assert compare.differences(compare.restrict([one, two], np.arange(9))) == [text]
    assert compare.differences([one, unnamed]) == [], "idx files name no image"
    other = dataclasses.replace(two, metadata={**two.metadata, "split": "train"})
    assert [t.split()[0] for t in compare.differences([one, other])] == ["split"]


def test_labels_are_compared_among_all_results(make):
    """The first may have other images, or tell no labels, as a .mat file of MACER's does."""
    one = make(40, name="a", split="test")
    two = dataclasses.replace(one, name="b", label=(one.label + 1) % 10)
    unlabelled = dataclasses.replace(one, name="m", label=np.full(40, -1))
    for first in (make(9, name="apart", split="test", start=100), unlabelled):
        (text,) = [t for t in compare.differences([first, one, two]) if "labels differ" in t]
        assert text.endswith("in the same order: b (40 of the 40 shared indices)")
        assert not any("labels differ" in t for t in compare.differences([first, one, one]))


def test_restrict_to_the_common_images(make):
    one, two = make(40, name="a", seconds=3), make(40, name="b", start=5, skip=2)
    shared = compare.common_indices([one, two])
    assert shared.tolist() == sorted(set(one.index) & set(two.index))
    short, other = compare.restrict([one, two], shared)
    np.testing.assert_array_equal(short.index, shared)
    np.testing.assert_array_equal(other.index, shared)
    np.testing.assert_array_equal(short.radius, one.radius[shared])
    assert "seconds" not in short.metadata and short.name == "a"
    with pytest.raises(UserError, match="share no image"):
        compare.common_indices([one, make(3, start=100)])
    with pytest.raises(ValueError, match="lacks 1 of 2"):
        compare.restrict([one], np.array([3, 1000]))


def test_describe_indices():
    assert compare.describe_indices(np.array([7])) == "1 image (7)"
    assert compare.describe_indices(np.array([1, 2, 9])) == "3 images (some of 1 to 9)"


def test_failures_are_told_and_stay_in_what_is_compared(make, without):
    one, two = without(make(name="a"), 7, label=4), make(name="b", split="test")
    assert compare.failures([one, two]) == [
        "a: 1 of 40 images failed and count 0 (image 7: OSError: damaged)"
    ]
    assert not any("images differ" in text for text in compare.differences([one, two]))
    shared = compare.common_indices([one, make(20, name="c")])
    assert shared.tolist() == list(range(20)), "both were to certify image 7"
    short, _ = compare.restrict([one, two], shared)
    assert len(short) == 19 and short.failed == {7: "OSError: damaged"}
    assert short.acr == pytest.approx((short.radius * short.correct).sum() / 20, abs=1e-15)
    (rest,) = compare.restrict([one], np.arange(10, 20))
    assert rest.failed == {} and "failed" not in rest.metadata


def test_by_class(make, without):
    names = ["plane", "car", *map(str, range(2, 10))]
    result = without(make(name="run", classes=names), 7, label=1)
    parts = compare.by_class(result)
    labels = np.union1d(np.unique(result.label), [1])
    assert [part.name for part in parts] == [f"run: {names[label]}" for label in labels]
    assert sum(len(part.selected) for part in parts) == 40
    (cars,) = [part for part in parts if part.name == "run: car"]
    mine = result.label == 1
    assert cars.index.tolist() == result.index[mine].tolist() and cars.failed == result.failed
    total = (result.radius * result.correct)[mine].sum()
    assert cars.acr == pytest.approx(total / (mine.sum() + 1), abs=1e-15)
    assert compare.by_class(make(name="run"))[0].name == "run: 0"


def test_a_noise_that_is_not_known_is_told_beside_one_that_is(make):
    logs = [make(name=name, split="test", n0=100) for name in ("a", "b")]
    assert compare.differences(logs) == []
    ours = make(name="ours", split="test", n0=100, noise="grid")
    assert compare.differences([ours, *logs]) == ["unknown, so not compared: noise (a, b)"]
    other = make(name="float", split="test", n0=100, noise="float32")
    assert compare.differences([ours, other]) == ["noise differs: grid (ours), float32 (float)"]


def test_a_file_is_of_the_cert_around_it_only_where_that_is_checked_with_it(tmp_path, make):
    for folder in ("cert", "search/best/certificates"):
        write(tmp_path / folder, make())
        write_log(tmp_path / folder / "log.tsv", make())
        (tmp_path / folder / "old.parquet").write_bytes(b"")
    write_log(tmp_path / "search" / "theirs.tsv", make(50))
    cert = tmp_path / "cert"
    for name in ("certificates.parquet", "log.tsv"):
        assert compare.cert_folder(cert / name).local_path == cert
    assert compare.cert_folder(cert / "old.parquet") is None
    assert compare.cert_folder(tmp_path / "search" / "theirs.tsv") is None
    assert compare.cert_folder(tmp_path / "search").name == "certificates"
