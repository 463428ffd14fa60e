"""Training on Ray Train: in this process for one local worker, in a worker group otherwise."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from rsray.config import TrainConfig
from rsray.core.hardware import available_cpus, dedicate_process
from rsray.data import ImageSplit
from rsray.distributed.session import quiet_logs, session
from rsray.distributed.train.group import train_in_groups
from rsray.distributed.train.training_run import TrainingRun
from rsray.distributed.train.worker import STEP_FILE, read_step
from rsray.errors import UserError
from rsray.storage import Place
from rsray.training.loop import Progress, Training
from rsray.training.run_folder.checkpoint import latest_position
from rsray.training.run_folder.metrics import read_metrics
from rsray.training.run_folder.run import claim_run, why_not_compiled

log = logging.getLogger(__name__)
FOLLOW_SECONDS = 1.0
OnProgress = Callable[[Progress], None]


def train(
    config: TrainConfig,
    place: Place,
    split: ImageSplit,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> bool:
    """Train a run to its end, from its last checkpoint; returns False if it was finished already.

    One worker without a cluster trains in this process (Ray Train's local mode: no start-up to
    pay). Several workers, a cluster, or images that do not stay in memory need a worker group,
    which trains data-parallel; a lost worker or node restarts it from the last checkpoint. Raises
    UserError when RUN, the place, belongs to another run.
    """
    run = TrainingRun.of(config, place, split, address)
    if claim_run(run.place, run.config, split, run.device):
        return False
    with place.locked():
        if run.is_here:
            _train_here(run, on_progress)
        else:
            with (
                session(address, dashboard=True, streams=run.is_streamed),
                _followed(run, on_progress),
            ):
                train_in_groups(run.on_cluster())
    return True


def _train_here(run: TrainingRun, on_progress: OnProgress) -> None:
    quiet_logs()
    from ray.train import ScalingConfig, report
    from ray.train.torch import TorchTrainer

    dedicate_process(available_cpus(), run.gpus)
    failure: list[BaseException] = []

    def train_and_keep_failure() -> None:
        try:
            training = Training(run.config, run.place, run.device, on_progress=on_progress)
            training.run_epochs(report)
        except BaseException as problem:
            failure.append(problem)
            raise

    try:
        TorchTrainer(train_and_keep_failure, scaling_config=ScalingConfig(num_workers=0)).fit()
    except Exception:
        silent = RuntimeError("Ray Train failed without saying why; see its log")
        raise failure[0] if failure else silent from None
    finally:
        # This process lives on, and actors want the memory.
        if run.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


@contextmanager
def _followed(run: TrainingRun, on_progress: OnProgress) -> Iterator[None]:
    """Show each epoch that the workers add to metrics.jsonl, and where they are within one."""
    # A line beyond the last checkpoint is of an epoch that is made again.
    stop, seen = threading.Event(), latest_position(run.place).epoch
    last, is_said = read_step(run.place), run.config.compile == "off"

    def show() -> None:
        nonlocal seen, last, is_said
        if not is_said and (why := why_not_compiled(run.place)):
            is_said = True
            log.warning("the network is not compiled and trains as it is: %s", why)
        for row in read_metrics(run.place)[seen:]:
            seen += 1
            on_progress(Progress(row["epoch"], run.config.epochs, 1, 1, row))
        step = read_step(run.place)
        if step is not None and step != last and step.epoch >= seen:
            last = step
            on_progress(step)

    def follow() -> None:
        while not stop.wait(FOLLOW_SECONDS):
            # Storage that cannot be read now: the next look shows it.
            with suppress(UserError):
                show()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(UserError):
            show()
            run.place.delete(STEP_FILE)
