"""A teacher's targets: its counts of the images; and a start from weights."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors import safe_open

from rsray.certification.counts.gathering import gather
from rsray.certification.counts.tables import counts_table
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim as claim_cert
from rsray.certification.folder import finish
from rsray.certification.request import open_certification
from rsray.distributed import dry_run
from rsray.errors import UserError
from rsray.outcomes import Run
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.earlier_run import warn_if_judged_by_seen_images
from rsray.training.loop import Training
from rsray.training.request import TrainingRequest
from rsray.training.run_folder.run import claim_run, images_of, open_training_split
from rsray.training.teacher import targets_of

CPU = torch.device("cpu")
CATRS = {"objective": "catrs", "num_draws": 2, "num_steps": 2, "limit": 64}
CERTIFY = {"n": 40, "n0": 10, "block_size": 20, "alpha": 0.05, "sigma": 0.25, "precision": "fp32"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A RUN on digits, and its CERTs of all of the training split, of some, and of the test split.

    Their counts are drawn here: no network makes them.
    """
    root = tmp_path_factory.mktemp("teacher")
    flat = {
        "dataset": "digits",
        "model": "lenet",
        "objective": "gaussian",
        "epochs": 1,
        "limit": 64,
    }
    config, run = train_config({**flat, "precision": "fp32"}), root / "run"
    claim_run(Place.of(run), config, open_training_split(config), CPU)
    Training(config, Place.of(run), CPU).run_epochs()
    certify(run, root / "train", split="train", skip=1)
    certify(run, root / "some", split="train", start=3, skip=2, limit=9)
    certify(run, root / "test", split="test", limit=9)
    return root


def certify(run, where, **given):
    """Certify with drawn counts; with `sampling` skip, of half of the images the first stage alone."""
    request = open_certification(str(run), {**given, **CERTIFY})
    evaluation = Evaluation("cpu", "fp32", "channels_last", 32, device_name="a chip")
    claimed, draw = (
        claim_cert(Place.of(where), request.config, evaluation),
        np.random.default_rng(1),
    )
    tables = []
    for index, label in zip(request.selected.indices, request.selected.labels, strict=True):
        stages = (("selection", [(0, 10)]), ("estimation", [(0, 20), (1, 20)]))
        is_skipped = request.config.sampling == "skip" and index % 2 == 1
        for stage, blocks in stages[:1] if is_skipped else stages:
            counts = np.stack([draw.multinomial(draws, np.full(10, 0.1)) for _, draws in blocks])
            if request.config.sampling == "skip" and stage == "selection":
                counts = 10 * np.eye(10, dtype=int)[[(label + is_skipped) % 10]]
            tables.append(counts_table(int(index), int(label), stage, blocks, counts))
    claimed.store.append(pa.concat_tables(tables))
    gathered = gather(claimed.store, request.selected, claimed.plan)
    finish(claimed, gathered, seconds=1.0, failed={})


def claim(lab, config, name="run"):
    return claim_run(lab.folder(name), config, open_training_split(config), CPU)


def test_targets_are_the_shares_of_all_draws(lab, made):
    config = lab.config(**CATRS, teacher=str(made / "train"))
    split, indices = open_training_split(config), np.array([5, 3, 700])
    found = targets_of(config.build_objective(), split, indices)
    expected = np.zeros((len(split), 10))
    for part in (made / "train" / "counts").glob("*.parquet"):
        for row in pq.read_table(part).to_pylist():
            expected[row["index"], row["classes"]] += row["counts"]
    assert (expected.sum(1) == 50).all()
    np.testing.assert_allclose(found, expected[indices] / 50, rtol=1e-6)


def test_targets_of_fewer_draws_than_others_are_told(lab, made, tmp_path, caplog):
    config = lab.config(**CATRS, teacher=str(made / "train"))
    claim(lab, config)
    assert not caplog.text, "all have as many"
    certify(made / "run", tmp_path / "skip", split="train", skip=1, sampling="skip")
    table = pq.read_table(tmp_path / "skip" / "certificates.parquet")
    few = np.asarray(table["n"])[config_images(config)] == 0
    assert few.sum() == (config_images(config) % 2).sum()
    claim(lab, lab.config(**CATRS, teacher=str(tmp_path / "skip")), "other")
    words = f"of {few.sum()} of 64 images are of fewer draws than 50, the least of 10"
    assert words in caplog.text and "its sampling is skip" in caplog.text


