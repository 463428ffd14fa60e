"""Options that several commands share, so that they are worded once."""

from __future__ import annotations

from typing import Annotated

import typer

Dataset = Annotated[
    str | None,
    typer.Option(
        help="digits (embedded), mnist, svhn, cifar10, imagenet, mini-imagenet50, imagefolder, parquet or webdataset.",
        show_default=False,
    ),
]
DataRoot = Annotated[
    str | None,
    typer.Option(
        help="Where the data is: a folder or URI; R and R/DATASET are searched. (default: $RSRAY_DATA_ROOT or ./data)",
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels, for imagefolder, parquet and webdataset of mixed sizes.",
        show_default=False,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch a missing data set where torchvision can.")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="lenet, resnet20, resnet110, resnet50 or package.module:factory.", show_default=False
    ),
]
Sigma = Annotated[
    float | None,
    typer.Option(help="Noise standard deviation, in pixels of [0, 1].", show_default=False),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="fp32 or bf16. (default: bf16 where the hardware computes it)", show_default=False
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images per step, over all workers.", show_default=False),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(help="GPUs of one worker. (default: 1 where there are GPUs)", show_default=False),
]
TrainLimit = Annotated[
    int | None,
    typer.Option(help="Train on this many images, drawn with the seed.", show_default=False),
]
Split = Annotated[str, typer.Option(help="Which images: test or train.")]
N0 = Annotated[int, typer.Option(help="Selection draws per image.")]
N = Annotated[int, typer.Option(help="Estimation draws per image.")]
Alpha = Annotated[float, typer.Option(help="Probability that a certificate is wrong.")]
Seed = Annotated[int, typer.Option(help="Decides every random number.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to run on. (default: $RAY_ADDRESS, else an embedded Ray)",
        show_default=False,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="YAML|URL",
        help="Run there: a definition as in clusters/ (brought up if it is not) or the address of a Ray dashboard. The log is shown, Ctrl-C detaches, results come to --out.",
        show_default=False,
    ),
]
Down = Annotated[
    bool, typer.Option("--down", help="Of --cluster: take the cluster away at the end.")
]
Out = Annotated[
    str | None,
    typer.Option(
        help="Folder or URI for the results; the same folder again continues. (default: a new one in ./runs)",
        show_default=False,
    ),
]
Actors = Annotated[
    str | None,
    typer.Option(
        help="Certification actors, or auto: one per GPU, or per CPU core. A range such as 2-64 grows with the cluster.",
        show_default=False,
    ),
]
Compile = Annotated[
    str,
    typer.Option(
        help="auto, on or off: torch.compile the network; auto does for two minutes of work and more."
    ),
]
GpusPerActor = Annotated[
    float | None,
    typer.Option(
        help="GPUs of one actor; may be a fraction. (default: 1 where there are GPUs)",
        show_default=False,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        help="Of adaptive: the radius, over sigma, that an image may be expected to lose against n draws; judged by its n0 selection draws."
    ),
]
AtRadius = Annotated[
    list[str] | None,
    typer.Option(
        metavar="R",
        help="Only decide whether the radius is at least R, and stop an image's draws once that is known; several: 0.25,0.5 or the option again. No ACR, a fraction of the draws.",
        show_default=False,
    ),
]
Start = Annotated[int, typer.Option(help="First test image.")]
Skip = Annotated[
    int | None,
    typer.Option(help="Take every K-th test image. (default: 1; imagenet 100)", show_default=False),
]
Limit = Annotated[
    int | None, typer.Option(help="Take at most this many images.", show_default=False)
]


def given(**values: object) -> dict[str, object]:
    """Return the options that the user gave."""
    return {key: value for key, value in values.items() if value is not None}


def new_folder(command: str, *parts: object) -> str:
    """Return a name for a result in ./runs that is not taken."""
    from datetime import datetime

    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return "/".join(["runs", "-".join([command, *map(str, parts), stamp])])
