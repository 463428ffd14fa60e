import gzip
import struct

import numpy as np
import pytest
from scipy.io import savemat

from rsray.data import fashion_mnist, mnist, open_split
from rsray.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, pixels=PIXELS, labels=LABELS, zipped=False, prefix="t10k"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        data, path = idx(array), folder / f"{prefix}-{name}-ubyte"
        if zipped:
            data, path = gzip.compress(data), path.with_name(path.name + ".gz")
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        *(("mnist", folder) for folder in ("", "raw", "mnist", "MNIST/raw", "mnist/MNIST/raw")),
        *(("fashion-mnist", folder) for folder in ("", "raw", "fashion-mnist/raw")),
        *(("fashion-mnist", f"{place}FashionMNIST/raw") for place in ("", "fashion-mnist/")),
    ],
)
def test_every_layout(tmp_path, name, folder, zipped):
    write(tmp_path / folder, zipped=zipped)
    for root in (str(tmp_path), tmp_path.as_uri()):
        split = open_split(name, "test", root)
        np.testing.assert_array_equal(split.labels, LABELS)
        np.testing.assert_array_equal(split.images([4, 0, 4])[:, 0], PIXELS[[4, 0, 4]])


def test_one_file_is_packed_and_the_other_is_not(tmp_path):
    write(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.with_name(labels.name + ".gz").write_bytes(gzip.compress(labels.read_bytes()))
    labels.unlink()
    assert open_split("fashion-mnist", "test", str(tmp_path)).labels.tolist() == LABELS.tolist()


def test_files_that_were_swapped(tmp_path):
    folder = write(tmp_path)
    images, labels = (folder / f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    data = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(data)
    with pytest.raises(UserError, match="labels-idx1-ubyte: not an idx file of bytes with 1 dim"):
        open_split("fashion-mnist", "test", str(tmp_path))
    write(tmp_path, np.zeros((60_000, 28, 28), np.uint8), (np.arange(60_000) % 10).astype(np.uint8))
    with pytest.raises(UserError, match="has 60,000 labels: it is of the training split"):
        open_split("fashion-mnist", "test", str(tmp_path))


def test_damaged_idx_files(tmp_path):
    folder = write(tmp_path)
    images = folder / "t10k-images-idx3-ubyte"
    whole = images.read_bytes()
    for data in (whole[:-1], whole + b"x", whole[:7], b"", b"<html>not found</html>"):
        images.write_bytes(data)
        with pytest.raises(UserError, match="t10k-images-idx3-ubyte: (truncated|not an idx)"):
            open_split("mnist", "test", str(tmp_path))
    images.unlink()
    images.with_name(images.name + ".gz").write_bytes(gzip.compress(whole)[:-9])
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.rename(folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match="gz: truncated or damaged"):
        open_split("mnist", "test", str(tmp_path))


def test_inconsistent_mnist(tmp_path):
    write(tmp_path, labels=LABELS[:4])
    with pytest.raises(UserError, match="5 images but 4 labels"):
        open_split("mnist", "test", str(tmp_path))
    write(tmp_path, labels=LABELS + np.uint8(1))
    with pytest.raises(UserError, match="image 4 has label 10; labels must be 0..9"):
        open_split("mnist", "test", str(tmp_path))
    write(tmp_path, pixels=PIXELS[:, :20])
    with pytest.raises(UserError, match="must be \\(1, 28, 28\\)"):
        open_split("mnist", "test", str(tmp_path))
    write(tmp_path, pixels=PIXELS[:0], labels=LABELS[:0])
    with pytest.raises(UserError, match="no images"):
        open_split("mnist", "test", str(tmp_path))


def test_real_mnist_is_torchvisions(shared_data):
    split = open_split("mnist", "test", shared_data)
    assert split.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (len(split), split.num_classes, split.image_shape) == (10_000, 10, (1, 28, 28))
    assert np.bincount(split.labels).tolist()[:3] == [980, 1135, 1032]
    train = open_split("mnist", "train", shared_data)
    assert len(train) == 60_000 and train.image_shape == (1, 28, 28)
    # The mean and deviation that everyone normalises MNIST with.
    pixels = train.images(np.arange(60_000)) / np.float32(255)
    assert pixels.mean() == pytest.approx(0.1307, abs=1e-4)
    assert pixels.std() == pytest.approx(0.3081, abs=1e-4)


def test_fashion_mnist_has_its_own_folder_and_names(tmp_path):
    write(tmp_path / "MNIST/raw", PIXELS[::-1].copy(), LABELS[::-1].copy())
    write(tmp_path / "FashionMNIST/raw")
    split = open_split("fashion-mnist", "test", str(tmp_path))
    assert split.labels.tolist() == LABELS.tolist()
    assert split.classes[0] == "T-shirt/top" and split.classes[9] == "Ankle boot"
    assert open_split("mnist", "test", str(tmp_path)).labels.tolist() == LABELS[::-1].tolist()


def starting(digits, number):
    """So many labels, as many of each class, with these first."""
    labels = (np.arange(number) % 10).astype(np.uint8)
    labels[: len(digits)] = list(map(int, digits))
    return labels


@pytest.mark.parametrize("module", [mnist, fashion_mnist])
def test_a_whole_split_of_another_set_is_refused_and_a_part_is_told(tmp_path, module, caplog):
    """As those of KMNIST, which has as many images of each class as Fashion-MNIST."""
    name = {mnist: "mnist", fashion_mnist: "fashion-mnist"}[module]
    other = {mnist: fashion_mnist, fashion_mnist: mnist}[module]
    blank, own = np.zeros((10_000, 28, 28), np.uint8), module.FIRST_LABELS["test"]
    for first in (other.FIRST_LABELS["test"], "29383"):
        write(tmp_path, blank, starting(first, 10_000))
        with pytest.raises(UserError, match=f"not of {name}: its labels begin {' '.join(first)}"):
            open_split(name, "test", str(tmp_path))
    write(tmp_path, blank, starting(own, 10_000))
    assert len(open_split(name, "test", str(tmp_path))) == 10_000 and not caplog.records
    write(tmp_path)
    split = open_split(name, "test", str(tmp_path))
    assert split.images([0]).any() and len(caplog.records) == 1
    words = f"is taken to be a part of {name}, but its labels begin 3 1 4 1 9, the published ones "
    assert words + " ".join(own) in caplog.text


def test_real_mnist_is_not_taken_for_fashion_mnist(shared_data):
    with pytest.raises(UserError, match="is not of fashion-mnist"):
        open_split("fashion-mnist", "train", f"{shared_data}/MNIST")


def test_svhn_like_torchvision(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), np.uint8)
    labels = np.array([[10], [1], [9], [10]], np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": labels})
    split = open_split("svhn", "test", str(tmp_path))
    assert split.labels.tolist() == [0, 1, 9, 0]
    np.testing.assert_array_equal(split.images([2])[0], pixels[..., 2].transpose(2, 0, 1))
    whole = (tmp_path / "test_32x32.mat").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"nothing"):
        (tmp_path / "test_32x32.mat").write_bytes(data)
        with pytest.raises(UserError, match="test_32x32.mat: truncated or damaged"):
            open_split("svhn", "test", str(tmp_path))
