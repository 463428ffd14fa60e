"""Words of a shipped command line are known by option and position, never by their value."""

import pytest

from rsray.cluster.remote_words import FILE_SETTINGS
from rsray.errors import UserError
from rsray.objectives import OBJECTIVES
from rsray.storage.yaml_files import to_yaml
from rsray_cli.cluster import typed_line as line_for_cluster


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_words_that_stay_here():
    words = ["certify", "run", "--cluster", "x.yaml", "--out=a", "--n", "5", "--down", "--out", "b"]
    assert line_for_cluster(words).words == ("certify", "run", "--n", "5")


def test_a_run_that_is_called_like_a_value(tmp_path):
    (tmp_path / "digits").mkdir()
    line = line_for_cluster(["certify", "--dataset", "digits", "digits", "--split", "digits"])
    there = line.there()
    assert list(line.inputs) == [3]
    assert there[:3] == ["certify", "--dataset", "digits"] and there[4:] == ["--split", "digits"]
    assert there[3].startswith("inputs/") and there[3].endswith("/digits")


def test_settings_that_are_called_like_a_value(tmp_path):
    (tmp_path / "5").write_text("n: 7")
    line = line_for_cluster(["certify", "run", "--n", "5", "--config", "5", "--limit=5"])
    there = line.there()
    assert there[:4] == ["certify", "run", "--n", "5"] and there[6:] == ["--limit=5"]
    assert there[5].startswith("inputs/")


def test_the_earlier_certificates_travel_with_their_network(tmp_path):
    for name in ("run", "cert", "old"):
        (tmp_path / name).mkdir()
    line = line_for_cluster(["certify", "run", "--reuse", "cert", "--reuse-model=old"])
    there = line.there()
    assert there[0] == "certify" and there[2] == "--reuse" and there[4] == "--reuse-model"
    assert [there[k].rpartition("/")[2] for k in (1, 3, 5)] == ["run", "cert", "old"]
    assert all(there[k].startswith("inputs/") for k in (1, 3, 5))


@pytest.mark.parametrize("word", ["--set", "--set="])
def test_what_an_objective_learns_from_travels(word, tmp_path):
    for name in ("cert", "net", "first"):
        (tmp_path / name).mkdir()
    sets = [f"{word}{text}" if word[-1] == "=" else (word, text)
            for text in ("teacher=cert", "classifier=net", "trade_off=1", "teacher=s3://b/cert")]  # fmt: skip
    words = [part for each in sets for part in ([each] if isinstance(each, str) else each)]
    line = line_for_cluster(["train", *words, "--init", "first"])
    there = line.there()
    given = [each.removeprefix("--set=") for each in there if "=" in each]
    assert given[0].startswith("teacher=inputs/") and given[0].endswith("/cert")
    assert given[1].startswith("classifier=inputs/") and given[1].endswith("/net")
    assert given[2:] == ["trade_off=1", "teacher=s3://b/cert"]
    assert there[-2] == "--init" and there[-1].startswith("inputs/")
    assert [[path.name for path in paths] for paths in line.inputs.values()] == [
        ["cert"], ["net"], ["first"],
    ]  # fmt: skip


def test_all_settings_that_name_results_are_known():
    named = {name for each in OBJECTIVES.values() for name in each.earlier_results}
    assert {*FILE_SETTINGS} == {*named, "init"}


def test_a_value_that_is_called_like_an_option():
    line = line_for_cluster(["train", "--set", "--cluster", "--cluster", "c.yaml", "--seed", "1"])
    assert line.words == ("train", "--set", "--cluster", "--seed", "1")


def test_a_flag_takes_no_word_with_it(tmp_path):
    (tmp_path / "run").mkdir()
    line = line_for_cluster(["certify", "--download", "run", "--down"])
    assert line.words == ("certify", "--download", "run") and list(line.inputs) == [2]


def test_only_the_first_argument_is_a_source(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert list(line_for_cluster(["certify", "--", "a", "b"]).inputs) == [2]
    assert line_for_cluster(["train", "a"]).inputs == {}


def test_the_module_of_the_last_model_travels():
    words = ["train", "--model", "lenet", "--model=pack.mod:f", "--set", "model=other:f"]
    assert line_for_cluster(words).modules == ("pack",)
    assert line_for_cluster(["train", "--model", "a:f", "--model", "lenet"]).modules == ()


def test_factories_among_the_values_of_a_setting_travel():
    line = line_for_cluster(
        ["tune", "--search", "model=choice(mine:a, ours.net:b)",
         "--grid=model=fourth:d,lenet", "--search", "trade_off=choice(1,2)", "--set", "lr=a:b"],
    )  # fmt: skip
    assert line.modules == ("fourth", "mine", "ours")


def test_a_config_that_names_a_result_of_this_machine_is_told(tmp_path):
    (tmp_path / "cert").mkdir()
    there = {
        "settings": {"teacher": "s3://b/cert", "classifier": "", "trade_off": 1.0},
        "init": None,
    }
    here = {"train": {"settings": {"teacher": str(tmp_path / "cert")}}}
    for name, values in (("there.yaml", there), ("here.yaml", here)):
        (tmp_path / name).write_bytes(to_yaml(values))
    line_for_cluster(["train", "--config", "there.yaml"])
    with pytest.raises(UserError, match=r"here.yaml names teacher .*: give --set teacher="):
        line_for_cluster(["tune", "--config", "here.yaml"])
    line_for_cluster(["tune", "--config=here.yaml", "--set", "teacher=cert"])
    line_for_cluster(["tune", "--config=here.yaml", "--set", "teacher=s3://b/cert"])
