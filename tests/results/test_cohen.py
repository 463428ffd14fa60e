import dataclasses

import numpy as np
import pytest

from rsray.errors import UserError
from rsray.results.cohen import read_log, round_down, sigma_in, write_log

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


def test_reads_header_blank_lines_both_times_and_any_order(tmp_path):
    path = tmp_path / "macer-0.25.tsv"
    path.write_text(HEADER + "\n20\t7\t-1\t0.0\t0\t15.5\n\n0\t3\t3\t0.378\t1\t0:00:02.5\n")
    result = read_log(path)
    assert result.index.tolist() == [0, 20] and result.prediction.tolist() == [3, -1]
    assert result.radius.tolist() == [0.378, 0.0] and result.correct.tolist() == [True, False]
    assert result.metadata["seconds"] == 18.0 and result.metadata["format"] == "cohen"
    assert result.parameter("sigma") == 0.25
    assert result.parameter("n") is None and result.parameter("alpha") is None
    path.write_text("0\t3\t3\t0.378\t1\t1 day, 1:00:02\r\n")
    assert read_log(path).metadata["seconds"] == 90002.0


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("0\t3\t3\t0.3", "4 tab-separated fields"),
        ("0 3 3 0.3 1 2.0", "1 tab-separated fields"),
        ("zero\t3\t3\t0.3\t1\t2.0", "zero"),
        ("0\t3\t3\tnan\t1\t2.0", "radius nan"),
        ("0\t3\t3\t-0.1\t1\t2.0", "radius -0.1"),
        ("0\t3\t4\t0.3\t1\t2.0", "correct is '1'"),
        ("0\t3\t-1\t0.3\t0\t2.0", "prediction -1"),
        ("0\t3\t3\t0.3\t1\tsoon", "soon"),
        ("7\t3\t3\t0.3\t1\t2.0", "image 7 occurs twice"),
        (HEADER.strip(), "idx"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, match):
    path = tmp_path / "log.tsv"
    path.write_text(f"{HEADER}7\t3\t3\t0.3\t1\t2.0\n{line}\n")
    with pytest.raises(UserError, match=match) as caught:
        read_log(path)
    assert f"{path}, line 3: " in str(caught.value) and "\n" not in str(caught.value)


def test_files_without_certificates(tmp_path):
    (tmp_path / "a.tsv").write_text(HEADER)
    (tmp_path / "b.tsv").write_bytes(b"\x89PNG\xff\xfe")
    for name, match in (("a.tsv", "no certificate"), ("b.tsv", "not text")):
        with pytest.raises(UserError, match=match):
            read_log(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("cohen-resnet110-1.00.tsv", 1.0), ("sigma_0.25", 0.25), ("lr0.1_noise0.5_eps1.0.tsv", 0.5),
        ("run-12.tsv", None), ("v1.2.3.tsv", None), ("mnist0.50.tsv", 0.5),
    ],
)  # fmt: skip
def test_sigma_from_the_name(name, sigma):
    assert sigma_in(name) == sigma


def test_rounding_is_down_and_tight():
    rng = np.random.default_rng(0)
    printed = np.arange(4001) / 1000
    radius = np.concatenate(
        [rng.uniform(0, 4, 20_000), printed, np.nextafter(printed, 9), np.nextafter(printed, 0)]
    )
    texts = [f"{r:.3f}" for r in round_down(radius)]
    back = np.array([float(text) for text in texts])
    assert np.all(back <= radius) and np.all(back + 0.001 > radius - 1e-12)
    np.testing.assert_array_equal(round_down(printed), printed)


def test_export_never_claims_more(tmp_path, make):
    result = make()
    write_log(tmp_path / "log-0.50.tsv", result)
    again = read_log(tmp_path / "log-0.50.tsv")
    np.testing.assert_array_equal(again.prediction, result.prediction)
    np.testing.assert_array_equal(again.correct, result.correct)
    assert np.all(again.radius <= result.radius) and np.all(again.radius > result.radius - 0.001)
    assert "\t-1\t0.000\t0\t" in (tmp_path / "log-0.50.tsv").read_text()


def test_every_published_log_survives_a_round_trip(tmp_path, reference):
    logs = sorted(reference.glob("*/*.tsv"))
    assert len(logs) == 10
    for path in logs:
        result = read_log(path)
        assert result.parameter("sigma") == float(path.stem.rpartition("-")[2])
        assert len(result) == len(path.read_text().split("\n")) - 2
        write_log(tmp_path / path.name, result)
        again = read_log(tmp_path / path.name)
        np.testing.assert_array_equal(again.index, result.index)
        assert np.all(again.radius <= result.radius)
        # Cohen's {:.3} prints four decimals below 0.1; the rest comes back as it was.
        large = result.radius >= 0.1
        np.testing.assert_array_equal(again.radius[large], result.radius[large])


def test_replacing_a_log_is_atomic(tmp_path, make):
    for size in (40, 10):
        write_log(tmp_path / "log.tsv", dataclasses.replace(make(size), name="x"))
    assert len(read_log(tmp_path / "log.tsv")) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["log.tsv"]


def test_a_run_that_decided_a_few_radii_is_no_log(tmp_path, make):
    with pytest.raises(UserError, match=r"few decided radius 0.25, 0.5 alone"):
        write_log(tmp_path / "log.tsv", make(name="few", at_radius=[0.25, 0.5]))
    assert not list(tmp_path.iterdir())
