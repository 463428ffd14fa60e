"""`rsray data`: data sets made ready for a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rsray.data.convert import Converted

data = typer.Typer(no_args_is_help=True, help="Make data sets ready for a cluster.")


@data.callback()
def _group() -> None:
    """Make data sets ready for a cluster."""


@data.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Folder or URI of CLASS/image files, or of train/CLASS/... and val/ (or test/).",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="Folder or URI for the shards; the same again continues.", show_default=False
        ),
    ],
    shard_size: Annotated[
        int, typer.Option(help="Pictures per shard; one shard is held in memory.")
    ] = 2000,
) -> None:
    """Shard an ImageFolder into Parquet files, once: pictures byte for byte, with class names.

    The shards are read with --dataset parquet, and those of ImageNet with --dataset imagenet.
    Image i is the same in both. Shards that exist are complete and are not written again.

    Example: rsray data convert /data/imagenet --out s3://bucket/imagenet
    """
    from rsray.data.convert import convert as write_shards
    from rsray.screen import bars, say
    from rsray.storage import Place

    with bars() as shown:
        task = shown.add_task("convert", figures="listing the pictures", total=1.0)

        def show(done: Converted) -> None:
            figures = (
                f"{done.images:,}/{done.total:,} pictures  shard {done.shards:,}/"
                f"{done.total_shards:,}  {done.bytes / 2**20:,.0f} MiB"
            )
            shown.update(task, total=done.total, completed=done.images, figures=figures)

        folder = Place.of(out)
        done = write_shards(Place.of(source), folder, shard_images=shard_size, on_progress=show)
    print(out)
    say(
        f"{done.images:,} pictures in {done.shards:,} shards, {done.bytes / 2**20:,.1f} MiB written"
    )
    say(f"next: rsray certify RUN --dataset parquet --data-root {out}")
