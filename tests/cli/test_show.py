"""`rsray show`: one certificate in words and as a picture."""

import io
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

import rsray
from rsray.certification.counts.gathering import gather
from rsray.certification.counts.store import Selected
from rsray.certification.counts.tables import counts_table
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim, finish
from rsray.certification.one_image import estimation_counts, noisy_copies
from rsray.config import CertifyConfig
from rsray.data import open_split
from rsray.data.fingerprint import fingerprint
from rsray.errors import UserError
from rsray.storage import Place
from rsray_cli.main import run

CHANCES = {0: [0.9, 0.1, 0.0], 1: [0.5, 0.45, 0.05], 2: [0.05, 0.95, 0.0]}  # right, next, the rest


def build(where, labels, **settings):
    """Write a CERT of images 0, 1, 2 of digits: certified, abstaining, wrong."""
    values = {
        "source": "RUN", "model_digest": "d", "dataset": "digits", "model": "lenet", "num_classes": 10,
        "image_shape": (1, 8, 8), "sigma": 0.5, "n": 2000, "limit": 3, "skip": 1, "seed": 3,
        "classes": [str(i) for i in range(10)],
    }  # fmt: skip
    config = CertifyConfig.make({**values, **settings})
    claimed = claim(Place.of(where), config, Evaluation("cpu", "fp32", "contiguous", 8))
    rng, tables = np.random.default_rng(0), []
    for index, chances in CHANCES.items():
        p = np.zeros(10)
        for step, share in enumerate(chances):
            p[(labels[index] + step) % 10] = share
        for stage, draws, blocks in (("selection", 100, 1), ("estimation", 1000, 2)):
            counts = rng.multinomial(draws, p, blocks)
            names = [(block, draws) for block in range(blocks)]
            tables.append(counts_table(index, int(labels[index]), stage, names, counts))
    claimed.store.append(pa.concat_tables(tables))
    selected = Selected(np.arange(3), labels[:3].astype(np.int64))
    gathered = gather(claimed.store, selected, claimed.plan)
    finish(claimed, gathered, seconds=1.0, failed={})
    return where


@pytest.fixture
def labels():
    return open_split("digits", "test").labels


