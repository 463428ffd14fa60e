"""What every member of the family promises; a new objective is picked up from the dict."""

import dataclasses
import inspect

import pytest
import torch

import rsray.objectives as objectives
from rsray.errors import UserError

from .tiny import SIGMA, B, K, M, Tiny, companion_of, network_of, one_step

ALL = list(objectives.OBJECTIVES)
BASE = objectives.Objective
# The others need the network: their loss is no function of the logits alone.
OF_LOGITS = [name for name in ALL if objectives.OBJECTIVES[name].terms is not BASE.terms]


def make(name, **settings):
    return objectives.OBJECTIVES[name](**{"sigma": SIGMA, "num_draws": M, **settings})


def random_logits(scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, M, K, generator=generator) * scale
    return logits, torch.randint(0, K, (B,), generator=generator)


@pytest.mark.parametrize("name", ALL)
def test_step_gives_finite_losses_and_gradients(name):
    objective = make(name)
    network, companion = network_of(objective), companion_of(objective)
    result = one_step(objective, network, companion=companion, generator=torch.Generator())
    assert result.logits_BMK.shape == (B, M, K) and result.logits_BMK.dtype == torch.float32
    for term in (result.terms.classification_B, result.terms.robustness_B, result.terms.total_B):
        assert term.shape == (B,) and term.dtype == torch.float32
    result.terms.total_B.mean().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert network.out.weight.grad.abs().sum() > 0
    if companion is not None:
        assert all(parameter.grad is None for parameter in companion.parameters())


@pytest.mark.parametrize("name", ALL)
def test_step_leaves_the_network_as_it_was(name):
    objective = make(name)
    network = network_of(objective)
    network.out.bias.requires_grad_(False)
    network.norm.eval()
    one_step(objective, network, companion=companion_of(objective))
    assert network.training and network.drop.training and not network.norm.training
    flags = {name: p.requires_grad for name, p in network.named_parameters()}
    assert not flags.pop("out.bias") and all(flags.values())


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_loss(name):
    objective, losses = make(name), []
    for seed in (3, 3, 4):
        companion, generator = companion_of(objective), torch.Generator().manual_seed(seed)
        result = one_step(
            objective, network_of(objective), companion=companion, generator=generator
        )
        losses.append(result.terms.total_B.mean().item())
    assert losses[0] == losses[1]
    generator.manual_seed(5)
    other = one_step(objective, network_of(objective, 1), 9, generator=generator)
    assert other.terms.total_B.mean().item() != losses[0]


@pytest.mark.parametrize("name", ALL)
def test_network_may_be_any_callable(name):
    objective = make(name)
    network = network_of(objective).eval()
    result = one_step(objective, lambda images: network(images))
    assert result.terms.total_B.isfinite().all()


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, 1e4, 1e6])
def test_saturated_logits(name, scale):
    logits, labels = random_logits(scale)
    logits[0] = scale * torch.eye(K)[labels[0]]  # confidently right
    logits[1] = scale * torch.eye(K)[(labels[1] + 1) % K]  # confidently wrong
    logits.requires_grad_()
    loss = make(name).loss(logits, labels)
    loss.sum().backward()
    assert loss.shape == (B,) and loss.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", OF_LOGITS)
def test_order_of_images_and_draws_does_not_matter(name):
    logits, labels = random_logits(2.0)
    loss = make(name).loss(logits, labels)
    images, draws = torch.randperm(B), torch.randperm(M)
    torch.testing.assert_close(make(name).loss(logits[images], labels[images]), loss[images])
    torch.testing.assert_close(make(name).loss(logits[:, draws], labels), loss)


@pytest.mark.parametrize("name", ["gaussian", "macer", "adre", "consistency", "smoothadv"])
def test_without_trade_off_one_draw_is_cross_entropy(name):
    settings = {"consistency": {"entropy_weight": 0.0}}.get(name, {})
    fields = {field.name for field in dataclasses.fields(objectives.OBJECTIVES[name])}
    settings |= {"trade_off": 0.0} if "trade_off" in fields else {}
    logits, labels = random_logits(2.0)
    logits = logits[:, :1].expand(-1, M, -1)  # equal draws: mean of CE and CE of the mean agree
    expected = torch.nn.functional.cross_entropy(logits[:, 0], labels, reduction="none")
    torch.testing.assert_close(make(name, **settings).loss(logits, labels), expected)


