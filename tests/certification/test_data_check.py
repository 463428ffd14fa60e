"""Data that are not such as a network was trained for, or were trained on, are refused."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rsray import models
from rsray.certification.data_check import fitted
from rsray.certification.request import open_certification, open_classifier, open_prediction
from rsray.config import TrainConfig
from rsray.data import open_split
from rsray.data.fingerprint import SAMPLE, fingerprint, is_same, seen_before
from rsray.data.reading.in_memory import ArraySplit
from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.yaml_files import to_yaml
from rsray.training.run_folder.run import run_record

RNG = np.random.default_rng(0)


def fill(folder, classes, count, side=6, first=0):
    """Write random pictures <folder>/<class>/0000.png, ..."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            pixels = RNG.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:04}.png")


def opened(root, split="test", name="imagefolder", **options):
    return open_split(name, split, str(root), **options)


def record_of(root, **options):
    """What run.yaml says of a run on the training split at this root."""
    config = TrainConfig(dataset="imagefolder", data_root=str(root), model="lenet", **options)
    return run_record(config, opened(root, "train", **options))


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    fill(root / "train", ("cat", "dog", "owl"), 8)
    fill(root / "test", ("cat", "dog", "owl"), 4)  # of the same names, other pictures
    return root


def test_the_runs_own_data_fit(pets, caplog):
    record = record_of(pets)
    assert record["classes"] == ["cat", "dog", "owl"] and record["image_shape"] == [3, 6, 6]
    test = opened(pets)
    assert fitted(test, record, "run") is test
    assert not caplog.records
    # A checkpoint of other people records nothing: nothing is compared.
    assert fitted(test, {}, "net.pth") is test


def test_classes_of_other_names_are_refused(pets, tmp_path):
    fill(tmp_path / "other" / "test", ("cat", "cow", "owl"), 2)
    with pytest.raises(UserError, match="run knows 3 .* among them 'cow', and not 'dog'"):
        fitted(opened(tmp_path / "other"), record_of(pets), "run")
    fill(tmp_path / "more" / "test", ("ant", "cat", "dog", "owl"), 2)
    with pytest.raises(UserError, match="the data have 4, among them 'ant'"):
        fitted(opened(tmp_path / "more"), record_of(pets), "run")


def test_classes_in_another_order_are_taken_by_name(pets, caplog):
    record = record_of(pets) | {"classes": ["owl", "cat", "dog"]}
    test = opened(pets)
    mapped = fitted(test, record, "run")
    names = [mapped.class_names[label] for label in mapped.labels]
    assert names == [test.class_names[label] for label in test.labels]
    assert mapped.labels.tolist() == [1] * 4 + [2] * 4 + [0] * 4
    np.testing.assert_array_equal(mapped.images([3, 9]), test.images([3, 9]))
    assert "taken by name" in caplog.text


def test_the_class_names_in_a_checkpoint_count(pets, caplog):
    network = models.build("lenet", image_shape=(3, 6, 6), num_classes=3)
    file, given = pets / "net.pth", {"dataset": "imagefolder", "data_root": str(pets)}
    given |= {"model": "lenet", "sigma": 0.5, "normalisation": "none"}
    content = {"state_dict": network.state_dict(), "class_to_idx": {"owl": 0, "cat": 1, "dog": 2}}
    torch.save(content, file)
    _, split = open_classifier(str(file), given, download=False)
    assert split.classes == ("owl", "cat", "dog") and split.labels[0] == 1
    assert "taken by name" in caplog.text
    torch.save({**content, "class_to_idx": {"owl": 0, "cat": 1, "fox": 2}}, file)
    with pytest.raises(UserError, match="among them 'dog', and not 'fox'"):
        open_classifier(str(file), given, download=False)


