from dataclasses import replace

import numpy as np
import pytest
from scipy.io import savemat

from rsray.core.radius import largest_radius
from rsray.errors import UserError
from rsray.results import compare
from rsray.results.certificates import write_certificates
from rsray.results.reading.cohen import write_facts, write_log
from rsray.results.reading.macer_mat import read_mat
from rsray.results.reading.sources import LogFacts, load_results

HARD = np.array([0.5, -1.0, 0.0, 0.25])


def mat(path, **variables):
    savemat(path, variables or {"hard": HARD})
    return path


def test_a_mat_file_of_macers_has_radii_of_the_images_that_are_given(tmp_path):
    (result,) = read_mat(mat(tmp_path / "m.mat"), start=500, skip=20, name="m")
    assert result.index.tolist() == [500, 520, 540, 560]
    assert result.radius.tolist() == [0.5, 0.0, 0.0, 0.25]
    assert result.correct.tolist() == [True, False, True, True]
    assert result.acr == pytest.approx(0.75 / 4) and result.accuracy_at([0.0]) == 0.75
    assert not result.has_labels and result.abstained is None and result.draws is None
    both = read_mat(mat(tmp_path / "b.mat", hard=HARD, soft=2 * HARD * (HARD >= 0) - (HARD < 0)),
                    start=0, skip=1, name="b")  # fmt: skip
    assert [r.name for r in both] == ["b", "b (soft)"] and both[1].radius.max() == 1.0
    assert any("smoothing differs" in text for text in compare.differences(both))


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"radius": HARD}, "no variable hard or soft"),
        ({"hard": np.array([[1.0, 2], [3, 4]])}, "no row of radii"),
        ({"hard": np.array([0.5, np.nan])}, "neither a radius nor -1"),
        ({"hard": np.array([0.5, -0.5])}, "neither a radius nor -1"),
        ({"hard": "text"}, "no row of radii"),
    ],
)
def test_other_mat_files(tmp_path, variables, match):
    path = mat(tmp_path / "m.mat", **variables)
    with pytest.raises(UserError, match=match):
        read_mat(path, start=0, skip=1, name="m")


def test_a_damaged_mat_file_and_one_without_its_images(tmp_path):
    (tmp_path / "d.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\xff" * 200)
    with pytest.raises(UserError, match="not a readable .mat file"):
        load_results([tmp_path / "d.mat"], LogFacts(start=0, skip=1))
    with pytest.raises(UserError, match="--log-start and --log-skip"):
        load_results([mat(tmp_path / "m.mat")])


def test_a_folder_stands_for_all_results_in_it(tmp_path, make):
    write_certificates(tmp_path / "all/a/certificates.parquet", make().columns(), make().metadata)
    best = tmp_path / "all/deep/tune/best/certificates/certificates.parquet"
    write_certificates(best, make(50).columns(), make().metadata)
    write_log(tmp_path / "all/cifar10/sigma_0.25", make(60))
    mat(tmp_path / "all/m.mat")
    (tmp_path / "all/notes.txt").write_text("nothing")
    (tmp_path / "all/page.html").write_text("<html>")
    (tmp_path / "all/run").mkdir()
    (tmp_path / "all/run/run.yaml").write_text("{}")
    (tmp_path / "all/p.tsv").write_text("idx\tlabel\tpredict\tcorrect\ttime\n3\t2\t2\t1\t0.5\n")
    found = load_results([tmp_path / "all"], LogFacts(start=0, skip=5, n=1000))
    sizes = {result.name: len(result) for result in found.results}
    assert sizes == {"m": 4, "a": 40, "cifar10/sigma_0.25": 60, "deep/tune": 50}
    said = "\n".join(found.left_out)
    assert "log of predictions" in said and "training run without certificates" in said
    by_name = {result.name: result.metadata for result in found.results}
    log = by_name["cifar10/sigma_0.25"]
    assert (log["sigma"], log["dataset"], log["n"]) == (0.25, "cifar10", 1000)
    assert (
        by_name["a"]["n"] == 1000 and "dataset" not in by_name["m"] or not by_name["m"]["dataset"]
    )


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError, match="no run; expected"):
        load_results([tmp_path])
    (tmp_path / "inside" / "run.yaml").write_text("{}")
    with pytest.raises(UserError, match="no result that can be read"):
        load_results([tmp_path])


