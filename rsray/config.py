"""The settings of a run: each one's name, type, default, range and help text stand here, once.

The options of every command are made from these fields (cli/options.py), rsray's Python functions
(api.py) take them by name, and every result records them. What a run computes (`dataset`, `sigma`,
...) must be the same when it continues; where it runs (`workers`, `data_root`, ...) may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from rsray.core import NOISES
from rsray.core.bounds import BOUNDS, LEAST_ALPHA, check_settings
from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.family import choose
from rsray.given_values import inches, parse_assignments, radii, read_range, step_or_radii
from rsray.models import DENOISERS, MODELS, PAPERS_NAMES
from rsray.objectives import OBJECTIVES
from rsray.storage.address import absolute
from rsray.storage.records import first_problem, shortened

if TYPE_CHECKING:
    from rsray.objectives import Objective

COMPUTE, WHERE, WRITTEN = "What to compute", "Where it runs", "What is written"
LOGS = "What logs of other code do not say"
# Numbers beyond these are of no use to anybody, and wear out whatever counts with them.
MOST, MOST_PROCESSES, MOST_SEED, MOST_BLOCKS = 10**9, 100_000, 2**64 - 1, 100_000
LEAST_SIGMA, MOST_SIGMA = 1e-6, 1e3
# What a search may ask for -> what a look at a trial calls it.
TUNE_OBJECTIVES = {"acr": "projected_acr", "clean_accuracy": "clean_accuracy"}


@dataclass(frozen=True)
class Option:
    """How a setting is given on the command line; its help is the field's description."""

    panel: str = COMPUTE
    metavar: str | None = None
    # "--certify-limit", where it is not the field's own
    name: str | None = None
    # The option may be given several times
    repeated: bool = False
    # What is typed is read by the settings: 2-8 for a number of workers
    is_text: bool = False
    choices: Iterable[str] = ()
    # The default in words, where the field's own does not say it
    words: str | None = None


def setting(help: str, default: Any = ..., **how: Any) -> Any:
    """Return a pydantic field that is an option of commands.

    `how` holds the fields of Option and pydantic's limits (ge, lt, ...); a number with a lower
    limit alone is at most MOST.
    """
    if {"ge", "gt"} & set(how) and not {"le", "lt"} & set(how):
        how["le"] = MOST
    own = {each.name: how.pop(each.name) for each in fields(Option) if each.name in how}
    shown: Any = {"option": Option(**own)}
    return Field(default, description=help, json_schema_extra=shown, **how)


def member_of(family: Iterable[str], what: str) -> AfterValidator:
    """Return the check that a value names a member."""
    return AfterValidator(lambda name: choose(name, family, what))


def _network(name: str) -> str:
    """Return rsray's name of a network, or the user's own factory as it is."""
    every = [*MODELS, *DENOISERS]
    return name if ":" in name else choose(PAPERS_NAMES.get(name, name), every, "model")


def _networks(names: str) -> str:
    """Return the same of the networks of an ensemble, between plus signs."""
    return "+".join(map(_network, names.split("+")))


def _place(where: str | None) -> str | None:
    """Return where an earlier result lies, whole: workers may run in another folder."""
    return absolute(where) if where else where


BF16 = "bf16 where the hardware computes it"
_LISTED = BeforeValidator(lambda text: text.split(",") if isinstance(text, str) else text)
Positive = Annotated[int, Field(ge=1, le=MOST)]
NoiseName = Annotated[
    str,
    member_of(NOISES, "noise"),
    setting(
        "grid is exact: certificates hold in floating point; float is what others use.",
        choices=NOISES,
    ),
]
Precision = Literal["fp32", "bf16", "fp16"]
Compile = Literal["auto", "on", "off"]
# Settings that several commands share.
Dataset = Annotated[
    str, setting("Data set; the last three are your own.", choices=DATASETS, metavar="D")
]
DataRoot = Annotated[
    str | None,
    setting(
        "Where the data is: a folder or URI; R and R/DATASET are searched.",
        panel=WHERE, metavar="R", words="$RSRAY_DATA_ROOT, else ./data",
    ),
]  # fmt: skip
ImageSize = Annotated[
    int | None,
    setting("Side, for your own pictures of mixed sizes.", metavar="PIXELS", ge=1, le=2**14),
]
Channels = Annotated[
    int | None,
    setting(
        "Make your own pictures all grey (1) or all coloured (3).",
        metavar="1|3", words="3 where any is coloured",
    ),
]  # fmt: skip
LabelColumn = Annotated[
    str | None,
    setting(
        "Column, or field of the .json, that holds the classes of your own data.",
        metavar="NAME", words="label or labels",
    ),
]  # fmt: skip
# Settings of a training run that its objective needs to know.
SHARED_WITH_OBJECTIVES = ("sigma", "label_smoothing")
# How a data set is read: settings of whatever opens one.
READING = ("image_size", "channels", "label_column")
ModelArgs = Annotated[
    dict[str, Any],
    BeforeValidator(lambda given: given if isinstance(given, dict) else parse_assignments(given)),
    setting("For the factory of --model.", metavar="KEY=VALUE", repeated=True),
]
Sigma = Annotated[
    float,
    setting(
        "Noise standard deviation, pixels in [0, 1].", metavar="S", ge=LEAST_SIGMA, le=MOST_SIGMA
    ),
]
Draws = Annotated[int, setting("Estimation draws per image.", metavar="N", ge=1)]
Alpha = Annotated[
    float, setting("Probability that a certificate is wrong.", metavar="A", ge=LEAST_ALPHA, lt=1)
]
Bound = Annotated[
    str,
    member_of(BOUNDS, "bound"),
    setting(
        "tcertify bounds the runner-up too, for larger radii; randomized-clopper-pearson fails "
        "exactly with probability alpha, and its figures are not comparable with published ones; "
        "hoeffding and bernstein certify the SOFT smoothed classifier.",
        choices=BOUNDS,
    ),
]
Seed = Annotated[int, setting("Decides every random number.", ge=0, le=MOST_SEED)]
Gpus = Annotated[
    float | None,
    setting(
        "GPUs of each; may be a fraction.",
        panel=WHERE, metavar="G", words="1 where there are GPUs, else 0", ge=0, le=1024,
    ),
]  # fmt: skip