def config_images(config):
    return images_of(config, open_training_split(config))[0]


def test_each_image_is_trained_with_its_own_target(lab, made, monkeypatch):
    config = lab.config(**CATRS, teacher=str(made / "train"), epochs=1, batch_size=16)
    training, seen = lab.training(config), []
    step = type(training.objective).step

    def watched(self, network, images, *rest, targets_BK, **more):
        seen.append((images.clone(), targets_BK))
        return step(self, network, images, *rest, targets_BK=targets_BK, **more)

    monkeypatch.setattr(type(training.objective), "step", watched)
    training.stepper.group_size = 5
    training.run_epochs()
    assert [len(images) for images, _ in seen] == [5, 5, 5, 1] * 4
    pictures = training.held_in.tensors()[0].float() / 255
    whole = targets_of(training.objective, training.split, training.held_in.indices)
    for images, targets in seen:
        same = (pictures[None] == images[:, None]).flatten(2).all(2)
        torch.testing.assert_close(targets, whole[same.int().argmax(1)])


def test_a_teacher_that_is_none_is_refused_before_the_folder_is_claimed(lab, made):
    for where, words in (
        ("", "no teacher: give --set teacher=CERT"),
        (made / "test", "is of the test split: certify --split train"),
        (made / "some", "has no counts of .* of the 64 images to train on, such as image"),
        (made / "run", "is no CERT folder"),
    ):
        with pytest.raises(UserError, match=words):
            claim(lab, lab.config(**CATRS, teacher=str(where)))
        assert not lab.folder("run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "mnist"}, "is of mnist, not of digits"),
        ({"classes": list("abcdefghij")}, "has other classes or shapes"),
        ({"images_fingerprint": {"images": 1347, "labels": "00"}}, "is of other images than those"),
        ({"images_fingerprint": None}, "certify --split train"),
        ({"images_fingerprint": [1]}, "images_fingerprint"),
    ],
)
def test_counts_of_other_images_are_refused(lab, made, tmp_path, change, words):
    copy = Place.of(tmp_path / "copy").make()
    for name in ("certify.yaml", "certificates.parquet"):
        copy.write(name, (made / "train" / name).read_bytes())
    record = yaml.safe_load((made / "train" / "certify.yaml").read_text())
    copy.write("certify.yaml", yaml.safe_dump({**record, **change}).encode())
    with pytest.raises(UserError, match=words):
        claim(lab, lab.config(**CATRS, teacher=str(tmp_path / "copy")))


def test_a_run_goes_on_with_its_teacher_wherever_that_lies_and_with_no_other(lab, made, tmp_path):
    moved = tmp_path / "moved"
    (made / "train").rename(moved)
    try:
        claim(lab, lab.config(**CATRS, teacher=str(moved)))
    finally:
        moved.rename(made / "train")
    record = yaml.safe_load((lab.folder("run") / "run.yaml").read_bytes())
    assert record["settings"]["teacher"] == str(moved)
    assert list(record["earlier_results"]) == ["teacher"]
    assert not claim(lab, lab.config(**CATRS, teacher=str(made / "train")))
    with pytest.raises(UserError, match="began with another teacher"):
        claim(lab, lab.config(**CATRS, teacher=str(made / "test")))
    with pytest.raises(UserError, match="trade_off"):
        claim(lab, lab.config(**CATRS, teacher=str(made / "train"), trade_off=3.0))


def test_a_run_starts_from_the_weights_of_another(lab, made):
    config = lab.config(init=str(made / "run"), objective="macer", epochs=1)
    training = lab.training(config, lab.folder("warm"))
    weights = Run(str(made / "run")).model().state_dict()
    for key, value in training.model.state_dict().items():
        assert torch.equal(value, weights[key]), key
    record = yaml.safe_load((lab.folder("warm") / "run.yaml").read_bytes())
    assert list(record["earlier_results"]) == ["init"]
    moved = made / "moved"
    (made / "run").rename(moved)
    try:
        training.run_epochs()  # to its end, though what it began from is gone
    finally:
        moved.rename(made / "run")
    with safe_open(lab.folder("warm").local_path / "model.safetensors", "pt") as file:
        told = json.loads(file.metadata()["rsray"])
    assert told["earlier_results"] == record["earlier_results"] and told["data_root"] is None
    again = lab.training(config, lab.folder("warm"))
    assert again.epoch == 1 and not torch.equal(again.model.state_dict()[key], weights[key])


