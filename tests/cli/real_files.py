"""A RUN, a CERT and more, made as the commands make them, but in this process and without Ray."""

import io
import json
import tarfile

import numpy as np
import torch
from PIL import Image

from rsray.certification.checks.audit import Audit, write_audit
from rsray.certification.counts.gathering import gather
from rsray.certification.counts.item import count_item
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.certification.folder import PROGRESS, claim, finish
from rsray.certification.progress import Progress
from rsray.certification.request import open_certification
from rsray.certification.work_items import owed_items
from rsray.config import TuneConfig
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.search import StudySearcher
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.study import open_study, write_trials
from rsray.distributed.search.tuner import claim_tune
from rsray.presets import train_config
from rsray.results.certificates import read_certificates
from rsray.results.reading.cohen import write_log
from rsray.storage import Place
from rsray.storage.yaml_files import to_yaml
from rsray.training.loop import Training
from rsray.training.run_folder.run import claim_run, open_training_split

CPU = torch.device("cpu")
EVALUATION = Evaluation("cpu", "fp32", "channels_last", 32, device_name="a chip")
CERTIFIED = {"n0": 10, "n": 90, "block_size": 40, "alpha": 0.05, "skip": 90}
TRAINED = {"dataset": "digits", "objective": "gaussian", "epochs": 1, "precision": "fp32"}


def train_digits(folder, **settings):
    config = train_config({**TRAINED, "limit": 120, **settings})
    place = Place.of(folder)
    claim_run(place, config, open_training_split(config), CPU)
    Training(config, place, CPU).run_epochs()
    return folder


def certify_run(run, folder, **settings):
    """Count and certify as the fleet does, in a loop."""
    request = open_certification(str(run), {**CERTIFIED, **settings})
    config, source, split, selected, _ = request
    claimed = claim(Place.of(folder), config, EVALUATION)
    sampler = Sampler(
        source.build(split), EVALUATION, image_shape=split.image_shape,
        num_classes=split.num_classes, sigma=config.sigma, seed=config.seed, noise=config.noise,
        inverse_temperature=config.inverse_temperature,
    )  # fmt: skip
    progress = Progress(gather(claimed.store, selected, claimed.plan))
    stored = progress.gathered.stored_draws()
    for item in owed_items(selected, stored, blocks_per_item=claimed.plan.num_blocks):
        table = count_item(sampler, split.images(np.array([item.index]))[0], item, claimed.plan)
        claimed.store.append(table)
        progress.add(table)
    snapshot = progress.snapshot(0, 0.0)
    claimed.folder.write(PROGRESS, json.dumps(snapshot, indent=2).encode())
    finish(claimed, gather(claimed.store, selected, claimed.plan), seconds=2.0, failed={})
    audit = Audit(str(folder), 2, 12, 7, True, (), 2)
    write_audit(claimed.folder, audit, source.digest)
    write_log(
        claimed.folder / "log.tsv", read_certificates(claimed.folder / "certificates.parquet")
    )
    return folder


def search_digits(folder):
    """A search of three trials, as its study would be after them."""
    base = train_config({"dataset": "digits", "epochs": 4, "deferred": False})
    space = parse_space(["trade_off=log(0.5,32)"], "macer")
    settings = {"train": base, "search": space, "trials": 4, "report_every": 2, "n": 100}
    config, out = TuneConfig.make(settings), Place.of(folder)
    claim_tune(out, config)
    search = resolve_search(config)
    study = open_study(out, search)
    searcher = StudySearcher(search, study)
    for number in range(3):
        params, name = searcher.suggest(f"t{number}"), f"t{number}"
        told = {"look": 1, "epoch": 2, "epochs": 4, "clean_accuracy": 0.5}
        told["projected_acr"] = 0.1 + params["trade_off"] / 100
        searcher.on_trial_result(name, told)
        searcher.on_trial_complete(name, {**told, "look": 2, "epoch": 4})
    write_trials(out, study, search)
    out.write("best.yaml", to_yaml(base.model_dump(mode="json")))
    return folder


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


SAID = b'{"label": 0, "class_name": "c0", "width": 8}'


def write_shard(path, said):
    """A tar file of eight pictures; `said` is the .json of the first."""
    with tarfile.open(path, "w") as archive:
        for i in range(8):
            text = (
                said if i == 0 else json.dumps({"label": i % 4, "class_name": f"c{i % 4}"}).encode()
            )
            for name, content in ((f"s{i}.json", text), (f"s{i}.png", picture(i))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