class Config(BaseModel):
    """What all configurations share: frozen, unknown keys refused, errors in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    where_fields: ClassVar[frozenset[str]] = frozenset()
    # None: as an earlier start chose; its record has as asked_... what it asked for in vain
    open_fields: ClassVar[frozenset[str]] = frozenset()
    # What a record that does not name it was made with
    unrecorded: ClassVar[dict[str, Any]] = {}

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """Return the validated configuration; UserError names the field, the value and the rule."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as problem:
            raise UserError(first_problem(problem)) from problem

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the settings that a record such as run.yaml holds; what else it holds is left out.

        Raises UserError as `make`.
        """
        known = {key: value for key, value in record.items() if key in cls.model_fields}
        return cls.make({**cls.unrecorded, **known})

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the result."""
        return self.model_dump(mode="json", exclude=set(self.where_fields))

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return "field is X here, Y there" for each deciding field that differs."""
        mine, other = self.identity(), {**self.unrecorded, **other}
        return [
            f"{key} is {mine.get(key)!r} now but was {other.get(key)!r}"
            for key in mine
            if key in other
            and mine.get(key) != other.get(key)
            and not (key in self.open_fields and mine[key] in (None, other.get(f"asked_{key}")))
        ]


class TrainConfig(Config):
    """One training run. `settings` holds the objective's own fields (trade_off, hinge, ...)."""

    where_fields: ClassVar[frozenset[str]] = frozenset({
        "workers", "most_workers", "gpus_per_worker", "data_root", "preset", "checkpoint_minutes",
        "init",
    })  # fmt: skip
    open_fields: ClassVar[frozenset[str]] = frozenset({"precision"})

    dataset: Dataset
    data_root: DataRoot = None
    image_size: ImageSize = None
    channels: Channels = None
    label_column: LabelColumn = None
    model: Annotated[str, AfterValidator(_network)] = setting(
        "Network, or package.module:factory of your own.",
        "lenet", choices=(*MODELS, *DENOISERS), metavar="M", words="the data set's",
    )  # fmt: skip
    model_args: ModelArgs = {}
    objective: Annotated[
        str, BeforeValidator(lambda name: choose(name, OBJECTIVES, "objective"))
    ] = setting("Training method.", "macer", choices=OBJECTIVES, metavar="O")
    sigma: Sigma = 0.25
    settings: dict[str, Any] = {}
    epochs: int = setting(
        "Passes over the data; learning-rate drops move in proportion.",
        10, metavar="E", words="the data set's or preset's", ge=1,
    )  # fmt: skip
    batch_size: int = setting(
        "Images per step, over all workers.",
        64, metavar="B", words="the data set's or preset's, mostly 64", ge=1,
    )  # fmt: skip
    lr: float = Field(0.01, gt=0, le=1e38, description="Learning rate at the start.")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="How weights are updated.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD; Adam's first beta.")
    weight_decay: float = Field(5e-4, ge=0, le=MOST, description="Added to the gradient.")
    lr_schedule: Literal["drops", "cosine"] = Field(
        "drops",
        description="How lr falls: at lr_drops, or along half a cosine to 0.",
    )
    lr_drops: Annotated[tuple[Positive, ...], _LISTED] = Field(
        (),
        description="Epochs (from 0) at whose start lr is multiplied by lr_decay; with a cosine, "
        "where an objective may change its weights.",
    )
    lr_decay: float = Field(0.1, gt=0, le=1, description="Factor of each learning-rate drop.")
    lr_warm_up: int = Field(
        0, ge=0, le=MOST, description="Epochs over which lr grows linearly before it falls."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target that all classes have in common."
    )
    augmentation: str | None = Field(
        None,
        description="none, affine (turned, sheared, scaled and shifted a little), crop-flip or "
        "random-resized-crop. None: the data set's own.",
    )
    validation: float = Field(0.0, ge=0, lt=1, description="Share of the training images held out.")
    limit: int | None = setting(
        "Train on this many images, drawn with the seed.", None, metavar="COUNT", ge=1
    )
    precision: Precision | None = setting("Of the network's arithmetic.", None, words=BF16)
    compile: Compile = setting(
        "torch.compile the network's training passes; auto: on GPUs, for 10,000 steps or more.",
        "off",
    )
    seed: Seed = 0
    workers: int = setting(
        "Ray Train workers; 2-8 grows and shrinks with the cluster.",
        1, panel=WHERE, metavar="W", is_text=True, ge=0, le=MOST_PROCESSES,
    )  # fmt: skip
    # elastic: up to so many while the cluster has room
    most_workers: Positive | None = None
    gpus_per_worker: Gpus = None
    checkpoint_minutes: float = setting(
        "Between checkpoints inside an epoch; 0: at its end alone. A notice that a spot machine "
        "goes makes one, too.",
        10.0, panel=WRITTEN, metavar="MINUTES", ge=0,
    )  # fmt: skip
    preset: str | None = setting("A paper's settings: see rsray presets.", None, metavar="NAME")
    init: Annotated[str | None, AfterValidator(_place)] = setting(
        "Start from the weights of this RUN of the same network, as one of gaussian; the objective "
        "then has no warm_up_epochs and is not deferred, unless you say so.",
        None, metavar="RUN",
    )  # fmt: skip

    @property
    def reading(self) -> dict[str, Any]:
        """How the data set is read, as arguments of open_split."""
        return {name: getattr(self, name) for name in READING}

    @model_validator(mode="before")
    @classmethod
    def _range_of_workers(cls, values: Any) -> Any:
        """Take `workers: 1-4` as workers 1, most_workers 4."""
        return read_range(values, "workers", 0)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.most_workers is not None and not 1 <= self.workers <= self.most_workers:
            raise ValueError(
                f"workers is {self.workers}-{self.most_workers}: must go from at least 1 upwards"
            )
        self.build_objective()
        return self

    def build_objective(self) -> Objective:
        """Return the objective with its settings; ValueError or UserError if it refuses them."""
        chosen = OBJECTIVES[self.objective]
        check_names(self.settings, objective_fields(self.objective), f"objective {self.objective}")
        try:
            shared = {name: getattr(self, name) for name in SHARED_WITH_OBJECTIVES}
            found = TypeAdapter(chosen).validate_python({**shared, **self.settings})
        except ValidationError as problem:
            raise UserError(f"objective {self.objective}: {first_problem(problem)}") from problem
        # A number may have been given as text, such as inf in a file.
        for key in self.settings:
            value = getattr(found, key)
            if isinstance(value, int | float) and not abs(value) <= MOST:
                raise UserError(
                    f"objective {self.objective}: {key} is {value}: it must be finite, and at "
                    f"most {MOST}"
                )
        return found

    @property
    def earlier_results(self) -> dict[str, str]:
        """The RUNs and CERTs that it learns from, by the names of the settings."""
        objective = self.build_objective()
        named = {name: getattr(objective, name) for name in objective.earlier_results}
        return {name: where for name, where in {"init": self.init, **named}.items() if where}

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the result; where earlier results lie does not."""
        return self._without_places(super().identity())

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return "field is X here, Y there" for each deciding field that differs."""
        return super().differences(self._without_places(other))

    def _without_places(self, values: Mapping[str, Any]) -> dict[str, Any]:
        settings = values.get("settings")
        if not isinstance(settings, Mapping):
            return dict(values)
        return {**values, "settings": _without_places(self.objective, settings)}

    def resolved(self) -> TrainConfig:
        """Return the configuration with every objective setting spelled out."""
        own = objective_fields(self.objective)
        full = {k: v for k, v in asdict(self.build_objective()).items() if k in own}
        return self.model_copy(update={"settings": full})

    def at_epochs(self, epochs: int) -> dict[str, Any]:
        """Return the flat settings that make this a run of so many epochs.

        What is counted in epochs (drops, warm-ups, how often images are weighed) moves in
        proportion.
        """
        settings = self.resolved().settings
        in_epochs = {name: settings.get(name) for name in ("warm_up_epochs", "reweigh_every")}
        return {
            "epochs": epochs,
            "lr_drops": scaled_drops(self.lr_drops, self.epochs, epochs),
            **{
                name: max(1, round(length * epochs / self.epochs))
                for name, length in {"lr_warm_up": self.lr_warm_up, **in_epochs}.items()
                if length
            },
        }


