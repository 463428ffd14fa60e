"""A training run as its last checkpoint left it: its data, its network, and what updates it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rsray.config import TrainConfig
from rsray.core.hardware import HALF_TYPES, PRECISIONS, device_name, forbid_tf32, resolve_precision
from rsray.data import DATASETS
from rsray.models.heads import keep_heads_in_float32
from rsray.storage import Place
from rsray.training.batches.feeds import (
    BatchFeed,
    ImageSubset,
    OpenFeed,
    ReadAheadFeed,
    ResidentFeed,
    is_streamed,
    refuse_to_weigh_streamed,
)
from rsray.training.batches.reader import Reader
from rsray.training.batches.schedule import Schedule
from rsray.training.compiled_network import CompiledNetwork, is_worth_compiling
from rsray.training.earlier_run import companion_of, start_weights
from rsray.training.optimisation import lr_factor, make_optimiser
from rsray.training.run_folder.checkpoint import START, Position, latest_position, load_checkpoint
from rsray.training.run_folder.clock import CheckpointClock
from rsray.training.run_folder.run import (
    build_model,
    images_of,
    open_training_split,
    record_how_it_trains,
    recorded_compilation,
    recorded_group_size,
    recorded_precision,
)
from rsray.training.run_folder.writer import RunWriter
from rsray.training.step import AutocastNetwork, Stepper
from rsray.training.teacher import targets_of


@dataclass(frozen=True)
class Team:
    """The workers that share a run. The default is one worker alone."""

    rank: int = 0
    world: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    sum_over: Callable[[Tensor], Tensor] = lambda tensor: tensor
    # Of this machine; they share its memory.
    workers_here: int = 1


@dataclass(frozen=True)
class EpochPart:
    """What was done of an epoch before a checkpoint inside it."""

    first_step: int = 0
    # As of EpochSums; with the first worker alone.
    totals: Tensor | None = None
    seconds: float = 0.0


@dataclass
class OpenedRun:
    """One worker's training run, ready to go on; Training (loop.py) makes its steps."""

    config: TrainConfig
    # None writes nothing: a trial of a search.
    run: Place | None
    device: torch.device
    team: Team = field(default_factory=Team)
    # Makes the feed of a data set that is not kept in memory.
    open_feed: OpenFeed = ReadAheadFeed
    # Something new when machines will be taken away; the same to all workers.
    notice: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        """Open the data, build the model and the optimiser, and continue from a checkpoint."""
        config = self.config
        self._open_data()
        forbid_tf32()
        # The sizes of batches repeat: it pays to time what cuDNN can do. Not so in certification.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        self.precision, self.is_compiled = self._settle_computation()
        torch.manual_seed(config.seed % 2**63)
        self.model: nn.Module = build_model(config, self.split).to(
            self.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        start_weights(self.model, config, self.split)
        if self.precision in HALF_TYPES:
            keep_heads_in_float32(self.model)
        self.objective = config.build_objective()
        self.companion = companion_of(self.objective, self.split)
        self.targets_NK = targets_of(self.objective, self.split, self.held_in.indices)
        if self.companion is not None:
            self.companion = self.companion.to(self.device)
        self._make_optimisers()
        self.epoch, self.part = self._resume_from_checkpoint()
        self.network = AutocastNetwork(self.team.wrap(self._trained_module()), self.precision)
        self.stepper = Stepper(
            self.network, self.optimiser, scaler=self.scaler, world=self.team.world
        )
        if self.run is not None:
            self.stepper.group_size = recorded_group_size(self.run)
        # A CPU has no error for a lack of memory: the kernel kills the process.
        self.owes_fit = self.device.type == "cpu" and self.stepper.group_size is None
        self.feed = self._open_feed()
        # The first worker's, while it trains.
        self.writer: RunWriter | None = None
        self.clock = self._make_clock()

    def _open_data(self) -> None:
        """Open the images, those held out apart, and share them out among the workers."""
        config = self.config
        self.split = open_training_split(config)
        held_in, held_out = images_of(config, self.split)
        self.held_in = ImageSubset(self.split, held_in, self.device)
        self.held_out = ImageSubset(self.split, held_out, self.device)
        self.augmentation = config.augmentation or DATASETS[config.dataset].augmentation
        self.schedule = Schedule(
            len(self.held_in),
            config.batch_size,
            config.epochs,
            config.seed,
            self.team.rank,
            self.team.world,
        )

    def _make_clock(self) -> CheckpointClock | None:
        if self.run is None:
            return None
        return CheckpointClock(
            self.config.checkpoint_minutes,
            self.device,
            self.team.sum_over,
            is_first=self.team.rank == 0,
            notice=self.notice,
        )

    def _settle_computation(self) -> tuple[str, bool]:
        """Return the first worker's precision, and whether it compiles; run.yaml holds them.

        Both are as in an earlier start.
        """
        own: str | None = self.config.precision
        steps = self.config.epochs * math.ceil(len(self.held_in) / self.config.batch_size)
        compiles = is_worth_compiling(self.config.compile, steps, self.device)
        if self.run is None:
            return resolve_precision(own, self.device), compiles
        mine = [0, 0]
        if self.team.rank == 0:
            own = recorded_precision(self.run) if own is None else own
            earlier = recorded_compilation(self.run)
            chosen = PRECISIONS.index(resolve_precision(own, self.device))
            mine = [chosen, compiles if earlier is None else earlier]
        index, is_compiled = self.team.sum_over(torch.tensor(mine, device=self.device)).tolist()
        precision = PRECISIONS[index]
        self.config = self.config.model_copy(update={"precision": precision})
        if self.team.rank == 0:
            facts = {"precision": precision, "compiled": bool(is_compiled)}
            record_how_it_trains(self.run, **facts, device=device_name(self.device))
        return precision, bool(is_compiled)

    def _trained_module(self) -> nn.Module:
        """Return the model as training passes run it: compiled or as it is."""
        if not self.is_compiled:
            return self.model

        def record(why: str) -> None:
            if self.run is not None and self.team.rank == 0:
                record_how_it_trains(self.run, compiled=False, why_not_compiled=why)

        return CompiledNetwork(self.model, record)

    def _open_feed(self) -> BatchFeed:
        if not is_streamed(self.split, len(self.held_in), self.augmentation):
            return ResidentFeed(self.held_in)
        refuse_to_weigh_streamed(self.objective)
        return self.open_feed(self.held_in, Reader(self.split, self.augmentation, self.config.seed))

    def _make_optimisers(self) -> None:
        config = self.config
        self.optimiser = make_optimiser(config, self.model, self.device)
        is_scaled = self.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=is_scaled)
        self.optimisers = {"optimiser": self.optimiser}
        # A guide stays as it is.
        if self.companion is not None and self.objective.guide is None:
            companion_optimiser = make_optimiser(config, self.companion, self.device)
            self.optimisers["companion_optimiser"] = companion_optimiser
        self.schedules = {
            name: LambdaLR(optimiser, lambda epoch: lr_factor(config, epoch))
            for name, optimiser in self.optimisers.items()
        }

    def _resume_from_checkpoint(self) -> tuple[int, EpochPart]:
        """Continue from the newest checkpoint that the first worker sees; returns where it is."""
        if self.run is None:
            return 0, EpochPart()
        newest = latest_position(self.run) if self.team.rank == 0 else START
        seen = self.team.sum_over(torch.tensor(newest, device=self.device))
        position = Position(*seen.tolist())
        if position == START:
            return 0, EpochPart()
        state = load_checkpoint(self.run, position)
        for name, part in self._checkpointed().items():
            part.load_state_dict(state[name])
        if "image_weights" in state:
            weights_N = state["image_weights"].to(self.device)
            self.schedule = replace(self.schedule, weights_N=weights_N)
        if not position.step:
            return position.epoch, EpochPart()
        totals = state["totals"] if self.team.rank == 0 else None
        return position.epoch, EpochPart(position.step, totals, state["seconds"])

    def _checkpoint_state(self) -> dict[str, Any]:
        state = {name: part.state_dict() for name, part in self._checkpointed().items()}
        if self.schedule.weights_N is not None:
            state["image_weights"] = self.schedule.weights_N
        return state

    def _checkpointed(self) -> dict[str, Any]:
        """Return what has a state, by its name in a checkpoint."""
        parts: dict[str, Any] = {"model": self.model}
        if self.companion is not None:
            parts["companion"] = self.companion
        if self.scaler.is_enabled():
            parts["scaler"] = self.scaler
        for name, optimiser in self.optimisers.items():
            parts |= {name: optimiser, f"{name}_schedule": self.schedules[name]}
        return parts
