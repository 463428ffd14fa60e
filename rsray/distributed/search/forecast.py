"""About how long a search will take, said before it starts: measured steps times their number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rsray.config import CertifyConfig, PlanConfig
from rsray.core.gpus import usable_gpus
from rsray.core.hardware import default_device, device_name
from rsray.data import open_split, selected
from rsray.distributed.search.resolved_search import Search
from rsray.distributed.search.trial_resources import TrialPlan, plan_trials, settle_on_cluster
from rsray.distributed.session import extend_search_path, search_path
from rsray.progress import duration
from rsray.training.run_folder.run import open_training_split
from rsray.training.speed import Speed, measure_speed

# Processes and imports, before the trials and before the certification.
START_SECONDS = 15.0


class Forecast(NamedTuple):
    """Seconds of one trial that is not stopped, of all trials, and of what follows them."""

    trial: float
    trials: float
    finals: float

    def line(self, plan: TrialPlan, missing: int) -> str:
        """Return what to tell before the search starts."""
        rest = f", then {duration(self.finals)} to train and certify" if self.finals else ""
        return (
            f"about {duration(self.trials + self.finals)}: {missing} trials of up to "
            f"{duration(self.trial)}, {plan.concurrent} at a time{rest}"
        )


def forecast(search: Search, plan: TrialPlan, missing: int) -> Forecast:
    """Return how long `missing` trials and the finals take, from a second of training."""
    train, threads = search.trial({}), max(1, round(plan.cpus))
    # In this process on a single node without GPUs, else in a task.
    if len(search.nodes) == 1 and not search.gpus_per_worker:
        speed = measure_speed(train, torch.device("cpu"), threads)
    else:
        import ray

        gpus = min(search.gpus_per_worker, 1)
        task = ray.remote(num_cpus=plan.cpus, num_gpus=gpus)(_measure_there)
        speed = ray.get(task.remote(search, threads, search_path()))
    return forecast_from(search, plan, missing, speed, *_count_images(search))


@dataclass(frozen=True)
class SearchPlan:
    """How trials share the nodes of a fleet, and what the search takes."""

    search: Search
    settings: PlanConfig
    trials: TrialPlan
    forecast: Forecast
    device_name: str

    @property
    def hours(self) -> float:
        """Wall-clock hours with the fleet that was asked about."""
        return (self.forecast.trials + self.forecast.finals) / 3600

    @property
    def dollars(self) -> float | None:
        """The cost; None where no price was given."""
        price = self.settings.price
        return None if price is None else self.hours * self.settings.actors * price


def plan_search(
    search: Search, settings: PlanConfig, *, cores: float = 1.0, gpus: int = 1
) -> SearchPlan:
    """Return what a search takes on a fleet of nodes of so many GPUs each, or CPU cores.

    One is measured here, for about `settings.seconds`; Ray is not started.
    """
    has_gpus = search.config.train.gpus_per_worker != 0 and usable_gpus() > 0
    nodes = [{"CPU": cores, "GPU": float(gpus if has_gpus else 0)}] * settings.actors
    search = settle_on_cluster(search, nodes, None)
    trials, device = plan_trials(search, search.config.trials), _device(search)
    threads = max(1, round(trials.cpus))
    speed = measure_speed(search.trial({}), device, threads, settings.seconds)
    found = forecast_from(search, trials, search.config.trials, speed, *_count_images(search))
    return SearchPlan(search, settings, trials, found, device_name(device))


def _count_images(search: Search) -> tuple[int, int]:
    train = search.trial({})
    images = min(len(open_training_split(train)), train.limit or 2**62)
    return images, len(open_split(train.dataset, "test", train.data_root, **train.reading))


def forecast_from(
    search: Search, plan: TrialPlan, missing: int, speed: Speed, images: int, test_images: int
) -> Forecast:
    """Return the same for a worker of this speed and so many training and test images."""
    config, train = search.config, search.trial({})
    held_out = round(images * config.validation)
    draws = train.build_objective().num_draws
    looks = math.ceil(search.most_epochs / config.report_every)
    trial = (
        (images - held_out) * draws * search.most_epochs / speed.training
        + looks * held_out * config.num_draws / speed.forward
    ) / plan.workers
    trials = START_SECONDS + math.ceil(missing / plan.concurrent) * trial
    if not config.final:
        return Forecast(trial, trials, 0.0)
    training = images * draws * config.train.epochs / speed.training / plan.workers
    chosen = len(selected(test_images, 0, config.skip, config.limit))
    each = CertifyConfig.model_fields["n0"].default + config.n
    kind, size = "CPU", max(1.0, plan.cpus)
    if search.gpus_per_worker:
        kind, size = "GPU", search.gpus_per_worker
    # Workers of the measured kind that the cluster has room for.
    engines = max(1.0, sum(node[kind] for node in search.nodes) / size)
    certifying = chosen * each / speed.forward / engines
    # One machine counts without Ray.
    start = START_SECONDS if search.gpus_per_worker or len(search.nodes) > 1 else 0.0
    return Forecast(trial, trials, (1 + config.compare) * (training + certifying + start))


def _measure_there(search: Search, threads: int, path: tuple[str, ...]) -> Speed:
    extend_search_path(path)
    return measure_speed(search.trial({}), _device(search), threads)


def _device(search: Search) -> torch.device:
    return default_device() if search.gpus_per_worker else torch.device("cpu")