class CertifyConfig(Config):
    """One certification run: which images, how many draws, which bound."""

    where_fields: ClassVar[frozenset[str]] = frozenset({
        "actors", "most_actors", "gpus_per_actor", "data_root", "source", "reuse", "reuse_model",
        "denoiser", "compile", "classes", "image_shape", "data_fingerprint",
        "images_fingerprint",
    })  # fmt: skip
    open_fields: ClassVar[frozenset[str]] = frozenset({"precision"})
    unrecorded: ClassVar[dict[str, Any]] = {"noise": "float"}

    source: str = setting(
        "A RUN folder, or a checkpoint file; ensemble:RUN,RUN,... is the mean of their logits.",
        metavar="RUN|CHECKPOINT", name="source",
    )  # fmt: skip
    model_digest: str
    dataset: Dataset
    data_root: DataRoot = None
    image_size: ImageSize = None
    channels: Channels = None
    label_column: LabelColumn = None
    split: str = setting("Which images: test or train.", "test")
    model: Annotated[str, AfterValidator(_networks)] = setting(
        "Network, or package.module:factory of your own; of an ensemble one for all, or NAME+NAME.",
        choices=MODELS, metavar="M", words="the RUN's",
    )  # fmt: skip
    model_args: ModelArgs = {}
    normalisation: str | None = setting(
        "Before the network, where a checkpoint does not say it: dataset, imagenet, centre (mean "
        "alone), none, or MEAN/STD such as 0.5,0.5,0.5/0.25,0.25,0.25.",
        None, metavar="CHOICE", words="as the file says, else it is asked for",
    )  # fmt: skip
    denoiser: str | None = setting(
        "Before the network, which then need not have seen noise: a RUN of --objective denoise, or "
        "package.module:factory.",
        None, metavar="RUN|FACTORY",
    )  # fmt: skip
    num_classes: int = Field(ge=2, le=2**24)
    # Their names in order
    classes: tuple[str, ...] = ()
    # channels, height, width
    image_shape: tuple[int, int, int] | None = None
    # Of the data trained on
    data_fingerprint: dict[str, Any] = {}
    # Of the split that is certified: a run goes on with it alone, and objectives may learn from the
    # counts of training images.
    images_fingerprint: dict[str, Any] | None = None
    sigma: Sigma
    noise: NoiseName = "grid"
    n0: int = setting("Selection draws per image.", 100, metavar="N0", ge=1)
    n: Draws = 100_000
    alpha: Alpha = 0.001
    bound: Bound = "clopper-pearson"
    inverse_temperature: float = setting(
        "Of soft bounds: a draw's probabilities are softmax(BETA * logits).",
        1.0, metavar="BETA", gt=0,
    )  # fmt: skip
    sampling: Literal["fixed", "skip", "adaptive"] = setting(
        "fixed: n draws each; skip: none where the selection already misses the label (same ACR "
        "and curve); adaptive: as skip, and no more than --tolerance asks.",
        "fixed",
    )
    tolerance: float = setting(
        "Of adaptive: radius over sigma that an image is expected to lose, at most.",
        0.01, metavar="T", gt=0,
    )  # fmt: skip
    at_radius: Annotated[tuple[float, ...], BeforeValidator(radii)] = setting(
        "Only decide whether the radius is at least R, and stop an image's draws once that is "
        "known; several: 0.25,0.5. No ACR, a fraction of the draws.",
        (), metavar="R,...", repeated=True,
    )  # fmt: skip
    reuse: str | None = setting(
        "A finished certification of a network near this one: draws that both make on the same "
        "noise certify this one from its counts. n is then a tenth of CERT's unless it is given.",
        None, metavar="CERT",
    )  # fmt: skip
    reuse_model: str | None = setting(
        "Of --reuse: the network of CERT.", None, metavar="RUN|CHECKPOINT", words="as CERT says"
    )
    # What decides the counts of CERT
    reused_run: str | None = None
    block_size: int = setting(
        "Draws per stored block of counts.", 1_000, panel=WRITTEN, metavar="DRAWS", ge=1
    )
    start: int = setting("First test image.", 0, metavar="I", ge=0)
    skip: int = setting(
        "Take every K-th test image.", 1, metavar="K", words="the data set's own", ge=1
    )
    limit: int | None = setting(
        "This many images; spread evenly over the set unless --start or --skip is given.",
        None, metavar="COUNT", ge=1,
    )  # fmt: skip
    # Whether limit alone was given: spread over those that skip selects
    is_spread: bool = False
    seed: Seed = 0
    precision: Precision | None = setting(
        "Of the network's arithmetic.", "fp32", words=f"{BF16}, else fp16 on a GPU"
    )
    compile: Compile = setting(
        "torch.compile the network; auto: from minutes of work per actor on.", "auto", panel=WHERE
    )
    actors: int | None = setting(
        "Certification actors; 2-64 grows with the cluster.",
        None, panel=WHERE, metavar="A", is_text=True, words="one per GPU, or per CPU core",
        ge=1, le=MOST_PROCESSES,
    )  # fmt: skip
    # elastic: up to so many as the cluster grows
    most_actors: Positive | None = None
    gpus_per_actor: Gpus = None

    @model_validator(mode="before")
    @classmethod
    def _range_of_actors(cls, values: Any) -> Any:
        """Take `actors: 2-64` as actors 2, most_actors 64, and `auto` as None."""
        if isinstance(values, dict) and values.get("actors") == "auto":
            values = {**values, "actors": None}
        return read_range(values, "actors", 1)

    @model_validator(mode="after")
    def _can_certify(self) -> Self:
        check_settings(self.n, self.alpha, self.n0, self.bound)
        if self.n > MOST_BLOCKS * self.block_size:
            raise UserError(
                f"block_size is {self.block_size}: n {self.n} makes more than {MOST_BLOCKS} blocks "
                "an image; give a larger one"
            )
        if self.at_radius:
            self._can_answer()
        if self.reuse is not None:
            self._can_reuse()
        elif self.reuse_model is not None:
            raise UserError(f"reuse_model is {self.reuse_model}: it needs reuse, a CERT")
        return self

    def _can_reuse(self) -> None:
        """Raise UserError for settings with which counts cannot be used again."""
        default = type(self).model_fields["bound"].default
        if self.bound != default or self.sampling == "adaptive" or self.at_radius:
            raise UserError(
                f"reuse has a bound of its own: leave bound at {default} (it is {self.bound}), "
                f"choose sampling fixed or skip (it is {self.sampling}) and no at-radius"
            )

    def _can_answer(self) -> None:
        """Raise UserError for radii that no confidence sequence of n draws can answer."""
        default = type(self).model_fields["bound"].default
        if self.bound != default or self.sampling == "adaptive":
            raise UserError(
                "at-radius has a bound and a stopping rule of its own: leave bound at "
                f"{default} (it is {self.bound}) and choose sampling fixed or skip "
                f"(it is {self.sampling})"
            )
        from rsray.core.bounds.confidence_sequence import sequence_lower
        from rsray.core.radius import certified_radius, round_down

        top = float(certified_radius(sequence_lower(self.n, self.n, self.alpha), self.sigma))
        if max(self.at_radius) > top:
            raise UserError(
                f"at-radius {max(self.at_radius):g} cannot be reached: with sigma {self.sigma:g}, "
                f"n {self.n} and alpha {self.alpha:g} the largest radius is {round_down(top, 4)}"
            )

    @property
    def total_variation(self) -> float:
        """How far the noise of a draw may be from the exact Gaussian; it comes off p_A."""
        noise, shape = NOISES[self.noise], self.image_shape
        if shape is None and self.noise != "float":
            raise UserError("image_shape is missing: how exact the noise is depends on it")
        return float(noise.total_variation(self.sigma, shape or ()))

    @property
    def soft(self) -> bool:
        """Whether the certified classifier is the soft smoothed one."""
        return BOUNDS[self.bound].is_soft


