"""Training passes that are compiled: when, that a run goes on as it began, and what runs if not."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from functorch.compile import make_boxed_func
from interrupted_runs import PowerCutError, same
from torch._dynamo.backends.common import aot_autograd
from torch.nn.parallel import DistributedDataParallel

from rsray.distributed.train.trainer import _followed
from rsray.errors import UserError
from rsray.storage.yaml_files import from_yaml
from rsray.training.compiled_network import CompiledNetwork, is_worth_compiling

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
COMPILE = torch.compile


def same_graph(graph, _):
    return make_boxed_func(graph)


def fail(graph, _):
    raise RuntimeError("no C compiler\nis here")


TRACED = aot_autograd(fw_compiler=same_graph, bw_compiler=same_graph)
NO_BACKWARD = aot_autograd(fw_compiler=same_graph, bw_compiler=fail)


@pytest.fixture
def compiler(monkeypatch):
    """Take another compiler than inductor, which takes its time; returns how."""

    def take(backend):
        torch._dynamo.reset()
        monkeypatch.setattr(torch, "compile", partial(COMPILE, backend=backend))

    take(TRACED)
    yield take
    torch._dynamo.reset()


def record(run):
    return from_yaml(run.read("run.yaml"), "run.yaml")


@pytest.mark.parametrize(
    ("compile", "steps", "device", "expected"),
    [
        ("on", 1, CPU, True), ("off", 10**6, CUDA, False), ("auto", 10**6, CPU, False),
        ("auto", 9_999, CUDA, False), ("auto", 10_000, CUDA, True),
    ],
)  # fmt: skip
def test_when_it_pays(compile, steps, device, expected):
    assert is_worth_compiling(compile, steps, device) is expected


def test_it_is_off_unless_asked_for(lab):
    run = lab.folder("run")
    training = lab.training(lab.config(), run)
    assert training.network.module is training.model and record(run)["compiled"] is False


@pytest.mark.parametrize(
    "method",
    [
        {"objective": "smoothmix", "num_steps": 1, "warm_up_epochs": 0},
        {"objective": "sodm", "num_draws": 2, "mapping_interval": 1, "mapping_draws": 2},
    ],
)
def test_a_compiled_run_goes_on_as_it_began(method, lab, compiler):
    config, run = lab.config(compile="on", limit=40, epochs=2, **method), lab.folder("run")
    whole = lab.weights(config)
    with pytest.raises(PowerCutError):
        lab.training(config, run).run_epochs(lambda row: (_ for _ in ()).throw(PowerCutError))
    resumed = lab.training(config, run)
    resumed.run_epochs()
    assert resumed.network.module.compiled is not None and record(run)["compiled"] is True
    assert same(resumed.model.state_dict(), whole)
    with pytest.raises(UserError, match="compile is 'off' now but was 'on'"):
        lab.training(config.model_copy(update={"compile": "off"}), run)


@pytest.mark.parametrize("backend", [fail, NO_BACKWARD])
def test_what_cannot_be_compiled_trains_as_it_is_with_one_line(backend, lab, compiler, caplog):
    compiler(backend)
    run, changes = lab.folder("run"), {"objective": "smoothmix", "limit": 40}
    training = lab.training(lab.config(compile="on", **changes), run)
    training.run_epochs()
    assert same(training.model.state_dict(), lab.weights(lab.config(**changes)))
    (line,) = [each.getMessage() for each in caplog.records if "compiled" in each.getMessage()]
    assert "trains as it is" in line and "no C compiler" in line and "\n" not in line
    found = record(run)
    assert found["compiled"] is False and "no C compiler" in found["why_not_compiled"]
    again = lab.training(lab.config(compile="on", **changes), run)
    assert again.network.module is again.model, "it goes on as it began"


def test_why_not_is_read_where_workers_are_started(lab, compiler, caplog):
    compiler(fail)
    run, config = lab.folder("run"), lab.config(compile="on", limit=40, epochs=1)
    lab.training(config, run).run_epochs()
    caplog.clear()
    with _followed(SimpleNamespace(place=run, config=config), lambda progress: None):
        threading.Event().wait(0.1)
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "no C compiler" in caplog.text


def test_workers_that_share_gradients_compile_what_they_wrap(compiler, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        shared = DistributedDataParallel(CompiledNetwork(model, print))
        images = torch.rand(4, 1, 4, 4)
        shared(images).square().sum().backward()
        found = [weight.grad.clone() for weight in model.parameters()]
        model.zero_grad()
        model(images).square().sum().backward()
        assert shared.module.compiled is not None
        assert all(map(torch.allclose, found, (weight.grad for weight in model.parameters())))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_inductors_code_trains_alike_and_goes_on_bit_for_bit(lab):
    config, run = lab.config(compile="on", limit=40, objective="smoothmix"), lab.folder("run")
    whole = lab.weights(config)
    with pytest.raises(PowerCutError):
        lab.training(config, run).run_epochs(lambda row: (_ for _ in ()).throw(PowerCutError))
    resumed = lab.training(config, run)
    resumed.run_epochs()
    if resumed.network.module.compiled is None:
        pytest.skip("this machine cannot compile")
    assert same(resumed.model.state_dict(), whole)
    plain = lab.weights(config.model_copy(update={"compile": "off"}))
    for name, value in plain.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-3, atol=1e-4)
