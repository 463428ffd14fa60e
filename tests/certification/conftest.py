"""Small networks and a small run, counted in this process without Ray."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from rsray.certification.counts.gathering import gather
from rsray.certification.counts.item import count_item
from rsray.certification.counts.store import Selected
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.certification.folder import claim
from rsray.certification.work_items import owed_items
from rsray.config import CertifyConfig
from rsray.storage import Place

SHAPE, CLASSES = (1, 8, 8), 4


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny tensors: threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny():
    """Make a random network of images `shape` whose classes all occur."""

    def make(shape=SHAPE, classes=CLASSES, seed=0):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(shape[0], 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
            nn.Flatten(), nn.Linear(54, classes),
        )  # fmt: skip
        model[1].running_mean.uniform_(-0.3, 0.3)
        model[1].running_var.uniform_(0.3, 2.0)
        with torch.no_grad():
            model[5].weight.mul_(8)
            noise = torch.rand(200, *shape) + 0.3 * torch.randn(200, *shape)
            model[5].bias.sub_(model.eval()(noise).mean(0))  # no class dominates
        return model.eval()

    return make


@pytest.fixture(scope="session")
def images():
    """Twelve images uint8 [12, C, H, W]; the first half vary more than the second."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
    pixels[6:] //= 2
    return pixels


class SmallRun:
    """A certification of a few images in one process: what the fleet does, in a loop."""

    def __init__(self, where, model, images, **settings):
        values = {
            "source": "RUN", "model_digest": "d1", "dataset": "digits", "model": "lenet",
            "num_classes": CLASSES, "image_shape": SHAPE, "sigma": 0.3, "n0": 10, "n": 130, "alpha": 0.05,
            "block_size": 40, "start": 5, "skip": 7, "limit": 12,
        }  # fmt: skip
        self.config = CertifyConfig.make({**values, **settings})
        self.model, self.images, self.where = model, images, Place.of(where)
        self.evaluation = Evaluation("cpu", "fp32", "channels_last", 32, device_name="a chip")
        self.claimed = claim(self.where, self.config, self.evaluation)
        self.store = self.claimed.store
        self.earlier_model = None
        indices = np.arange(12) * 7 + 5
        self.selected = Selected(indices.astype(np.int64), self._labels())

    def _labels(self):
        """Mostly what the network says of the clean image, sometimes not."""
        with torch.no_grad():
            labels = self.model(torch.from_numpy(self.images) / 255).argmax(1).numpy().copy()
        labels[::4] = (labels[::4] + 1) % CLASSES
        return labels.astype(np.int64)

    def sampler(self, model=None):
        return Sampler(
            model or self.model, self.evaluation, image_shape=SHAPE, num_classes=CLASSES,
            sigma=self.config.sigma, seed=self.config.seed, noise=self.config.noise,
            inverse_temperature=self.config.inverse_temperature,
        )  # fmt: skip

    def gathered(self):
        return gather(self.store, self.selected, self.claimed.plan)

    def items(self, blocks_per_item=2):
        stored = self.gathered().stored_draws()
        return list(owed_items(self.selected, stored, blocks_per_item=blocks_per_item))

    def tables(self, items):
        """Do the items; yields the table of each."""
        sampler = self.sampler()
        earlier = self.sampler(self.earlier_model) if self.earlier_model else None
        for item in items:
            image = self.images[np.flatnonzero(self.selected.indices == item.index)[0]]
            yield count_item(sampler, image, item, self.claimed.plan, earlier)

    def count(self, items=None, per_part=9):
        """Do the items (default: all that are owed) and store their rows in parts."""
        tables = list(self.tables(self.items() if items is None else items))
        whole = pa.concat_tables([self.claimed.plan.counts_schema.empty_table(), *tables])
        for start in range(0, len(whole), per_part):
            self.store.append(whole.slice(start, per_part))
        return whole


@pytest.fixture(scope="session")
def small_run_at(tiny, images):
    def make(where, seed_of_model=0, **settings):
        return SmallRun(where, tiny(seed=seed_of_model), images, **settings)

    return make


@pytest.fixture
def small_run(tmp_path, small_run_at):
    return lambda name="cert", *seed, **settings: small_run_at(tmp_path / name, *seed, **settings)