class PredictConfig(Config):
    """How a class is predicted, beside the classifier and its images."""

    noise: NoiseName = "grid"
    n: Draws = 1_000
    alpha: float = setting(
        "Probability that a class is not the smoothed classifier's.",
        0.001, metavar="A", gt=0, lt=1,
    )  # fmt: skip
    out: str | None = setting(
        "Write the predictions here.", None, panel=WRITTEN, metavar="FILE.parquet"
    )


class RecertifyConfig(Config):
    """What changes when certificates are made again from stored counts; None: as it was."""

    cert: str = setting("A finished CERT folder.", metavar="CERT", name="cert")
    alpha: Alpha | None = None
    bound: Bound | None = None
    n: int | None = setting(
        "Draws per image: at most CERT's, in whole blocks.", None, metavar="N", ge=1
    )
    out: str | None = setting(
        "Folder or URI for the new CERT.",
        None, panel=WRITTEN, metavar="FOLDER", words="CERT with the changes added",
    )  # fmt: skip


class VerifyConfig(Config):
    """Which certificates are computed again."""

    certs: list[str] = setting(
        "Finished CERT folders.", metavar="CERT...", name="certs", min_length=1
    )


class ExportConfig(Config):
    """What of a RUN is written for others."""

    run: str = setting("The folder of rsray train.", metavar="RUN", name="run")
    cert: str | None = setting(
        "A finished CERT of this RUN: its figures go into the model card.", None, metavar="CERT"
    )
    onnx: bool = setting("Write model.onnx, too.", False, panel=WRITTEN, name="--onnx")
    out: str | None = setting(
        "A new or empty folder, or URI.",
        None, panel=WRITTEN, metavar="FOLDER", words="a new one in ./runs",
    )  # fmt: skip


