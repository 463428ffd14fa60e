"""Batches sent beside the computing: with a made-up GPU whose copies are done when waited for."""

import contextlib
import threading

import pytest
import torch

import rsray.training.batches.feeds as feeds_module
from rsray.core import gpus
from rsray.training.batches import sending
from rsray.training.batches.sending import Sender, sent_ahead

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Lane:
    """A stream: copies given to it while it is current are done when its event is waited for."""

    def __init__(self, device=None):
        self.device, self.copies = device, []

    def record_event(self):
        due, self.copies = self.copies, []
        return due

    def wait_event(self, event):
        for target, source in event:
            target.copy_(source)


class MadeUpGpu:
    """CPU tensors that hold nothing until the computing stream has waited for their copy."""

    def __init__(self, monkeypatch):
        self.computing, self.here = Lane(), threading.local()
        self.kept_for, self.sending_threads = [], set()
        for name, twin in (
            ("Stream", Lane), ("stream", self.on), ("current_stream", lambda device: self.computing)
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, twin)
        monkeypatch.setattr(sending, "send", self.send)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda *both: self.keep(*both))

    @contextlib.contextmanager
    def on(self, stream):
        self.here.stream = stream
        yield
        self.here.stream = None

    def send(self, tensor, device):
        assert device == CUDA
        self.sending_threads.add(threading.current_thread().name)
        target = torch.full_like(tensor, 99)
        self.here.stream.copies.append((target, tensor))
        return target

    def keep(self, tensor, stream):
        assert stream is self.computing
        self.kept_for.append(tensor.data_ptr())


@pytest.fixture
def gpu(monkeypatch):
    return MadeUpGpu(monkeypatch)


def pairs(count):
    return [(torch.full((2, 1), i, dtype=torch.uint8), torch.tensor([i, i])) for i in range(count)]


def test_what_is_computed_waits_for_the_copy_and_keeps_its_memory(gpu):
    sender = Sender(CUDA)
    (pair,) = pairs(1)
    sent = sender.start(pair)
    assert int(sent[0][1][0]) == 99, "the copy is under way, and the process goes on"
    images, labels = sender.finish(sent)
    assert labels.tolist() == [0, 0] and images.flatten().tolist() == [0, 0]
    assert gpu.kept_for == [images.data_ptr(), labels.data_ptr()]
    assert sender.stream is not gpu.computing and sender.stream.device == CUDA


def test_the_next_pair_is_sent_by_a_thread_while_one_is_trained_on(gpu):
    asked, third = [], threading.Event()

    def read():
        for i, pair in enumerate(pairs(3)):
            asked.append(i)
            if i == 2:
                third.set()
            yield pair

    feed = sent_ahead(read(), CUDA)
    first, second = next(feed), next(feed)
    assert third.wait(10) and asked == [0, 1, 2]
    assert [int(labels[0]) for _, labels in (first, second, *feed)] == [0, 1, 2]
    assert all("next-batch" in name for name in gpu.sending_threads)


def test_a_run_on_the_made_up_gpu_ends_with_the_weights_of_one_without(lab, monkeypatch):
    monkeypatch.setattr(feeds_module, "IN_MEMORY_BYTES", 0)
    plain = lab.weights(lab.config(augmentation="none"))
    gpu, begin = MadeUpGpu(monkeypatch), sending.sent_ahead
    monkeypatch.setattr(feeds_module, "sent_ahead", lambda read, _: begin(read, CUDA))
    found = lab.weights(lab.config(augmentation="none"))
    # Two epochs of two batches.
    assert len(gpu.kept_for) == 2 * 4
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_a_cpu_has_no_streams(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", None)
    sent = list(sent_ahead(pairs(2), CPU))
    assert [int(labels[0]) for _, labels in sent] == [0, 1]
    assert gpus.send(sent[0][0], CPU) is sent[0][0], "and nothing is copied"
