"""Training on a GPU, with tensors without values: devices agree, and nothing waits in the loop.

Where the process waits for the GPU, and may; everything else is under `NoTransfers` here:
- before an epoch: for the weights of images that were weighed (`easy`, every so many epochs);
- between steps: for the workers' clock, every five seconds (`CheckpointClock`), and for the figures
  of a checkpoint that is due;
- after an epoch: for its figures (`EpochSums.read`), the largest weight, and the checkpoint;
- after a look at held-out images: for the classes and how frequent they are.
"""

from types import SimpleNamespace

import pytest
import torch
from fake_devices import CUDA, NoTransfers, fake_tensors, on_cpu, pretend_gpu
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from rsray.objectives import OBJECTIVES
from rsray.presets import train_config
from rsray.training import opened_run, validation
from rsray.training.batches import randomness, sending
from rsray.training.batches.feeds import ReadAheadFeed
from rsray.training.loop import Training
from rsray.training.step import EpochSums


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Generators are on the CPU."""
    pretend_gpu(monkeypatch)
    made = on_cpu(randomness.seeded_generator)
    for module in (randomness, validation):
        monkeypatch.setattr(module, "seeded_generator", made)


@pytest.fixture(autouse=True)
def a_teacher(monkeypatch):
    """A teacher's targets for objectives that have one: nobody has counted here."""

    def targets_of(objective, split, indices):
        return None if objective.teacher is None else torch.full((len(indices), 10), 0.1)

    monkeypatch.setattr("rsray.training.opened_run.targets_of", targets_of)


def training(device, name="gaussian", **flat):
    settings = {
        "dataset": "digits", "objective": name, "batch_size": 8, "limit": 24, "validation": 0.3,
        "precision": "fp32", "augmentation": "crop-flip", "num_draws": 2, "epochs": 1,
    }  # fmt: skip
    return Training(train_config({**settings, **flat}), None, device)


# Settings with which three steps go through all that an objective does.
WHOLE = {
    "smoothadv": {"num_steps": 2},
    "adre-adv": {"num_steps": 2},
    "smoothadv+consistency": {"num_steps": 2},
    "easy": {"warm_up_epochs": 0, "num_steps": 2},
    "sodm": {"mapping_interval": 1, "mapping_draws": 4},
    "smoothmix": {"mix_step": 1},
}
MORE = [
    ("smoothadv", {"attack": "ddn", "num_steps": 2}),
    ("adre", {"classification_draws": 1, "label_smoothing": 0.1}),
    ("macer", {"precision": "bf16", "optimizer": "adam"}),
    ("macer", {"precision": "fp16"}),
    ("gaussian", {"precision": "fp16", "optimizer": "adam"}),
]
CASES = [*((name, WHOLE.get(name, {})) for name in OBJECTIVES), *MORE]


def without_gradients(monkeypatch):
    """Torch's engine asks a GPU that is not here for its streams: the gradients are zeros."""

    def grad(loss, leaf):
        return (torch.zeros_like(leaf),)

    def backward(loss):
        for weight in watched.parameters():
            weight.grad = torch.zeros_like(weight)

    watched = torch.nn.Module()
    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    return watched


@pytest.fixture
def updates(monkeypatch):
    """The devices of what each update of the weights by one kernel took, in place of it."""
    found = []

    def fused_update(weights, gradients, *_, **__):
        found.append({tensor.device for tensor in [*weights, *gradients]})

    for optimiser in ("_fused_sgd_", "_fused_adam_"):
        monkeypatch.setattr(torch, optimiser, fused_update)
    return found


def make_steps(here, watched):
    """Make the steps of an epoch in which warm-ups are over, and wait for their figures."""
    watched.model, watched.companion = here.model, here.companion
    assert next(here.model.parameters()).device == CUDA
    sums = EpochSums(CUDA)
    here.held_in.tensors()
    with NoTransfers():
        here._make_steps(here.objective.at_epoch(2, ()), sums)
    with pytest.raises(DataDependentOutputException):
        sums.read()


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_an_epoch_of_every_objective_waits_for_nothing(name, settings, monkeypatch, updates):
    watched = without_gradients(monkeypatch)
    with fake_tensors():
        here = training(CUDA, name, epochs=3, **settings)
        make_steps(here, watched)
    own_network = name == "sodm"
    assert updates == [{CUDA}] * 3 * (1 + own_network)


def test_a_denoiser_learns_from_its_classifier_without_waiting(monkeypatch, updates):
    watched = without_gradients(monkeypatch)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    monkeypatch.setattr(opened_run, "companion_of", lambda objective, split: classifier)
    with fake_tensors():
        here = training(CUDA, "denoise", epochs=3, classifier="RUN")
        assert here.companion is classifier and classifier[1].weight.device == CUDA
        make_steps(here, watched)
    assert updates == [{CUDA}] * 3, "the classifier stays as it is"


def test_streamed_batches_are_sent_without_waiting(monkeypatch, updates):
    watched, stream = without_gradients(monkeypatch), SimpleNamespace(wait_event=lambda event: None)
    monkeypatch.setattr(opened_run, "is_streamed", lambda *_: True)
    monkeypatch.setattr(ReadAheadFeed, "_read", fake_pair)
    # Modes of torch are of one thread.
    monkeypatch.setattr(sending, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    with fake_tensors():
        here = training(CUDA, epochs=3)
        assert isinstance(here.feed, ReadAheadFeed)
        make_steps(here, watched)
    assert updates == [{CUDA}] * 3


def fake_pair(feed, share):
    size = len(share.slots)
    return torch.zeros((size, 1, 8, 8), dtype=torch.uint8), torch.zeros(size, dtype=torch.int64)


class AtOnce:
    """Does in this thread what is submitted."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, work):
        done = work()
        return SimpleNamespace(result=lambda: done)


def test_images_are_weighed_on_the_gpu(monkeypatch):
    with fake_tensors():
        here = training(CUDA, "easy", epochs=3, warm_up_epochs=0, reweigh_every=1)
        _, labels = here.held_in.tensors()

        def count_right(num_draws):
            with NoTransfers():
                return here._count_right(num_draws)

        for before_N in (None, torch.ones(len(labels), device=CUDA)):
            weights_N = here.objective.image_weights(1, before_N, count_right)
            assert weights_N.device == CUDA and weights_N.shape == labels.shape


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_gradients_of_every_objective_are_on_one_device(name, settings, monkeypatch):
    # The meta device is no CPU either, and has gradients.
    meta = torch.device("meta")
    with fake_tensors():
        here = training(meta, name, **{**settings, "precision": "fp32"})
        here._make_steps(here.objective.at_epoch(2, ()), EpochSums(meta))
        assert all(weight.grad.device == meta for weight in here.model.parameters())


def test_a_look_at_held_out_images_waits_at_its_end(monkeypatch):
    looks = []
    classes = validation._classes
    with fake_tensors():
        here = training(CUDA)
        here.held_out.tensors()

        def look(*arguments):
            with NoTransfers():
                looks.append(classes(*arguments))
            return looks[-1]

        monkeypatch.setattr(validation, "_classes", look)
        with pytest.raises(Exception, match="numpy|FakeTensor"):
            here.project_acr(16)
    assert [found.device for found in looks] == [CUDA]