class AuditConfig(Config):
    """Which blocks of a CERT are drawn again."""

    cert: str = setting("A finished CERT folder.", metavar="CERT", name="cert")
    blocks: int | None = setting("Draw this many blocks again.", None, metavar="B", ge=1)
    fraction: float | None = setting(
        "Draw this share of the blocks again.",
        None, metavar="F", words="0.01, at least 20 blocks", gt=0, le=1,
    )  # fmt: skip
    seed: int | None = setting(
        "Chooses the blocks. Whoever knows it beforehand knows which are checked.",
        None, metavar="NUMBER", words="one that nobody can guess; it is printed",
        ge=0, le=MOST_SEED,
    )  # fmt: skip
    precision: Precision | None = setting(
        "Of the network's arithmetic; another than CERT's is compared by a test.",
        None, words="CERT's",
    )  # fmt: skip

    @model_validator(mode="after")
    def _is_one_number(self) -> Self:
        if self.blocks is not None and self.fraction is not None:
            raise UserError("give blocks or fraction, not both")
        return self


class PlanConfig(Config):
    """What a forecast needs beside the settings of what is planned."""

    source: str | None = setting(
        "A RUN folder, or a checkpoint file; of a certification alone.",
        None, metavar="RUN|CHECKPOINT", name="source",
    )  # fmt: skip
    of: Literal["certify", "train", "tune"] = setting(
        "What to plan: train and tune take --dataset or --preset in place of a RUN.", "certify"
    )
    actors: int = setting(
        "Size of the fleet, in actors (or workers) like the one measured here.",
        1, panel=WHERE, metavar="A", ge=1, le=MOST_PROCESSES,
    )  # fmt: skip
    price: float | None = setting(
        "Dollars per actor and hour, such as a GPU's.", None, panel=WHERE, metavar="DOLLARS", ge=0
    )
    seconds: float = setting("How long to measure.", 10.0, panel=WHERE, gt=0)