@pytest.fixture
def cert(tmp_path, labels):
    return build(tmp_path / "cert", labels)


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.setattr(sys, "argv", ["rsray", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run()
        return stopped.value.code or 0, *capsys.readouterr()

    return call


def test_a_certificate_in_words(cert):
    found = rsray.show(cert, 0)
    row = rsray.report(cert).table.values()[0]
    assert row
    hits = next(iter(found.counts.values()))
    lower = proportion_confint(hits, 2000, alpha=2 * 0.001, method="beta")[0]
    assert found.radius == pytest.approx(0.5 * norm.ppf(lower), abs=1e-12)
    text = str(found)
    assert f"{hits:,} of them ({np.floor(1e4 * hits / 2000) / 100:.2f} %)" in text
    assert f"at least {np.floor(1e6 * lower) / 1e4:.4f} %" in text
    # Rounded down, never up.
    assert f"Radius: {np.floor(1e4 * found.radius) / 1e4:.4f} = 0.5 x" in text
    assert f"({2000 - hits:,})" in text, "what the other draws were called is counted"
    assert "which is right" in text and "\n" in text and found.prediction in text
    each = np.floor(100 * 255 * found.radius / 8) / 100
    assert f"all 64 of them by {each:.2f} of 255 steps" in text


def test_abstaining_and_wrong_answers_guarantee_nothing_useful(cert):
    abstains, wrong = str(rsray.show(cert, 1)), str(rsray.show(cert, 2))
    assert "abstains" in abstains and "Guarantee: none" in abstains and "Radius" not in abstains
    assert "which is WRONG" in wrong and "counts as radius 0 in every figure" in wrong


def test_class_names_are_named(tmp_path, labels):
    names = [f"digit {i}" for i in range(10)]
    found = rsray.show(build(tmp_path / "c", labels, classes=names), 0)
    assert found.label == f"digit {labels[0]} (class {labels[0]})"


def test_a_picture_of_the_noise_that_was_counted(cert, tmp_path, command):
    code, out, err = command("show", cert, "--index", 0, "--png", tmp_path / "i.png")
    assert code == 0 and "Guarantee" in out and "next: rsray report" in err
    assert Image.open(io.BytesIO((tmp_path / "i.png").read_bytes())).width > 600
    ((image, copies),) = noisy_copies(Place.of(cert), [0], copies=500)
    expected = open_split("digits", "test").images([0])[0].transpose(1, 2, 0)
    assert np.array_equal(image, expected) and copies.shape == (500, 8, 8, 1)
    noise = copies - image / 255
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(0.5, rel=0.03)
    again = noisy_copies(Place.of(cert), [0], copies=3)[0].copies_SHWC
    assert np.array_equal(again, copies[:3]), "the same noise however many copies are shown"


def test_no_picture_of_another_image_of_the_same_class(tmp_path):
    """Pictures that were exchanged, added or taken away leave the label of an index as it was."""
    for place in ("0/a", "0/b", "0/c", "0/d", "1/e", "2/f"):
        file = tmp_path / f"data/test/{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), ord(place[-1]), np.uint8)).save(file)
    split = open_split("imagefolder", "test", tmp_path / "data")
    cert = build(
        tmp_path / "cert", np.asarray(split.labels), dataset="imagefolder", num_classes=3,
        data_root=str(tmp_path / "data"), images_fingerprint=fingerprint(split, sampled=False),
        classes=["0", "1", "2"], image_shape=split.image_shape,
    )  # fmt: skip
    assert noisy_copies(Place.of(cert), [1], copies=1)[0].image_HWC.max() == ord("b")
    (tmp_path / "data/test/0/a.png").unlink()
    with pytest.raises(UserError, match="image 1 of imagefolder is not the one that"):
        noisy_copies(Place.of(cert), [1], copies=1)


def test_mistakes_in_a_line(cert, tmp_path, labels, command):
    for arguments, said in (
        ((cert, "--index", 7), "has no certificate of image 7; it has those of 0, 1, 2"),
        ((cert, "--index", -1), "index is -1"),
        ((cert,), "give --index"),
        ((tmp_path / "gone", "--index", 0), "does not exist"),
        ((cert, "--index", 0, "--png", "i.jpg"), "must end in .png"),
    ):
        code, out, err = command("show", *arguments)
        assert code == 2 and said in err and err.count("\n") == 1 and out == ""
    other = build(tmp_path / "other", (labels + 1) % 10)
    with pytest.raises(UserError, match="not the one that"):
        rsray.show(other, 0, png=tmp_path / "x.png")


def test_a_log_is_explained_as_far_as_it_tells(tmp_path, command):
    log = tmp_path / "sigma_0.25"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n4\t1\t1\t0.5\t1\t2.0\n")
    text = str(rsray.show(log, 4))
    assert "Radius: 0.5000." in text and "Counted" not in text and "class 1" in text
    with pytest.raises(UserError, match="how its noise was made"):
        rsray.show(log, 4, png=tmp_path / "x.png")
    assert "next: rsray report" in command("show", log, "--index", 4)[2]


def test_the_page_has_a_gallery_with_class_names(cert, tmp_path, labels):
    rsray.report(cert, html=tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert text.count('src="data:image/png;base64,') == 2 * 3
    assert f"0: {labels[0]}; answer {labels[0]} (right), radius " in text
    assert f"1: {labels[1]}; answer abstains (no answer), radius 0.0000" in text
    other = build(tmp_path / "other", (labels + 1) % 10)
    rsray.report(other, html=tmp_path / "p.html")
    assert "<img" not in (tmp_path / "p.html").read_text(), "these are not the images of the data"


def test_a_block_that_is_stored_twice_is_shown_once(cert):
    before = rsray.show(cert, 0).counts
    folder = Place.of(cert) / "counts"
    (part,) = folder.names(".parquet")
    folder.write(f"0{part}", folder.read(part))
    assert sum(before.values()) == 2000 and estimation_counts(Place.of(cert), 0) == before
