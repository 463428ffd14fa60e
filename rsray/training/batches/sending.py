"""Batches on their way to the device: got by a thread, and copied to a GPU beside its computing."""

# Shapes: B images of this worker's share of a batch, C H W an image.
from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from rsray.core.gpus import send

Pair = tuple[Tensor, Tensor]
# What ends the copy of a pair; None where nothing has to be waited for.
Sent = tuple[Pair, "torch.cuda.Event | None"]


class Sender:
    """Copies pairs to a device; to a GPU on a stream of its own, not behind what it computes."""

    def __init__(self, device: torch.device) -> None:
        """Open the stream."""
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, pair: Pair) -> Sent:
        """Begin to copy a pair of the CPU; any thread may."""
        images, labels = pair
        if self.stream is None:
            return (send(images, self.device), send(labels, self.device)), None
        with torch.cuda.stream(self.stream):
            sent = send(images, self.device), send(labels, self.device)
            return sent, self.stream.record_event()

    def finish(self, sent: Sent) -> Pair:
        """Return the pair on the device: what this thread computes with it begins after the copy.

        The process does not wait.
        """
        pair, copied = sent
        if copied is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_event(copied)
            for tensor in pair:
                # Its memory is the other stream's, which must not take it back before.
                tensor.record_stream(computing)
        return pair


def sent_ahead(pairs: Iterable[Pair], device: torch.device) -> Iterator[Pair]:
    """Yield (images uint8 [B, C, H, W], labels [B]) on the device, in their order.

    A thread gets the next pair and begins to copy it while the one before is trained on.
    """
    rest, sender = iter(pairs), Sender(device)

    def send_next() -> Sent | None:
        pair = next(rest, None)
        return None if pair is None else sender.start(pair)

    with ThreadPoolExecutor(1, "next-batch") as ahead:
        waiting = ahead.submit(send_next)
        while (sent := waiting.result()) is not None:
            waiting = ahead.submit(send_next)
            yield sender.finish(sent)