def test_what_is_said_of_logs_is_theirs_or_refused(tmp_path, make):
    write_log(tmp_path / "log.tsv", make())
    told = load_results([tmp_path / "log.tsv"], LogFacts(sigma=0.5, n=1000, alpha=0.001)).results[0]
    assert [told.parameter(name) for name in ("sigma", "n", "alpha")] == [0.5, 1000, 0.001]
    # The largest radius of the log is above what 100 draws can certify.
    with pytest.raises(UserError, match="they are not its own"):
        load_results([tmp_path / "log.tsv"], LogFacts(sigma=0.5, n=100, alpha=0.001))
    write_log(tmp_path / "sigma_0.25.tsv", make(7))
    with pytest.raises(UserError, match="--log-sigma is 0.5, its path says 0.25"):
        load_results([tmp_path / "sigma_0.25.tsv"], LogFacts(sigma=0.5))
    write_certificates(tmp_path / "c/certificates.parquet", make().columns(), make().metadata)
    with pytest.raises(UserError, match="no log was given"):
        load_results([tmp_path / "c"], LogFacts(n=1000))


def test_labels_are_for_every_result_of_a_folder(tmp_path, make):
    for name in ("a", "b"):
        write_log(tmp_path / f"{name}.tsv", make())
    found = load_results([tmp_path], labels=["one", "two"])
    assert [result.name for result in found.results] == ["one", "two"]
    with pytest.raises(UserError, match="1 labels were given for 2 results"):
        load_results([tmp_path], labels=["one"])


def test_a_result_without_labels_is_compared_where_it_can_be(tmp_path, make):
    mat(tmp_path / "m.mat")
    (one,) = load_results([tmp_path / "m.mat"], LogFacts(start=0, skip=1)).results
    said = compare.differences([make(4), one])
    assert not any("labels differ" in text for text in said) and "labels (m)" in said[-1]
    for refused in (lambda: compare.by_class(one), lambda: write_log(tmp_path / "l", one)):
        with pytest.raises(UserError, match="does not hold the classes"):
            refused()


def test_what_a_log_cannot_say_stands_beside_it(tmp_path, make):
    names = [f"digit {label}" for label in range(10)]
    more = {"classes": names, "inverse_temperature": 4.0, "label_column": "fine"}
    exported = make(noise="grid", split="test", **more)
    log = tmp_path / "noise_0.12" / "sigma_0.25.tsv"
    write_log(log, exported)
    write_facts(log, exported)
    (told,) = load_results([log.parent]).results
    for name in ("sigma", "n", "alpha", "bound", "dataset", "noise", "split", *more):
        assert told.parameter(name) == exported.parameter(name) is not None, name
    assert compare.differences([exported, told]) == []
    with pytest.raises(UserError, match="--log-n is 7, sigma_0.25.tsv.json says 1000"):
        load_results([log], LogFacts(n=7))


def test_images_that_were_skipped_do_not_count_as_abstained_in_a_log(tmp_path, make):
    whole = make()
    is_abstained = whole.prediction < 0
    some = replace(whole, skipped=is_abstained & (whole.index > whole.index[is_abstained][0]))
    write_log(tmp_path / "log.csv", some)
    write_facts(tmp_path / "log.csv", some)
    (told,) = load_results([tmp_path / "log.csv"]).results
    assert told.skipped.tolist() == some.skipped.tolist()
    assert told.abstained == some.abstained == 1 < whole.abstained


@pytest.mark.parametrize("bound", ["randomized-clopper-pearson", "reused-counts"])
def test_radii_of_some_bounds_may_be_larger_than_clopper_pearsons(tmp_path, make, bound):
    result = make(bound=bound)
    result.radius[result.correct] = 1.1 * largest_radius(0.5, 1000, 0.001)
    write_log(tmp_path / "log.tsv", result)
    write_facts(tmp_path / "log.tsv", result)
    assert len(load_results([tmp_path / "log.tsv"]).results) == 1
    write_facts(tmp_path / "log.tsv", make())
    with pytest.raises(UserError, match="none is above"):
        load_results([tmp_path / "log.tsv"])


def test_what_stands_beside_a_log_is_of_that_log_alone(tmp_path, make):
    log = tmp_path / "log.tsv"
    write_log(log, make())
    write_facts(log, make())
    write_log(log, make(50))
    assert load_results([log]).results[0].parameter("n") is None, "another log is there now"
    (tmp_path / "log.tsv.json").write_text('["of", "somebody", NaN]')
    assert load_results([log]).results[0].parameter("sigma") is None
    write_facts(log, make(50))
    beside = tmp_path / "log.tsv.json"
    beside.write_text(beside.read_text().replace('"alpha": 0.001', '"alpha": 7'))
    with pytest.raises(UserError, match=r"log.tsv.json: alpha is 7"):
        load_results([log])
    beside.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_results([log])