def test_a_start_from_weights_is_announced(lab, made):
    def lines(**flat):
        config = lab.config(init=str(made / "run"), **flat)
        return TrainingRequest(config, open_training_split(config)).announcement("here")[1:]

    assert lines() == [f"from the weights of {made / 'run'}"]
    assert lines(objective="macer") == [f"from the weights of {made / 'run'}, deferred False"]


def test_a_finished_run_is_no_run_of_another_start(lab, made, tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    for where, more in ((first, b""), (other, b" ")):
        shutil.copytree(made / "run", where)
        with (where / "model.safetensors").open("ab") as file:
            file.write(more)
    config = lab.config(init=str(first))
    claim(lab, config)
    claim(lab, lab.config(), "cold")
    for name in ("run", "cold"):
        lab.folder(name).write("model.safetensors", b"")

    def refuse(init, words, name="run"):
        with pytest.raises(UserError, match=words):
            claim(lab, lab.config(init=init), name)

    refuse(None, "began with init, which is not given now")
    refuse(str(other), f"began with another init than {other}")
    refuse(str(first), f"began without init, now it is {first}", "cold")
    with pytest.raises(UserError, match="began with another init"):
        asked = lab.config(init=str(other))
        request = TrainingRequest(asked, open_training_split(asked))
        dry_run.training(request, lab.folder("run"), None)
    record = lab.folder("run").read("run.yaml")
    for odd in ([1], {"init": 1}, "init"):
        changed = {**yaml.safe_load(record), "earlier_results": odd}
        lab.folder("run").write("run.yaml", yaml.safe_dump(changed).encode())
        refuse(str(first), "run says of earlier_results")
    lab.folder("run").write("run.yaml", record)
    moved = first.rename(tmp_path / "moved")
    assert claim(lab, config), "what it began with is gone"
    assert claim(lab, lab.config(init=str(moved)))
    refuse("/nowhere", "/nowhere is no finished RUN")
    other.rename(first)
    refuse(str(first), f"began with another init than {first}")


def test_a_start_that_has_seen_the_images_that_trials_are_judged_by_is_told(made, caplog):
    """RUN was trained on 64 images, none held out; a trial holds some out."""
    flat = {"dataset": "digits", "limit": 64, "init": str(made / "run")}
    warn_if_judged_by_seen_images([train_config(flat)])
    assert not caplog.records, "nothing is held out by either"
    warn_if_judged_by_seen_images([train_config({**flat, "init": None, "validation": 0.2})])
    assert not caplog.records
    warn_if_judged_by_seen_images([train_config({**flat, "validation": 0.2})])
    assert "--set validation=0.2 --seed 0 --limit 64" in caplog.text


def test_trials_of_one_start_are_told_of_it_once(made, caplog):
    flat = {"dataset": "digits", "limit": 64, "init": str(made / "run"), "validation": 0.2}
    objectives = ("gaussian", "consistency", "smoothmix")
    warn_if_judged_by_seen_images(train_config({**flat, "objective": o}) for o in objectives)
    assert len(caplog.records) == 1


def test_the_start_of_a_start_counts_too(made, tmp_path, caplog):
    record = yaml.safe_load((made / "run" / "run.yaml").read_bytes())
    between = {**record, "validation": 0.2, "init": str(made / "run")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(between))
    flat = {"dataset": "digits", "limit": 64, "validation": 0.2}
    warn_if_judged_by_seen_images([train_config({**flat, "init": str(tmp_path)})])
    assert f"init {made / 'run'} was trained on images that" in caplog.text


def test_a_start_from_other_images_is_refused(lab, made, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(made / "run", other)
    record = yaml.safe_load((other / "run.yaml").read_text())
    record["data_fingerprint"]["labels"] = "0" * 16
    (other / "run.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(UserError, match="trained on other images than those of digits"):
        claim(lab, lab.config(init=str(other)))


def test_a_start_from_another_network_is_refused(lab, made):
    for change, words in (
        ({"model": "resnet20"}, "init .*run has model 'lenet', not 'resnet20'"),
        ({"init": "nowhere"}, "nowhere is no finished RUN"),
        ({"init": str(made / "train")}, "is no finished RUN"),
    ):
        with pytest.raises(UserError, match=words):
            claim(lab, lab.config(**{"init": str(made / "run"), **change}))
        assert not lab.folder("run").exists()