class ReportConfig(Config):
    """How results are shown."""

    paths: list[str] = setting(
        "CERT or TUNE folders, certificates.parquet files, Cohen-format logs, MACER's .mat files, "
        "or folders full of them.",
        [], metavar="PATH...", name="paths",
    )  # fmt: skip
    format: Literal["table", "markdown", "latex", "csv"] = setting(
        "How to print it.", "table", panel=WRITTEN
    )
    plot: str | None = setting(
        "Draw results as .png, .svg or .pdf: what --plot-of says.",
        None, panel=WRITTEN, metavar="FILE",
    )  # fmt: skip
    plot_of: Literal["accuracy", "p-a", "classes", "draws", "training"] = setting(
        "Certified accuracy by radius; the distribution of p_A; ACR by class; ACR against draws; "
        "or, of RUN folders, loss and accuracy by epoch.",
        "accuracy", panel=WRITTEN,
    )  # fmt: skip
    html: str | None = setting(
        "Write one self-contained page: curves, tables, parameters.",
        None, panel=WRITTEN, metavar="FILE",
    )  # fmt: skip
    export_cohen: str | None = setting(
        "Write one result as a Cohen-format log, radii rounded down; as .csv with all digits.",
        None, panel=WRITTEN, metavar="FILE",
    )  # fmt: skip
    title: str = setting("Above table and plot.", "", panel=WRITTEN, metavar="TEXT")
    size: Annotated[tuple[float, float], BeforeValidator(inches)] | None = setting(
        "Of the plot, in inches, as 6x3.9.",
        None, panel=WRITTEN, metavar="WxH", is_text=True,
    )  # fmt: skip
    label: list[str] = setting(
        "What to call a result; once for each, in their order.",
        [], panel=WRITTEN, metavar="NAME", repeated=True,
    )  # fmt: skip
    common: bool = setting("Compare on the images that all results share.", False, name="--common")
    paired: bool = setting(
        "Compare each result with the first one, image by image: difference, interval, tests.",
        False, name="--paired",
    )  # fmt: skip
    by_class: bool = setting("Print a row for each class.", False, name="--by-class")
    published: str | None = setting(
        "Add the papers' figures for this data set, at the sigmas of the results.",
        None, metavar="D",
    )  # fmt: skip
    leaderboard: str | None = setting(
        "Make a page of all results in a folder, by data set and sigma, best first, with tests on "
        "the same images: --html, else leaderboard.html there.",
        None, metavar="FOLDER",
    )  # fmt: skip
    radii: Annotated[Any, BeforeValidator(step_or_radii)] = setting(
        "Step between the radii of the table, or the radii: 0,0.5,1.",
        0.25, metavar="STEP|LIST", is_text=True,
    )  # fmt: skip
    columns: Annotated[tuple[str, ...], _LISTED] = setting(
        "Columns in their order, as sigma,ACR,error,radii. Also clean, abstained, images, failed, "
        "n0, n, alpha, bound, noise, dataset, draws, seconds, audit.",
        (), metavar="LIST", is_text=True,
    )  # fmt: skip
    sort: str | None = setting(
        "Column to sort by, the largest first, as ACR or 0.50.", None, metavar="COLUMN"
    )
    log_sigma: float | None = setting("Of published logs.", None, panel=LOGS, metavar="S", gt=0)
    log_n: int | None = setting("Of published logs.", None, panel=LOGS, metavar="N", ge=1)
    log_alpha: float | None = setting(
        "Of published logs.", None, panel=LOGS, metavar="A", gt=0, lt=1
    )
    log_dataset: str | None = setting("Of published logs.", None, panel=LOGS, metavar="D")
    log_start: int | None = setting(
        "First image of MACER's .mat files.", None, panel=LOGS, metavar="I", ge=0
    )
    log_skip: int | None = setting(
        "Step between the images of MACER's .mat files.", None, panel=LOGS, metavar="K", ge=1
    )

    @model_validator(mode="after")
    def _shows_something(self) -> Self:
        if not (self.paths or self.published or self.leaderboard):
            raise UserError(
                "PATH is missing: give the results to show, or --published or --leaderboard"
            )
        if self.plot is None and (
            self.size is not None or self.plot_of not in ("accuracy", "training")
        ):
            raise UserError("plot-of and size are of a plot: give --plot FILE too")
        if self.plot_of == "training":
            self._shows_trainings()
        return self

    def _shows_trainings(self) -> None:
        """Raise UserError for what is of certificates: a RUN has none."""
        own = {"paths", "format", "plot", "plot_of", "title", "size", "label"}
        fields = type(self).model_fields
        others = [k for k in fields if k not in own and getattr(self, k) != fields[k].default]
        if others:
            name = others[0].replace("_", "-")
            raise UserError(f"--{name} is of certificates, and plot-of training shows RUNs")


class ShowConfig(Config):
    """Which certificate is explained."""

    cert: str = setting(
        "A CERT or TUNE folder, a certificates.parquet file, or a Cohen-format log.",
        metavar="CERT", name="cert",
    )  # fmt: skip
    index: int = setting("Of the image, in the split that was certified.", metavar="I", ge=0)
    png: str | None = setting(
        "Draw the image and noisy copies of it.", None, panel=WRITTEN, metavar="FILE"
    )
    data_root: DataRoot = None


