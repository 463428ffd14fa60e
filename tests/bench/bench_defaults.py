"""What `rsray train` and `rsray tune` make of small sets of pictures with no options but the data.

    uv run python tests/bench/bench_defaults.py --data-root ../shared/data [--only cifar6] [--tune]

Four sets are made of real pictures, in a temporary folder, as folders of classes: six classes of
CIFAR-10 with 100 pictures each, 200 pictures of each MNIST digit, scikit-learn's digits in colour,
and 60 crops from one picture each of ten ImageNet classes. Each is trained on with the defaults, and
for the same epochs and draws with cross entropy on noisy pictures alone. Prints markdown: accuracy
on noisy training pictures, and of the smoothed classifier on (up to 150) test pictures with its
projected ACR (m = 128), beside the accuracy and the ACR of a network that always names one class.
With --tune a search too: its minutes, and the accuracy and ACR of the winner's certificates.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rsray import api
from rsray.data import open_split
from rsray.training.validation import project_acr

CLASSES_OF_CIFAR, PICTURES_OF_CIFAR, PICTURES_OF_MNIST = 6, 100, 200
CROPS, SIDE_OF_CROPS = 60, 32
TEST_PICTURES, DRAWS = 150, 128


def main():
    """Make the sets, train on them, and print the table."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        print(
            "| pictures | training | time | noisy accuracy | test accuracy | ACR |\n|" + "---|" * 6
        )
        for name in options.only or SETS:
            place = Path(folder) / name
            SETS[name](place / "data", options.data_root)
            _bench(name, place, tune=options.tune)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", action="append", choices=SETS)
    parser.add_argument("--tune", action="store_true", help="search too: minutes a set")
    return parser.parse_args()


def _bench(name, place, *, tune):
    asked = {"dataset": "imagefolder", "data_root": place / "data", "progress": False}
    test = open_split("imagefolder", "test", str(place / "data"))
    classes, radius = test.num_classes, 0.25 * 3.81
    _row(name, "always one class", 0, 1 / classes, 1 / classes, radius / classes)
    run, config = None, {}
    for what in ("the defaults", "cross entropy alone"):
        began = time.perf_counter()
        run = api.train(**asked, **config, out=place / what)
        seconds = time.perf_counter() - began
        found = _on_test(run, test)
        noisy = run.metrics["noisy_accuracy"].to_pylist()[-1]
        _row(name, what, seconds, noisy, found.accuracy, found.acr)
        same = ("epochs", "batch_size", "lr", "lr_drops", "model")
        config = {"objective": "gaussian", "num_draws": run.config.settings["num_draws"]}
        config |= {key: getattr(run.config, key) for key in same}
    if tune:
        began = time.perf_counter()
        study = api.tune(**asked, out=place / "tune")
        seconds, summary = time.perf_counter() - began, study.certification.summary
        noisy = study.best.metrics["noisy_accuracy"].to_pylist()[-1]
        _row(name, "`rsray tune`", seconds, noisy, summary["clean_accuracy"], summary["acr"])


def _row(name, what, seconds, noisy, accuracy, acr):
    print(
        f"| {name} | {what} | {seconds:.0f} s | {noisy:.1%} | {accuracy:.1%} | {acr:.3f} |",
        flush=True,
    )


def _on_test(run, test):
    """Return the projection on test pictures spread over the set."""
    chosen = np.linspace(0, len(test) - 1, min(len(test), TEST_PICTURES)).astype(int)
    return project_acr(
        run.model(),
        torch.from_numpy(test.images(chosen)),
        torch.from_numpy(test.labels[chosen]),
        sigma=run.config.sigma,
        precision="fp32",
        seed=0,
        num_draws=DRAWS,
    )


def _save(folder, pictures, labels, most=10**6):
    """Write pictures (arrays that PIL knows) into a folder for each label, `most` of each."""
    written = {}
    for picture, label in zip(pictures, labels, strict=True):
        place = folder / f"class-{label}"
        place.mkdir(parents=True, exist_ok=True)
        number = written[label] = written.get(label, -1) + 1
        if number < most:
            Image.fromarray(picture).save(place / f"{number:04d}.png")


def cifar6(folder, root):
    """Write six classes of CIFAR-10."""
    split = open_split("cifar10", "train", root)
    chosen = np.flatnonzero(split.labels[:2000] < CLASSES_OF_CIFAR)
    pictures = split.images(chosen).transpose(0, 2, 3, 1)
    _save(folder, pictures, split.labels[chosen].tolist(), PICTURES_OF_CIFAR)


def mnist(folder, root):
    """Write grey digits of MNIST."""
    split = open_split("mnist", "train", root)
    pictures = split.images(range(3000))[:, 0]
    _save(folder, pictures, split.labels[:3000].tolist(), PICTURES_OF_MNIST)


def digits(folder, root):
    """Write all of scikit-learn's digits, 8 x 8, each in a colour of its own."""
    splits = [open_split("digits", name) for name in ("train", "test")]
    grey = np.concatenate([split.images(range(len(split)))[:, 0] for split in splits])
    tints = np.random.default_rng(0).uniform(0.4, 1, (len(grey), 1, 1, 3))
    labels = np.concatenate([split.labels for split in splits])
    _save(folder, (grey[..., None] * tints).astype(np.uint8), labels.tolist())


def imagenet10(folder, root):
    """Write crops, resized, of a picture each of ten ImageNet classes."""
    draws = np.random.default_rng(0)
    for label, wnid in enumerate(sorted((Path(root) / "imagenet" / "val").iterdir())[::100]):
        picture = Image.open(next(wnid.iterdir())).convert("RGB")
        crops = [_crop(picture, draws) for _ in range(CROPS)]
        _save(folder, crops, [label] * CROPS)


def _crop(picture, draws):
    side = int(min(picture.size) * draws.uniform(0.5, 1))
    left, top = (draws.integers(0, size - side + 1) for size in picture.size)
    cut = picture.crop((left, top, left + side, top + side))
    return np.asarray(cut.resize((SIDE_OF_CROPS, SIDE_OF_CROPS)))


SETS = {"cifar6": cifar6, "mnist": mnist, "digits": digits, "imagenet10": imagenet10}

if __name__ == "__main__":
    main()
