"""`rsray data`: data sets made ready for a cluster."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote
from typing import TYPE_CHECKING

import typer

from rsray.config import Converting
from rsray.errors import UserError
from rsray.screen import bars, say, show
from rsray_cli.options import command, options_of

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from rsray.data.convert import Converted

data = typer.Typer(no_args_is_help=True, help="Make data sets ready for a cluster.")


@data.command()
@command(options_of(Converting))
def convert(source: str, out: str | None = None, **given: int) -> None:
    """Shard an ImageFolder into Parquet files, once: pictures byte for byte, with class names.

    The shards are read with --dataset parquet, and those of ImageNet with --dataset imagenet.
    Image i is the same in both. Shards that exist are complete and are not written again.

    Example: rsray data convert /data/imagenet --out s3://bucket/imagenet
    """
    from rsray.data.convert import convert as write_shards
    from rsray.storage import Place

    if out is None:
        raise UserError("give --out: a folder or URI for the shards")
    size = Converting.make({"source": source, "out": out, **given}).shard_size
    with bars() as shown:
        follow = _bar(shown)
        done = write_shards(Place.of(source), Place.of(out), shard_images=size, on_progress=follow)
    show(out)
    say(
        f"{done.images:,} pictures in {done.shards:,} shards, {done.bytes / 2**20:,.1f} MiB written"
    )
    say(f"next: rsray certify RUN --dataset parquet --data-root {quote(out)}")


def _bar(shown: Bars) -> Callable[[Converted], None]:
    """Return what shows how many pictures are done."""
    task = shown.add_task("convert", figures="listing the pictures", total=1.0)

    def show(done: Converted) -> None:
        figures = (
            f"{done.images:,}/{done.total:,} pictures  shard {done.shards:,}/"
            f"{done.total_shards:,}  {done.bytes / 2**20:,.0f} MiB"
        )
        shown.update(task, total=done.total, completed=done.images, figures=figures)

    return show