@pytest.mark.parametrize("name", ALL)
def test_labels_are_smoothed_or_smoothing_is_refused(name):
    """The classification term becomes (1 - s) CE(label) + s mean over the classes of CE(class)."""
    if not objectives.OBJECTIVES[name].smooths_labels:
        with pytest.raises(ValueError, match="label_smoothing must be 0"):
            make(name, label_smoothing=0.1)
        return
    steps = [one_step(make(name, label_smoothing=share), Tiny().eval(), generator=torch.Generator())
             for share in (0.0, 0.5)]  # fmt: skip
    plain, smoothed = (step.terms.classification_B for step in steps)
    assert not torch.equal(plain, smoothed) and smoothed.isfinite().all()
    if name in OF_LOGITS:
        logits, _ = random_logits(2.0)
        of_class = torch.stack([
            make(name).terms(logits, torch.full((B,), label)).classification_B for label in range(K)
        ])  # fmt: skip
        for label in range(K):
            found = make(name, label_smoothing=0.1).terms(logits, torch.full((B,), label))
            expected = 0.9 * of_class[label] + 0.1 * of_class.mean(0)
            torch.testing.assert_close(found.classification_B, expected)


def test_only_two_have_no_labels_to_smooth():
    refusing = {name for name in ALL if not objectives.OBJECTIVES[name].smooths_labels}
    assert refusing == {"sodm", "denoise"}


@pytest.mark.parametrize("name", ["gaussian", "macer", "adre", "consistency", "smoothadv"])
def test_smoothed_cross_entropy_is_torchs(name):
    settings = {"consistency": {"entropy_weight": 0.0}}.get(name, {})
    logits, labels = random_logits(2.0)
    logits = logits[:, :1].expand(-1, M, -1)
    expected = torch.nn.functional.cross_entropy(
        logits[:, 0], labels, reduction="none", label_smoothing=0.1
    )
    found = make(name, label_smoothing=0.1, **settings).terms(logits, labels).classification_B
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ALL)
def test_frozen_and_keyword_only(name):
    objective = make(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.sigma = 1.0
    with pytest.raises(TypeError):
        type(objective)(0.25)
    assert hash(objective) == hash(make(name)) and objective == make(name)


@pytest.mark.parametrize("name", ALL)
def test_refuses_bad_numbers(name):
    for field in dataclasses.fields(objectives.OBJECTIVES[name]):
        if field.type in ("float", "int", "int | None"):
            with pytest.raises(ValueError, match=field.name):
                make(name, **{field.name: -1})


@pytest.mark.parametrize("name", ALL)
def test_schedules_settle_and_are_idempotent(name):
    objective = make(name)
    for epoch in (0, 5, 30, 100):
        now = objective.at_epoch(epoch, (30, 60))
        assert type(now) is type(objective) and now.at_epoch(epoch, (30, 60)) == now
    assert objective.at_epoch(59, ()) == objective


@pytest.mark.parametrize("name", ALL)
def test_no_device_synchronisation_in_the_source(name):
    source = inspect.getsource(inspect.getmodule(objectives.OBJECTIVES[name]))
    assert not any(
        word in source for word in (".item()", ".cpu()", ".tolist()", "nonzero", ".any()")
    )


def test_all_but_five_are_functions_of_the_logits():
    assert set(ALL) - set(OF_LOGITS) == {"stability", "smoothmix", "catrs", "catrs-self", "denoise"}


@pytest.mark.parametrize("name", ALL)
def test_says_what_each_setting_means(name):
    for field in dataclasses.fields(objectives.OBJECTIVES[name]):
        text = field.metadata["help"]
        assert len(text) > 10 and text.endswith("."), field.name


@pytest.mark.parametrize("name", ALL)
def test_searches_what_it_has(name):
    member = objectives.OBJECTIVES[name]
    fields = {field.name for field in dataclasses.fields(member)}
    assert member.search_space and set(member.search_space) <= fields | {"lr", "weight_decay"}


def test_unknown_name():
    assert objectives.OBJECTIVES["sodm"] is objectives.Sodm
    with pytest.raises(UserError, match="'maser'.*gaussian, macer"):
        objectives.OBJECTIVES["maser"]


def test_every_member_is_reached_by_the_name_of_its_class():
    assert {getattr(objectives, name) for name in objectives.OBJECTIVES.attributes()} == set(
        objectives.OBJECTIVES.values()
    )
    assert objectives.Objective in objectives.Macer.__mro__
    with pytest.raises(AttributeError, match="Maser"):
        objectives.Maser  # noqa: B018