def test_the_class_names_in_hugging_faces_config_count(pets, caplog):
    network = models.build("lenet", image_shape=(3, 6, 6), num_classes=3)
    file, given = (
        pets.parent / "model.safetensors",
        {"dataset": "imagefolder", "data_root": str(pets)},
    )
    given |= {"model": "lenet", "sigma": 0.5, "normalisation": "none"}
    file.write_bytes(models.weights_bytes(network))
    config = {"id2label": {"0": "owl", "1": "cat", "2": "dog"}, "layer_norm_eps": 1e-12}
    file.with_name("config.json").write_text(json.dumps(config))
    _, split = open_classifier(str(file), given, download=False)
    assert split.classes == ("owl", "cat", "dog") and split.labels[0] == 1
    assert "taken by name" in caplog.text
    config["id2label"]["2"] = "fox"
    file.with_name("config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="among them 'dog', and not 'fox'"):
        open_classifier(str(file), given, download=False)
    whole = file.with_name("pytorch_model.bin")
    torch.save({"state_dict": network.state_dict(), "classes": ["owl", "dog", "cat"]}, whole)
    with pytest.raises(UserError, match="class 1 is dog in the one, cat in the other"):
        open_classifier(str(whole), given, download=False)
    file.rename(file.with_name("weights.safetensors"))  # whose config.json may be anything
    _, split = open_classifier(str(file.with_name("weights.safetensors")), given, download=False)
    assert split.classes == ("cat", "dog", "owl")


def test_other_words_for_the_classes_of_a_known_data_set_are_said(caplog):
    test, names = open_split("digits", "test"), [f"digit {k}" for k in range(10)]
    assert fitted(test, {"classes": names}, "net.pth") is test
    assert "calls its classes digit 0, digit 1, digit 2, ...: taken to be those" in caplog.text


def test_other_words_in_another_order_are_refused():
    test = open_split("digits", "test")
    with pytest.raises(UserError, match="classes are told by their names"):
        fitted(test, {"classes": ["zero", "2", "1", *map(str, range(3, 10))]}, "net.pth")


def imagenet(names):
    """A split of ImageNet with an image of each of a thousand classes."""
    pixels = np.zeros((1000, 3, 8, 8), np.uint8)
    return ArraySplit(
        name="imagenet", split="train", num_classes=1000, image_shape=(3, 8, 8),
        class_names=tuple(names), load=lambda: (pixels, np.arange(1000)),
    )  # fmt: skip


def test_a_thousand_classes_of_imagenet_are_in_one_order_unless_names_say_otherwise(caplog):
    synsets, words = [f"n{at:08}" for at in range(1000)], [f"word {at}" for at in range(1000)]
    record = {"dataset": "imagenet", "classes": synsets}
    split = imagenet(words)
    assert fitted(split, record, "run") is split
    assert "calls its classes n00000000, n00000001, " in caplog.text
    mapped = fitted(imagenet([*synsets[1:], synsets[0]]), record, "run")
    assert mapped.labels.tolist() == [*range(1, 1000), 0]
    with pytest.raises(UserError, match="among them 'word 0', and not 'n00000000'"):
        fitted(imagenet([words[0], *synsets[:0:-1]]), record, "run")


def test_names_of_two_classes_tell_neither(caplog):
    """ImageNet has two kinds of cranes: where all else is in order they are, too."""
    record = {"dataset": "imagenet", "classes": [f"n{at:08}" for at in range(1000)]}
    cranes = ["crane", "crane", *record["classes"][2:]]
    split = imagenet(cranes)
    assert fitted(split, record, "run") is split
    with pytest.raises(UserError, match="two classes are called 'crane'"):
        fitted(imagenet(cranes[::-1]), {**record, "classes": cranes}, "run")


def test_data_that_lack_a_class_keep_the_runs_numbers(pets):
    shutil.rmtree(pets / "test" / "cat")
    moved = pets.parent / "moved"
    shutil.copytree(pets / "test", moved / "test")
    mapped = fitted(opened(moved), record_of(pets), "run")
    assert (mapped.num_classes, set(mapped.labels.tolist())) == (3, {1, 2})


def test_images_of_another_shape_are_refused(pets, tmp_path):
    record = record_of(pets)
    fill(tmp_path / "large" / "test", ("cat", "dog", "owl"), 2, side=9)
    with pytest.raises(UserError, match="images of 3 x 6 x 6 .* 3 x 9 x 9; --image-size 6 would"):
        fitted(opened(tmp_path / "large"), record, "run")
    assert fitted(opened(tmp_path / "large", image_size=6), record, "run").image_shape == (3, 6, 6)
    with pytest.raises(UserError, match="--image-size 6 --channels 3 would make them so"):
        fitted(opened(pets, channels=1), record, "run")


def test_test_images_that_were_trained_on_are_refused(pets, tmp_path):
    record = record_of(pets)
    for source in (pets / "train" / "cat").glob("000[0-2].png"):
        shutil.copy(source, pets / "test" / "cat" / source.name)
    with pytest.raises(UserError, match=r"3 of 12 test images .* \(for example cat/0000.png\)"):
        fitted(opened(pets), record, "run")
    assert len(fitted(opened(pets, "train"), record, "run")) == 24, "asked for knowingly"


def test_copies_under_other_names_are_refused_when_they_are_many(pets, caplog):
    record = record_of(pets)
    fill(pets / "test", ("dog",), 200, first=100)
    copied = sorted((pets / "train" / "owl").iterdir())
    shutil.copy(copied[0], pets / "test" / "owl" / "copy.png")
    with caplog.at_level(logging.WARNING):
        assert fitted(opened(pets), record, "run")
    assert "1 of 213 test images looked at are images that run was trained on" in caplog.text
    for number, file in enumerate(copied[1:5]):
        shutil.copy(file, pets / "test" / "owl" / f"copy{number}.png")
    with pytest.raises(UserError, match="5 of 217 test images"):
        fitted(opened(pets), record, "run")


def test_a_part_that_was_drawn_anew_is_refused(tmp_path):
    """As a seeded split of class folders would after a picture was added."""
    fill(tmp_path / "all", ("a", "b"), 400)
    record = record_of(tmp_path / "all")
    assert record["data_fingerprint"]["images"] > SAMPLE
    assert fitted(opened(tmp_path / "all"), record, "run")
    for name in ("a", "b"):
        (tmp_path / "drawn" / "test" / name).mkdir(parents=True)
        for file in RNG.choice(sorted((tmp_path / "all" / name).iterdir()), 80, replace=False):
            shutil.copy(file, tmp_path / "drawn" / "test" / name)
    with pytest.raises(UserError, match="of 160 test images looked at"):
        fitted(opened(tmp_path / "drawn"), record, "run")


def test_the_fingerprint_is_of_names_labels_and_contents(pets, tmp_path):
    train = opened(pets, "train")
    own = fingerprint(train, sampled=True)
    assert is_same(own, fingerprint(opened(pets, "train"), sampled=False))
    assert seen_before(train, own).by_name == tuple(range(24))
    (pets / "train" / "cat" / "0000.png").rename(pets / "train" / "cat" / "0000-b.png")
    renamed = opened(pets, "train")
    assert not is_same(own, fingerprint(renamed, sampled=True))
    seen = seen_before(renamed, own)
    assert (len(seen.by_name), len(seen.by_content)) == (23, 1)
    digits = fingerprint(open_split("digits", "test"), sampled=False)
    assert digits["images"] == 450 and "names" not in digits and "sample" not in digits


def test_pictures_made_anew_under_the_same_names_are_others(pets):
    """As those that are written again from their sources, in another size or with other colours."""
    began = fingerprint(opened(pets), sampled=False)
    fill(pets / "test", ("cat", "dog", "owl"), 4)
    now = fingerprint(opened(pets), sampled=False)
    assert {key for key in began if began[key] != now[key]} == {"contents"}
    assert not is_same(began, now)
    earlier = {key: value for key, value in began.items() if key != "contents"}
    assert is_same(earlier, now), "an earlier version recorded names alone"


def test_a_picture_that_cannot_be_read_has_a_fingerprint(pets):
    """It may fail in a certification, alone."""
    began, later = fingerprint(opened(pets), sampled=False), opened(pets)
    assert len(later) == began["images"], "listed before the picture goes"
    (pets / "test" / "owl" / "0003.png").unlink()
    now = fingerprint(later, sampled=False)
    assert {key for key in began if began[key] != now[key]} == {"contents"}


@pytest.fixture
def run(pets, tmp_path):
    """A RUN folder of an untrained network."""
    record = record_of(pets)
    folder = Place.of(tmp_path / "run").make()
    folder.write("run.yaml", to_yaml(record))
    model = models.build("lenet", image_shape=(3, 6, 6), num_classes=3)
    folder.write("model.safetensors", models.weights_bytes(model))
    return str(tmp_path / "run")


def test_what_opens_a_run_compares(run, pets, tmp_path):
    request = open_certification(run, {})
    assert request.split.class_names == ("cat", "dog", "owl")
    assert request.config.classes == ("cat", "dog", "owl")
    assert request.config.image_shape == (3, 6, 6)
    assert request.config.data_fingerprint["images"] == 24
    assert "sample" not in request.config.data_fingerprint
    # By which a certification knows its images when it goes on.
    assert request.config.images_fingerprint == fingerprint(request.split, sampled=False)
    fill(tmp_path / "other" / "test", ("cat", "cow", "owl"), 2)
    elsewhere = {"data_root": str(tmp_path / "other")}
    for opens in (open_certification, open_prediction):
        with pytest.raises(UserError, match="among them 'cow'"):
            opens(run, elsewhere)


def test_how_the_run_read_its_data_is_kept(pets, tmp_path):
    record = record_of(pets, channels=1)
    folder = Place.of(tmp_path / "grey").make()
    folder.write("run.yaml", to_yaml(record))
    model = models.build("lenet", image_shape=(1, 6, 6), num_classes=3)
    folder.write("model.safetensors", models.weights_bytes(model))
    request = open_certification(str(tmp_path / "grey"), {})
    assert request.split.image_shape == (1, 6, 6) and request.config.channels == 1


def test_a_limit_alone_is_spread_over_the_set(run):
    def chosen(**given):
        request = open_certification(run, given)
        same = open_prediction(run, given)
        np.testing.assert_array_equal(request.selected.indices, same.indices)
        return request.selected.indices.tolist(), request.config.is_spread

    assert chosen(limit=3) == ([0, 4, 8], True)
    assert chosen(limit=3, start=0) == ([0, 1, 2], False)
    assert chosen(limit=3, skip=2) == ([0, 2, 4], False)
    assert chosen() == (list(range(12)), False)
