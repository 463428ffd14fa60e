"""Training a denoiser: with and without the frozen classifier that it stands before."""

import pytest
import torch

from rsray import api
from rsray.errors import UserError
from rsray.outcomes import Run
from rsray.presets import train_config
from rsray.training.run_folder.metrics import read_metrics
from rsray.training.run_folder.run import claim_run, open_training_split

DENOISE = {
    "objective": "denoise", "model": "dncnn6", "optimizer": "adam", "lr": 0.001, "sigma": 0.25,
}  # fmt: skip


@pytest.fixture
def classifier(lab):
    folder = lab.folder("classifier")
    lab.training(lab.config(sigma=0.01), folder).run_epochs()
    return folder


def test_without_a_classifier_there_is_no_accuracy(lab):
    folder = lab.folder("run")
    rows = lab.rows(lab.config(**DENOISE), folder)
    assert [row["noisy_accuracy"] for row in rows] == [None, None]
    assert rows[1]["loss"] < rows[0]["loss"] < 0.55 and rows[1]["robustness_loss"] == 0
    assert read_metrics(folder) == rows
    assert {**Run(folder.uri).config.settings} == {
        "num_draws": 1, "trade_off": 1.0, "classifier": "",
    }  # fmt: skip


def test_the_classifier_stays_as_it_is(lab, classifier):
    training = lab.training(lab.config(**DENOISE, classifier=str(classifier.local_path)))
    before = {key: value.clone() for key, value in training.companion.state_dict().items()}
    figures = []
    training.run_epochs(lambda row: figures.append(row))
    assert all(
        torch.equal(before[key], value) for key, value in training.companion.state_dict().items()
    )
    assert all(0 < row["noisy_accuracy"] <= 1 for row in figures)
    assert all(row["robustness_loss"] > 0 for row in figures)


def test_a_run_that_was_stopped_goes_on(lab, classifier):
    config = lab.config(**DENOISE, classifier=str(classifier.local_path))
    whole = lab.weights(config)
    folder = lab.folder("run")
    lab.training(config, folder).run_epochs(lambda row: True)
    folder.local_path.joinpath("model.safetensors").unlink()
    resumed = lab.training(config, folder)
    assert resumed.epoch == 1
    resumed.run_epochs()
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole[key])


def test_it_is_no_classifier(lab, tmp_path):
    folder = lab.folder("run")
    lab.rows(lab.config(**DENOISE), folder)
    run = Run(folder.uri)
    run.write_card()
    assert run.is_denoiser and not folder.exists("README.md")
    with pytest.raises(UserError, match="is a denoiser, no classifier: give it with --denoiser"):
        run.model()
    with pytest.raises(UserError, match="is a denoiser: rsray export takes a classifier"):
        api.export(run, out=tmp_path / "x")
    with pytest.raises(UserError, match="objective denoise trains no classifier"):
        api.tune(dataset="digits", objective="denoise", out=tmp_path / "y")


def test_what_is_trained_by_itself_is_a_small_denoiser_with_adam():
    config = train_config({"dataset": "mnist", "objective": "denoise"})
    assert (config.model, config.optimizer, config.lr) == ("dncnn6", "adam", 0.001)
    assert train_config({"dataset": "mnist", "objective": "denoise", "lr": 0.1}).lr == 0.1
    assert train_config({"dataset": "mnist"}).optimizer == "sgd"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "lenet"}, r"must return images of shape \(1, 1, 8, 8\), got \(1, 10\)"),
        ({"objective": "gaussian"}, r"must return logits of shape \(1, 10\), got \(1, 1, 8, 8\)"),
        ({"classifier": "nowhere"}, "nowhere is no finished RUN"),
        (
            {"trade_off": 0.5},
            "trade_off is 0.5, but there is no classifier .* --set classifier=RUN",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_folder_is_claimed(lab, changes, words):
    config = lab.config(**{**DENOISE, **changes})
    with pytest.raises(UserError, match=words):
        claim_run(lab.folder("run"), config, open_training_split(config), torch.device("cpu"))
    assert not lab.folder("run").exists()


def test_a_classifier_of_other_images_or_of_a_strangers_code_is_refused(lab, classifier):
    text = (classifier / "run.yaml").read_bytes().decode()
    config = lab.config(**DENOISE, classifier=str(classifier.local_path))
    for old, new, words in (
        ("model: lenet", "model: evil:make", "of the network 'evil:make': one of lenet"),
        ("- '9'\n", "- nine\n", "trained with other classes"),
        ("image_shape:\n- 1\n- 8", "image_shape:\n- 1\n- 9", "trained with other image_shape"),
    ):
        assert old in text
        classifier.write("run.yaml", text.replace(old, new).encode())
        with pytest.raises(UserError, match=words):
            lab.training(config)
