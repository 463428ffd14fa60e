"""What is warned of where the evaluation is measured reaches whoever started the command."""

import logging
from types import SimpleNamespace

import ray

from rsray.certification.engine.evaluation import Evaluation
from rsray.distributed.capacity import Capacity, FleetSize
from rsray.distributed.certify import choose_evaluation as module


class OnAnotherMachine:
    """A task's log is not the driver's: there is only what the task returns."""

    def __init__(self, work):
        self.work = work

    def remote(self, *given):
        driver = [*logging.getLogger("rsray").handlers]
        found = self.work(*given)
        assert logging.getLogger("rsray").handlers == driver
        return found


def test_why_a_network_is_not_compiled_is_said_once_by_the_driver(monkeypatch, caplog):
    chosen = Evaluation("cuda", "bf16", "channels_last", 64)

    def measure(request, **how):
        log = logging.getLogger("rsray.certification.engine.evaluation")
        log.warning("the network is not compiled and runs as it is: %s", "no C compiler")
        log.info("not for the user")
        return chosen

    monkeypatch.setattr(module, "measure_evaluation", measure)
    monkeypatch.setattr(ray, "remote", lambda **resources: OnAnotherMachine)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    request = SimpleNamespace(_replace=lambda **changes: None)
    found = module.choose_evaluation(
        request, FleetSize(1, 1.0, 1.0), Capacity(((8.0, 1.0),), 8.0, 1.0)
    )
    assert found == chosen
    said = [r for r in caplog.records if r.name.endswith("choose_evaluation")]
    assert [r.getMessage() for r in said] == [
        "the network is not compiled and runs as it is: no C compiler"
    ]
