"""The model card says what is certified and what is not, and names of strangers stay text."""

import json

import numpy as np
import pytest
import torch
import yaml

import rsray
from rsray.config import TrainConfig
from rsray.results.model_card import model_card, text_of
from rsray.storage import Place

RECORD = {
    "dataset": "digits", "model": "lenet", "objective": "macer", "sigma": 0.5, "epochs": 2,
    "batch_size": 64, "lr": 0.01, "lr_drops": [], "settings": {"trade_off": 12.0}, "seed": 0,
    "classes": ["zero", "one"], "image_shape": [1, 28, 28], "normalisation": "none",
    "data_root": "/home/me/data", "preset": None,
}  # fmt: skip
SUMMARY = {
    "dataset": "digits", "split": "test", "num_selected": 40, "acr": 0.43219, "alpha": 0.001,
    "acr_standard_error": 0.01, "certified_accuracy": {"0.00": 0.9, "0.25": 0.5}, "n": 1000,
    "n0": 100, "bound": "clopper-pearson", "noise": "grid", "sampling": "fixed",
}  # fmt: skip


def card(record=RECORD, **how):
    return model_card(record, name="mine", method="MACER (Zhai et al.).", **how)


def head(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_its_head_holds_every_figure_for_a_hub():
    (entry,) = head(card(summary=SUMMARY))["model-index"]
    values = {metric["name"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert values == {
        "average certified radius": 0.43219,
        "certified accuracy at l2 radius 0.00": 0.9,
        "certified accuracy at l2 radius 0.25": 0.5,
    }
    assert head(card()) == {key: v for key, v in head(card()).items() if key != "model-index"}


def test_figures_name_the_data_that_they_are_of():
    text = card(summary={**SUMMARY, "dataset": "parquet"})
    assert "- Data: digits." in text and "40 images; images of test, data set parquet, " in text


def test_no_printed_radius_is_rounded_up():
    text = card(summary={**SUMMARY, "acr": 0.43219999})
    assert "| average certified radius (ACR) | 0.4321 (standard error 0.0100) |" in text


def test_radii_that_were_not_asked_and_an_acr_that_is_unknown_are_left_out():
    decided = {
        "acr": None,
        "acr_standard_error": None,
        "certified_accuracy": {"0.25": None, "0.5": 1},
    }
    text = card(summary={**SUMMARY, **decided})
    assert "(ACR)" not in text and "radius 0.25" not in text and "radius 0.5 | 100.0%" in text


def test_of_a_run_that_decided_a_few_radii_alone_nothing_else_is_claimed():
    text = card(summary={**SUMMARY, "acr": 0.1, "at_radius": {"0.1": 0.75, "0.3": 0.5}})
    assert "(ACR)" not in text and "average_certified_radius" not in text
    assert (
        "radius 0.1 | 75.0%" in text and "radius 0.3 | 50.0%" in text and "radius 0.25" not in text
    )


def test_the_card_tells_the_classifier_that_was_certified():
    text = card(summary={**SUMMARY, "sigma": 0.25})
    assert "most often under noise of standard deviation 0.25)" in text and "sigma 0.25" in text
    assert "trained to be smoothed with Gaussian noise of standard deviation 0.5" in text
    soft = card(summary={**SUMMARY, "sigma": 0.5, "bound": "hoeffding", "smoothing": "soft"})
    assert "the largest mean probability under noise of standard deviation 0.5)" in soft


@pytest.mark.parametrize("bound", ["confidence-sequence", "reused-counts"])
def test_bounds_that_nobody_chooses_by_name_are_told_too(bound):
    text = card(summary={**SUMMARY, "bound": bound, "smoothing": "hard"})
    assert "most often under noise" in text and f"bound {bound}" in text


def test_float_noise_has_no_promise_in_floating_point():
    assert "exact on the grid" in card(summary=SUMMARY)
    assert "could be given a certificate that is false" in card(
        summary={**SUMMARY, "noise": "float"}
    )


def test_what_is_not_as_usual_is_listed_and_nothing_else():
    unusual = {"limit": 100, "label_smoothing": 0.1, "lr_warm_up": 5, "augmentation": "none",
               "validation": 0.2, "momentum": 0.8, "model_args": {"width": 2}}  # fmt: skip
    text = card({**RECORD, **unusual})
    assert all(f"| {key} | {text_of(value)} |" in text for key, value in unusual.items())
    usual = {key: field.default for key, field in TrainConfig.model_fields.items()}
    assert card({**usual, **RECORD}) == card(usual | RECORD | {"workers": 4, "init": None})
    assert not any(f"| {key} |" in card({**usual, **RECORD}) for key in (*unusual, "init"))


def test_whose_weights_it_began_with_is_said_without_the_way_there():
    record = {**RECORD, "init": "/home/me/runs/start", "earlier_results": {"init": "ab12"}}
    text = card(record)
    assert "| init | the weights of start, SHA-256 ab12 |" in text and "/home/me" not in text


@pytest.mark.parametrize(
    "name", ["a|b", "# head", "<script>", "[x](y)", "line\nfeed", "\x1b[2J", "\u202e"]
)
def test_a_class_of_any_name_stays_text(name):
    text = card({**RECORD, "classes": [name, "one"]})
    assert text.count("\n") == card().count("\n")
    assert f"- Classes: {text_of(name)}, one." in text and "<script>" not in text
    assert not any(ord(c) < 32 and c != "\n" for c in text) and "\u202e" not in text


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("where-the-data-lies")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_root):
    out = tmp_path_factory.mktemp("runs") / "digits-run"
    return rsray.train(
        data_root=data_root,
        dataset="digits",
        objective="gaussian",
        epochs=1,
        limit=128,
        out=out,
        progress=False,
    )


def test_training_leaves_a_card(run):
    text = run.place.read("README.md").decode()
    assert "# digits-run" in text and "Gaussian data augmentation" in text and "Not yet" in text


def test_an_export_is_a_run_that_names_no_place_of_the_data(run, data_root, tmp_path):
    made = rsray.export(run, out=tmp_path / "made")
    config = json.loads(made.place.read("config.json"))
    assert config["id2label"]["3"] == "3" and config["num_labels"] == 10
    for name in made.place.files():
        assert str(data_root).encode() not in made.place.read(name), name
    ours, theirs = (each.model().state_dict() for each in (run, made))
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(rsray.UserError, match="holds a network already"):
        rsray.export(run, out=tmp_path / "made")


def test_an_export_goes_into_no_folder_of_something_else(run, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for out, said in ((tmp_path, "is not empty"), (tmp_path / "README.md", "is a file")):
        with pytest.raises(rsray.UserError, match=said):
            rsray.export(run, out=out)
    assert [each.name for each in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(rsray.UserError):
        rsray.export(tmp_path, out=tmp_path / "made")
    assert not Place.of(tmp_path / "made").exists()


def test_onnx_gives_the_same_logits_for_any_batch(run, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made = rsray.export(run, onnx=True, out=tmp_path / "made")
    session = runtime.InferenceSession(made.place.read("model.onnx"))
    shape = json.loads(made.place.read("config.json"))["image_shape"]
    for count in (1, 5):
        images = torch.rand(count, *shape)
        (logits,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(logits, run.model()(images).detach().numpy(), atol=1e-4)


def test_certify_fills_the_card_of_its_run_unless_somebody_edited_it(run, tmp_path):
    file = "README.md"
    asked = {"n": 200, "limit": 4, "actors": 1, "progress": False}
    cert = rsray.certify(run, **asked, out=tmp_path / "cert")
    text = run.place.read(file).decode()
    (entry,) = head(text)["model-index"]
    values = {metric["type"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert values["average_certified_radius"] == cert.acr and "4 images; images of test" in text
    rsray.certify(run, **asked, alpha=0.01, out=tmp_path / "other")
    assert "alpha 0.01" in run.place.read(file).decode()
    rsray.certify(run, **asked, sigma=0.5, out=tmp_path / "other-noise")
    assert "sigma 0.25, " in run.place.read(file).decode()
    rsray.certify(run, **{**asked, "limit": 2}, out=tmp_path / "few")
    assert "4 images; images of test" in run.place.read(file).decode()
    rsray.certify(run, **{**asked, "n": 150}, out=tmp_path / "fewer-draws")
    assert "estimation draws 200" in run.place.read(file).decode()
    rsray.certify(run, **asked, at_radius=[0.1], out=tmp_path / "decided")
    assert "(ACR)" in run.place.read(file).decode(), "an ACR says more than a few radii"
    edited = text.replace("## Citation", "## Thanks\n\nto all\n\n## Citation")
    run.place.write(file, edited.encode())
    rsray.certify(run, **asked, out=tmp_path / "third")
    assert run.place.read(file).decode() == edited
    run.place.write(file, run.card().encode())