class Running(Config):
    """What a command is told beside its settings; no part of any result."""

    set: list[str] = setting(
        "Any training or objective setting: lr, lr_drops, weight_decay, validation, trade_off, "
        "num_draws, ...",
        [], metavar="KEY=VALUE", repeated=True,
    )  # fmt: skip
    config: str | None = setting(
        "Settings from a YAML file, such as best.yaml; options override them.",
        None, metavar="FILE",
    )  # fmt: skip
    download: bool = setting(
        "Fetch a missing data set where torchvision can.", False, panel=WHERE, name="--download"
    )
    address: str | None = setting(
        "Ray cluster to run on.", None, panel=WHERE, words="$RAY_ADDRESS, else this machine"
    )
    cluster: str | None = setting(
        "Run there: a definition as in clusters/ (brought up if it is not), or the address of a "
        "Ray dashboard. Ctrl-C detaches; results come to --out.",
        None, panel=WHERE, metavar="YAML|URL",
    )  # fmt: skip
    down: bool = setting(
        "Of --cluster: take the cluster away at the end.", False, panel=WHERE, name="--down"
    )
    dry_run: bool = setting(
        "Say what would run where, and about how long; start and write nothing.",
        False, panel=WHERE, name="--dry-run",
    )  # fmt: skip
    out: str | None = setting(
        "Folder or URI for the results; the same again continues.",
        None, panel=WRITTEN, metavar="FOLDER", words="a new one in ./runs",
    )  # fmt: skip
    track: Literal["mlflow", "wandb"] | None = setting(
        "Tell an experiment tracker, too; its own variables say where it is "
        "(MLFLOW_TRACKING_URI, WANDB_MODE).",
        None, panel=WRITTEN,
    )  # fmt: skip


class Converting(Config):
    """How `rsray data convert` shards a folder of pictures."""

    source: str = setting(
        "Folder or URI of CLASS/image files, or of train/CLASS/... and val/ (or test/).",
        metavar="FOLDER", name="source",
    )  # fmt: skip
    out: str = setting(
        "Folder or URI for the shards; the same again continues.", panel=WRITTEN, metavar="FOLDER"
    )
    shard_size: int = setting(
        "Pictures per shard; one shard is held in memory.",
        2_000, panel=WRITTEN, metavar="PICTURES", ge=1,
    )  # fmt: skip


class Doctoring(Config):
    """What `rsray doctor` looks at."""

    ray: bool = setting("Start or reach Ray to check it.", True, panel=WHERE)


class Searching(Config):
    """What `rsray tune` is told beside the settings of the search."""

    sigma: list[str] = setting(
        "Noise standard deviation, pixels in [0, 1]; several (0.25,0.5) make one search each.",
        [], metavar="S,...", repeated=True,
    )  # fmt: skip
    grid: list[str] = setting(
        "Instead of a search, every combination of these values: trade_off=1,4,16.",
        [], metavar="KEY=V1,V2,...", repeated=True,
    )  # fmt: skip


