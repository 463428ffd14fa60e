import dataclasses

import numpy as np
import pytest

from rsray.errors import UserError
from rsray.results.reading.cohen import is_log, read_log, sigma_in, write_log

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


def test_reads_header_blank_lines_both_times_and_any_order(tmp_path):
    path = tmp_path / "macer-sigma0.25.tsv"
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
    ("path", "sigma"),
    [
        ("sigma_0.25", 0.25), ("lr0.1_noise0.5_eps1.0.tsv", 0.5), ("Sigma=1.00/log", 1.0),
        ("resnet110/noise_0.12/test/sigma_0.50", 0.5), ("sigma_0.50/noise_0.12", 0.5),
        ("noise_0.25/macer/noise_0.50.tsv", 0.5), ("s3://b/noise_1.00/test/log", 1.0),
        # Learning rates, attacks, versions, numbers of runs and numbers alone are no sigma.
        ("lr_0.10/eps_0.25/log.tsv", None), ("denoise0.5.tsv", None), ("noise_3/log", None),
        ("run-12.tsv", None), ("v1.2.3.tsv", None), ("sigma_0.25.1.tsv", None),
        ("mnist0.50.tsv", None), ("cohen-resnet110-1.00.tsv", None),
        ("train_sigma_0.50/log", None), ("train_sigma_0.50/test_sigma_0.25.tsv", 0.25),
        ("noise_0.50/a/b/c.tsv", None), ("my-noise_0.50-project/runs/17/test/log", None),
    ],
)  # fmt: skip
def test_sigma_where_the_path_says_sigma(path, sigma):
    assert sigma_in(path) == sigma


def test_a_log_is_known_by_its_header(tmp_path):
    row = "0\t3\t3\t0.378\t1\t2.5\n"
    for content, known in (
        (HEADER + row, True),
        ("\ufeff" + HEADER + row, True),
        ("\n" + HEADER.replace("\n", "\r\n") + row, True),
        ("idx\tlabel\tpredict\tcorrect\ttime\n", True),
        (row, False),
        ("idx,label,predict\n", False),
        ("", False),
    ):
        (tmp_path / "sigma_0.25").write_bytes(content.encode())
        assert is_log(tmp_path / "sigma_0.25") == known, content
    (tmp_path / "sigma_0.25").write_bytes(b"\xff\xfe\x00PAR1" * 2000)
    assert not is_log(tmp_path / "sigma_0.25")


def test_columns_are_found_by_name(tmp_path):
    path = tmp_path / "log"
    path.write_text("idx\tlabel\tsigma\tradius\tpredict\tcorrect\n4\t2\t0.5\t0.81\t2\t1\n")
    result = read_log(path)
    assert (result.radius.tolist(), result.prediction.tolist()) == ([0.81], [2])
    assert result.metadata["seconds"] is None and result.parameter("sigma") is None
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\tradius\n4\t2\t2\t0.8\t1\t0.9\n")
    with pytest.raises(UserError, match="its columns are idx, label"):
        read_log(path)


@pytest.mark.parametrize(
    "header",
    ["idx\tlabel\tpredict\tbasePredict\tcorrect\ttime", "idx\tlabel\tpredict\tcorrect\ttime"],
)
def test_a_log_of_predictions_is_no_certificate(tmp_path, header):
    """Six columns of which the fourth is a class: it must never be read as a radius."""
    path = tmp_path / "predict.tsv"
    cells = ["5", "1", "1", "1", "1", "0:00:01"][: header.count("\t") + 1]
    path.write_text(header + "\n" + "\t".join(cells) + "\n")
    with pytest.raises(UserError, match="log of predictions .* not of certificates") as caught:
        read_log(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_export_never_claims_more(tmp_path, make):
    result = make()
    write_log(tmp_path / "log-0.50.tsv", result)
    again = read_log(tmp_path / "log-0.50.tsv")
    np.testing.assert_array_equal(again.prediction, result.prediction)
    np.testing.assert_array_equal(again.correct, result.correct)
    assert np.all(again.radius <= result.radius) and np.all(again.radius > result.radius - 0.001)
    assert "\t-1\t0.000\t0\t" in (tmp_path / "log-0.50.tsv").read_text()


def test_a_file_that_is_named_csv_has_commas_and_all_digits(tmp_path, make, without):
    result = without(make(), 7, label=3)
    write_log(tmp_path / "log.csv", result)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "idx,label,predict,radius,correct,time" and len(lines) == 41
    assert lines[8] == "7,3,-1,0.000000000,0,0:00:00"
    again = read_log(tmp_path / "log.csv")
    assert is_log(tmp_path / "log.csv") and again.index.tolist() == list(range(40))
    assert np.all(again.outcomes[0][result.index] <= result.radius)
    assert 0 <= result.acr - again.acr < 1e-9
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    assert not is_log(tmp_path / "log.csv")


def test_every_published_log_survives_a_round_trip(tmp_path, reference):
    logs = sorted(reference.glob("*/*.tsv"))
    assert len(logs) == 10
    for path in logs:
        result = read_log(path)
        assert is_log(path) and result.parameter("sigma") is None
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


def test_a_failed_image_abstains_in_a_log(tmp_path, make, without):
    result = without(make(), 7, label=2)
    write_log(tmp_path / "log.tsv", result)
    again = read_log(tmp_path / "log.tsv")
    assert again.index.tolist() == list(range(40))
    assert "\n7\t2\t-1\t0.000\t0\t0:00:00\n" in (tmp_path / "log.tsv").read_text()
    assert result.acr - 0.001 < again.acr <= result.acr
    with pytest.raises(UserError, match=r"labels of images that failed \(7\)"):
        write_log(tmp_path / "more.tsv", without(make(), 7))
