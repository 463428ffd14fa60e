"""The networks as the papers have them, for the baselines of the benchmarks."""

import contextlib
import copy
import multiprocessing

import torch


class Apart:
    """A baseline in a process of its own, as its authors' script is: malloc's settings are ours.

    `make(*arguments)` is called there, and returns a function from seconds to draws per second.
    """

    def __init__(self, make, *arguments):
        context = multiprocessing.get_context("spawn")
        self.ours, theirs = context.Pipe()
        threads = torch.get_num_threads()
        self.process = context.Process(
            target=_serve, args=(theirs, threads, make, *arguments), daemon=True
        )
        self.process.start()
        self.ours.recv()

    def rate(self, seconds):
        """Return its draws per second over about so many seconds."""
        self.ours.send(seconds)
        return self.ours.recv()


def _serve(pipe, threads, make, *arguments):
    torch.set_num_threads(threads)
    rate = make(*arguments)
    pipe.send("ready")
    with contextlib.suppress(EOFError):  # the benchmark is over
        while True:
            pipe.send(rate(pipe.recv()))


def as_published(name, model):
    """Return a copy in the papers' order of layers: LeNet's ReLU comes before its pool."""
    model = copy.deepcopy(model)
    if name == "lenet":

        def forward(x):
            x = model.pool(model.relu(model.conv1(x)))
            x = model.pool(model.relu(model.conv2(x)))
            return model.fc2(model.relu(model.fc1(x.flatten(1))))

        model.forward = forward
    return model