class TuneConfig(Config):
    """A search: `train` is the setting to start from, `search` the SPEC of each key that varies."""

    where_fields: ClassVar[frozenset[str]] = frozenset(
        # trials: more go on where it ended, fewer end it with those that it has.
        {"concurrent", "data_root", "workers", "final", "compare", "trials"}
    )

    train: TrainConfig
    # Where the objective is searched: the flat settings that each other one starts from, over
    # those of `train`.
    starts: dict[str, dict[str, Any]] = {}
    search: dict[str, str] = setting(
        "What to vary: 'trade_off=log(1,32)', 'hinge=uniform(4,12)', 'num_draws=choice(4,8,16)', "
        "'epochs=int(2,8)'; 'objective=choice(macer,consistency)', and 'macer.hinge=...' in its "
        "trials alone.",
        metavar="KEY=SPEC", repeated=True, words="the objective's own",
    )  # fmt: skip
    sampler: Literal["tpe", "random", "grid"] = setting(
        "Who proposes: tpe is Optuna's, random is for comparison.", "tpe"
    )
    objectives: Annotated[tuple[str, ...], _LISTED] = setting(
        "acr, clean_accuracy or both (acr,clean_accuracy: a Pareto front, no trial stops early); "
        "the first decides who wins.",
        ("acr",), metavar="NAME,...",
    )  # fmt: skip
    trials: int = setting(
        "Settings to try; the first is the paper's, where there is one. The same --out with more "
        "goes on, with fewer it ends.",
        20, metavar="T", words="the data set's own; a grid's all", ge=1,
    )  # fmt: skip
    concurrent: int | None = setting(
        "Trials at a time.",
        None, panel=WHERE, metavar="C", words="what there is room for; tpe a quarter of all",
        ge=1, le=MOST_PROCESSES,
    )  # fmt: skip
    workers: int | None = setting(
        "Ray Train workers of a trial and of the winner.",
        None, panel=WHERE, metavar="W", words="1; on GPUs the data set's own",
        ge=1, le=MOST_PROCESSES,
    )  # fmt: skip
    trial_epochs: int | None = setting(
        "Epochs of a full trial, if fewer than the winner's.",
        None, metavar="E", words="--epochs, or the data set's share", ge=1,
    )  # fmt: skip
    validation: float = setting(
        "Share of the training images that trials are judged on.",
        0.15, metavar="SHARE", words="0.15, at most 2000 images", gt=0, lt=1,
    )  # fmt: skip
    # Per validation image, for the projected ACR
    num_draws: Positive = 256
    report_every: int = setting(
        "Epochs between looks at a trial, when it may be stopped.",
        2, metavar="E", words="an eighth of a trial; of digits and your own pictures a quarter",
        ge=1,
    )  # fmt: skip
    # ASHA keeps the best 1/reduction at each rung
    reduction: int = Field(3, ge=2, le=MOST)
    final: bool = setting("Train the winner on all training images, and certify it.", True)
    compare: bool = setting(
        "Train and certify the published setting too (where there is none, the one searched "
        "from), on the same images.",
        True, words="the data set's own",
    )  # fmt: skip
    n: int = setting(
        "Draws per test image of the winner's certificates.",
        100_000, metavar="N", words="the data set's own", ge=1,
    )  # fmt: skip
    skip: int = setting(
        "Certify every K-th test image.",
        1, metavar="K", words="the data set's own", ge=1,
    )  # fmt: skip
    limit: int | None = setting(
        "Certify this many test images, spread over those that --skip selects.",
        None, metavar="COUNT", name="--certify-limit", ge=1,
    )  # fmt: skip
    seed: int = Field(0, ge=0, le=MOST_SEED)

    @model_validator(mode="after")
    def _can_search(self) -> Self:
        check_settings(self.n, 0.001)
        for name in self.objectives:
            choose(name, TUNE_OBJECTIVES, "objectives:")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives is {list(self.objectives)}: name each once, at least one")
        if self.trial_epochs is not None and "epochs" in self.search:
            raise UserError(f"trial_epochs is {self.trial_epochs}, but the search varies epochs")
        if (self.trial_epochs or 1) > self.train.epochs:
            raise UserError(
                f"trial_epochs is {self.trial_epochs}: at most the winner's epochs, "
                f"{self.train.epochs}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the result; where data and earlier results lie does not."""
        starts = _starts_without_places(self.starts)
        return {**super().identity(), "train": self.train.identity(), "starts": starts}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return "field is X here, Y there" for each deciding field that differs."""
        rest = {key: value for key, value in other.items() if key != "train"}
        if isinstance(rest.get("starts"), Mapping):
            rest["starts"] = _starts_without_places(rest["starts"])
        train = other.get("train")
        if not isinstance(train, Mapping):
            return ["train is no setting of a training run there"]
        return [*super().differences(rest), *self.train.differences(train)]


def _starts_without_places(starts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the starts of a search without where the RUNs and CERTs lie that they learn from."""
    return {
        name: _without_places(name, start)
        if name in OBJECTIVES and isinstance(start, Mapping)
        else start
        for name, start in starts.items()
    }


def _without_places(objective: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an objective's settings without where the RUNs and CERTs lie that it learns from."""
    places = OBJECTIVES[objective].earlier_results
    return {key: value for key, value in settings.items() if key not in places}


def check_names(given: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """Raise UserError for the first name that is not allowed."""
    names = list(allowed)
    for key in given:
        choose(key, names, f"{what}: setting")


def objective_fields(objective: str) -> list[str]:
    """Return the names of an objective's own settings."""
    every = [field.name for field in fields(OBJECTIVES[objective])]
    return [name for name in every if name not in SHARED_WITH_OBJECTIVES]


def nest(flat: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return `base` overridden by flat keys: training fields at the top, the rest as settings.

    Settings of the base are kept only while the objective stays the same. Raises UserError for a
    key that neither training nor the objective knows.
    """
    values = dict(base or {})
    settings = values.get("settings", {})
    if not isinstance(settings, Mapping):
        raise UserError(f"settings is {shortened(settings)}: it must hold key: value pairs")
    settings = dict(settings)
    default = values.get("objective", TrainConfig.model_fields["objective"].default)
    objective = choose(flat.get("objective", default), OBJECTIVES, "objective")
    if objective != values.get("objective", objective):
        settings = {}
    own = objective_fields(objective)
    training = [name for name in TrainConfig.model_fields if name != "settings"]
    for key, value in flat.items():
        if key in training:
            values[key] = value
        elif key in own:
            settings[key] = value
        else:
            choose(key, [*training, *own], f"setting for objective {objective}:")
    return {**values, "objective": objective, "settings": settings}


def scaled_drops(drops: Iterable[int], old_epochs: int, new_epochs: int) -> tuple[int, ...]:
    """Return learning-rate drops moved in proportion when a schedule is shortened or stretched.

    Where there was one there is one, if the epochs allow it: objectives wait for the first.
    """
    moved = {round(drop * new_epochs / old_epochs) for drop in drops if drop < old_epochs}
    inside = {drop for drop in moved if 0 < drop < new_epochs}
    if not inside and new_epochs > 1:
        inside = {min(max(1, drop), new_epochs - 1) for drop in moved}
    return tuple(sorted(inside))
