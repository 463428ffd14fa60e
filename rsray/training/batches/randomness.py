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

# So many images of the global batch share a noise stream.
SHARD_IMAGES = 8


def key_seed(*key: int | str) -> int:
    """Return a seed that is a hash of the key."""
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seeded_generator(device: torch.device, *key: int | str) -> torch.Generator:
    """Return a generator seeded by a hash of the key."""
    return torch.Generator(device=device).manual_seed(key_seed(*key))


def generator_from_slot(slots: range, *key: int | str) -> torch.Generator:
    """Return a CPU generator whose next uniform number belongs to the first of these slots.

    From it `torch.rand(len(slots))` is the slice `slots` of `torch.rand(whole batch)`.
    """
    stream = seeded_generator(torch.device("cpu"), *key)
    # These numbers belong to the images before.
    torch.rand(slots.start, generator=stream)
    return stream


def draw_uniforms(slots: range, global_size: int, count: int, *key: int | str) -> Tensor:
    """Return `count` numbers in [0, 1) for each of these slots of a global batch [B, count]."""
    drawn = torch.rand((global_size, count), generator=seeded_generator(torch.device("cpu"), *key))
    return drawn[slots.start : slots.stop]


def epoch_order(num_images: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch visits the images [num_images] (int64, on the CPU)."""
    return torch.randperm(
        num_images, generator=seeded_generator(torch.device("cpu"), seed, "order", epoch)
    )


def weighted_order(weights_N: Tensor, seed: int, epoch: int) -> Tensor:
    """Return as many images as there are [N], drawn with replacement in proportion to weights."""
    stream = seeded_generator(torch.device("cpu"), seed, "weighted order", epoch)
    return torch.multinomial(weights_N.cpu(), len(weights_N), replacement=True, generator=stream)


def seed_torch(device: torch.device, *key: int | str) -> None:
    """Seed torch's own generators on the CPU and this device: dropout in users' models has them.

    torch.manual_seed takes a hundred times as long, for devices of every kind.
    """
    torch.default_generator.manual_seed(key_seed(*key))
    if device.type == "cuda":
        torch.cuda.manual_seed(key_seed(*key))


@cache
def _thread_pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "noise")


def draw_batch_noise(
    slots: range,
    num_draws: int,
    image_shape: tuple[int, ...],
    sigma: float,
    key: tuple[int | str, ...],
    device: torch.device,
) -> Tensor:
    """Return N(0, sigma^2) noise [B, M, C, H, W] for slots of the batch that a key names.

    The key is (seed, epoch, step), and more for other noise than that of the training pass.
    The memory is channels-last.
    """
    channels, height, width = image_shape
    first = slots.start // SHARD_IMAGES
    shards = math.ceil(slots.stop / SHARD_IMAGES) - first
    flat = torch.empty((shards, SHARD_IMAGES * num_draws, height, width, channels), device=device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1

    def draw(shard: int) -> None:
        flat[shard].normal_(0.0, sigma, generator=seeded_generator(device, *key, first + shard))

    # torch fills a tensor of random numbers on one core.
    on_cores = _thread_pool(threads).map if min(shards, threads) > 1 else map
    list(on_cores(draw, range(shards)))
    offset = (slots.start - first * SHARD_IMAGES) * num_draws
    mine = flat.flatten(0, 1)[offset : offset + len(slots) * num_draws]
    return mine.reshape(len(slots), num_draws, height, width, channels).permute(0, 1, 4, 2, 3)
