"""Code for a GPU run on a CPU: tensors that have a device, a shape and no values.

An operation on tensors of two devices raises, and so does what needs a value (`.item()`,
`bool(tensor)`, `nonzero`): on a GPU the process would wait there for all that it has asked for.
"""

import contextlib

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class NoTransfers(TorchDispatchMode):
    """Raises where a tensor comes back from the GPU, or is sent to it while the process waits."""

    def __init__(self):
        """Count the tensors that are sent."""
        super().__init__()
        self.sent = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        sources, targets = _devices((args, kwargs)), _devices(result)
        if sources and targets and sources | targets == {"cpu", CUDA.type}:
            is_sent = targets == {CUDA.type}
            assert is_sent, f"{operation} waits for the GPU"
            is_asynchronous = kwargs.get("non_blocking") or args[-1] is True
            # From other memory the driver copies first, and may wait for the GPU.
            is_pinned = getattr(args[0], "is_pinned_here", False)
            assert args[0].numel() == 0 or (is_asynchronous and is_pinned), (
                f"{operation} waits for a copy"
            )
            self.sent += 1
        return result


def _devices(tree):
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}


@contextlib.contextmanager
def fake_tensors():
    """Make all tensors of the block fake, those that exist already when they are used."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def pretend_gpu(monkeypatch):
    """Let modules of fake tensors move to a GPU that is not here, and memory be pinned.

    Half precision and its scaler look whether there is one, too.
    """

    def overwrite(module, function, recurse=True):
        for each in module.modules():
            for name, weight in each._parameters.items():
                if weight is not None:
                    moved = function(weight.detach())
                    each._parameters[name] = torch.nn.Parameter(moved, weight.requires_grad)
            for name, buffer in each._buffers.items():
                each._buffers[name] = None if buffer is None else function(buffer)
        return module

    monkeypatch.setattr(torch.nn.Module, "_apply", overwrite)

    def pin(tensor):
        pinned = tensor.clone()
        pinned.is_pinned_here = True
        return pinned

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


def on_cpu(make_generator):
    """Return a maker of generators that ignores the device: there is no GPU to make one on."""
    return lambda device, *key: make_generator(CPU, *key)
