"""The random numbers of training: functions of (seed, epoch, step, position in the batch) alone.

What a global batch needs is drawn in shards of fixed size, or in the order of its images, so
several workers that split the batch draw the same numbers as one worker that takes it whole.
"""

# Shapes: B images of this worker's part of the batch, M noise draws per image, C H W an image.
from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

SHARD = 8  # images of the global batch that share a noise stream


def generator(device: torch.device, *key: int | str) -> torch.Generator:
    """Return a generator seeded by a hash of the key."""
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little"))


def generator_at(rows: range, *key: int | str) -> torch.Generator:
    """Return a CPU generator whose next uniform number belongs to the first of these rows.

    From it `torch.rand(len(rows))` is the slice `rows` of `torch.rand(whole batch)`.
    """
    stream = generator(torch.device("cpu"), *key)
    torch.rand(rows.start, generator=stream)  # the numbers of the images before
    return stream


def uniforms(rows: range, global_size: int, count: int, *key: int | str) -> Tensor:
    """Return `count` numbers in [0, 1) for each of these rows of a global batch [B, count]."""
    drawn = torch.rand((global_size, count), generator=generator(torch.device("cpu"), *key))
    return drawn[rows.start : rows.stop]


def permutation(num_images: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch visits the images [num_images] (int64, on the CPU)."""
    return torch.randperm(
        num_images, generator=generator(torch.device("cpu"), seed, "order", epoch)
    )


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "noise")


def batch_noise(
    rows: range,
    num_draws: int,
    image_shape: tuple[int, ...],
    sigma: float,
    key: tuple[int | str, ...],
    device: torch.device,
) -> Tensor:
    """Return N(0, sigma^2) noise [B, M, C, H, W] for rows of the batch that a key names.

    The key is (seed, epoch, step), and more for other noise than that of the training pass.
    The memory is channels-last.
    """
    channels, height, width = image_shape
    first = rows.start // SHARD
    shards = math.ceil(rows.stop / SHARD) - first
    flat = torch.empty((shards, SHARD * num_draws, height, width, channels), device=device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1

    def draw(shard: int) -> None:
        flat[shard].normal_(0.0, sigma, generator=generator(device, *key, first + shard))

    # torch fills a tensor of random numbers on one core.
    on_cores = _threads(threads).map if min(shards, threads) > 1 else map
    list(on_cores(draw, range(shards)))
    offset = (rows.start - first * SHARD) * num_draws
    mine = flat.flatten(0, 1)[offset : offset + len(rows) * num_draws]
    return mine.reshape(len(rows), num_draws, height, width, channels).permute(0, 1, 4, 2, 3)
