import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rsray
import rsray_cli
from rsray.data import DATASETS, absolute_root, open_split
from rsray.data.reading.download import download
from rsray.errors import UserError
from rsray.objectives import OBJECTIVES
from rsray.storage import Place


def test_specs_agree_with_their_names():
    names = "digits mnist fashion-mnist svhn cifar10 imagenet mini-imagenet50".split()
    names += "imagefolder parquet webdataset".split()
    assert list(DATASETS)[: len(names)] == names
    assert all(spec.name == name for name, spec in DATASETS.items())
    assert {name for name, spec in DATASETS.items() if spec.skip != 1} == {"imagenet"}
    assert DATASETS["imagenet"].skip == 100


def test_a_data_set_is_named_in_its_own_file_and_in_one_line_of_the_family():
    package = Path(rsray.__file__).parent
    found = {
        str(file.relative_to(package)): file.read_text().lower().count("fashion")
        for folder in (package, Path(rsray_cli.__file__).parent)
        for file in folder.rglob("*.py")
        if "fashion" in file.read_text().lower()
    }
    assert set(found) == {"data/fashion_mnist.py", "data/__init__.py"}


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean cifar10.*mini-imagenet50, imagefolder"):
        DATASETS["cifar"]
    with pytest.raises(UserError, match="no split 'val': allowed: train, test"):
        open_split("digits", "val")
    with pytest.raises(UserError, match="image size 64: mnist images are 28 pixels"):
        open_split("mnist", "test", image_size=64)


def test_names_are_listed_without_numpy_or_torch():
    code = "import sys; from rsray.data import DATASETS; from rsray.models import MODELS; "
    code += (
        "from rsray.objectives import OBJECTIVES; list(DATASETS), list(MODELS), list(OBJECTIVES)"
    )
    code += "; assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", DATASETS)
def test_facts_agree_with_each_other(name):
    spec = DATASETS[name]
    if spec.class_names is not None:
        assert len(set(spec.class_names)) == spec.num_classes
    if spec.statistics is not None:
        mean, std = spec.statistics
        assert len(mean) == len(std) == spec.image_shape[0]
    # One's own pictures start from a rule of their number and size (presets/own_pictures.py).
    training = spec.training
    assert not training or training["epochs"] > max(training["lr_drops"])
    assert bool(training) == (spec.image_shape is not None)
    assert set(spec.settings) <= set(OBJECTIVES)


@pytest.mark.parametrize("name", [name for name in DATASETS if not DATASETS[name].embedded])
def test_missing_says_where_and_how(name, tmp_path):
    with pytest.raises(UserError) as caught:
        open_split(name, "test", str(tmp_path))
    message = str(caught.value)
    assert str(tmp_path) in message and f"{tmp_path}/{name}/" in message and "\n" not in message
    assert ("--download" in message) == (name in ("mnist", "fashion-mnist", "svhn", "cifar10"))


def test_digits_are_scikit_learns():
    train, test = open_split("digits", "train"), open_split("digits", "test")
    assert (len(train), len(test)) == (1347, 450)
    assert train.class_names == test.class_names == tuple("0123456789")
    from sklearn.datasets import load_digits

    data = load_digits()
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), data.target)
    expected = [[round(v * 255 / 16) for v in row] for row in data.images[1350]]
    np.testing.assert_array_equal(test.images([3])[0, 0], expected)
    assert train.images([]).shape == (0, 1, 8, 8)
    with pytest.raises(IndexError):
        train.images([1347])


def test_pickle_is_small_and_reads_again():
    split = open_split("digits", "test")
    before = split.images([0, 5])
    data = pickle.dumps(split)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).images([0, 5]), before)


def test_root_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RSRAY_DATA_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="elsewhere/train-images"):
        open_split("mnist", "train")
    monkeypatch.delenv("RSRAY_DATA_ROOT")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/data/train-images"):
        open_split("mnist", "train")


def test_the_root_for_a_process_in_another_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSRAY_DATA_ROOT", raising=False)
    assert absolute_root("mnist", None) == f"{tmp_path}/data"
    monkeypatch.setenv("RSRAY_DATA_ROOT", "elsewhere")
    assert absolute_root("mnist", None) == f"{tmp_path}/elsewhere"
    assert absolute_root("mnist", "../x") == f"{tmp_path.parent}/x"
    uri = "s3://key:secret@bucket/data"
    assert absolute_root("mnist", uri) == uri, "as it is, with what opens it"
    assert absolute_root("digits", None) is None, "which come with a package"


def test_reading_needs_neither_torch_nor_ray():
    code = "import sys; from rsray.data import open_split; open_split('digits', 'test').images([0])"
    code += "; assert not {'torch', 'torchvision', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_download_moves_files_when_all_are_there(tmp_path):
    def fetch(folder):
        os.makedirs(f"{folder}/MNIST/raw")
        for name in ("a-ubyte", "a-ubyte.gz"):
            with open(f"{folder}/MNIST/raw/{name}", "w") as file:
                file.write("x")

    download("mnist", fetch, Place.of(str(tmp_path)))
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["mnist/MNIST/raw/a-ubyte"]


def test_failed_download_leaves_nothing_and_tells_why(tmp_path):
    def fetch(folder):
        open(f"{folder}/half", "w").close()
        raise RuntimeError("no route\nto host")

    with pytest.raises(UserError, match="mnist: the download failed: no route to host"):
        download("mnist", fetch, Place.of(str(tmp_path)))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
