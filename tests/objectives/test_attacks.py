import pytest
import torch

import rsray.objectives as objectives
from rsray.objectives.attacks.steps import ascend, ddn, direction, frozen, pgd, with_noise
from rsray.objectives.probabilities import log_mean_softmax, of_label

from .tiny import SHAPE, SIGMA, B, K, M, Tiny, batch


def nll(logits, labels):
    return -of_label(log_mean_softmax(logits), labels)


def norms(delta):
    return delta.flatten(1).norm(dim=1)


@pytest.mark.parametrize("attack", [pgd, ddn])
@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0])
def test_stays_in_the_ball_and_the_box_and_raises_the_loss(attack, epsilon):
    network = Tiny().eval()
    images, _, noise = batch()
    images[0], images[1] = 0.0, 1.0
    logits_of = with_noise(network, noise)
    labels = log_mean_softmax(logits_of(images)).argmax(-1)  # all right at first
    before = noise.clone()
    moved = attack(logits_of, nll, images, labels, epsilon=epsilon, num_steps=8)
    assert torch.equal(noise, before) and not moved.requires_grad
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    assert (norms(moved - images) <= epsilon * (1 + 1e-5)).all()
    assert (nll(logits_of(moved), labels) > nll(logits_of(images), labels)).all()


def test_ascend_has_no_ball_but_a_box():
    network = Tiny().eval()
    images, labels, noise = batch()
    logits_of = with_noise(network, noise)
    moved = ascend(logits_of, nll, images, labels, step_size=0.5, num_steps=6)
    assert moved.min() >= 0 and moved.max() <= 1
    assert nll(logits_of(moved), labels).mean() > nll(logits_of(images), labels).mean()
    small = ascend(logits_of, nll, images * 0 + 0.5, labels, step_size=0.1, num_steps=1)
    torch.testing.assert_close(norms(small - 0.5), torch.full((B,), 0.1))


def test_pgd_on_a_linear_network_goes_straight_to_the_surface():
    torch.manual_seed(0)
    weights = torch.randn(2, 16)
    images = torch.full((3, *SHAPE), 0.5)
    labels = torch.tensor([0, 1, 0])
    logits_of = with_noise(lambda x: x.flatten(1) @ weights.T, torch.zeros(3, 1, *SHAPE))
    moved = pgd(logits_of, nll, images, labels, epsilon=0.3, num_steps=4)
    towards = (weights[1 - labels] - weights[labels]).reshape(3, *SHAPE)
    expected = images + 0.3 * towards / norms(towards)[:, None, None, None]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_ddn_returns_a_smaller_change_than_pgd_where_both_fool():
    weights = torch.zeros(2, 16)
    weights[0, 0], weights[1, 0] = -1.0, 1.0  # class 1 where pixel 0 > 0.5 after the shift below
    network = lambda x: (x.flatten(1) - 0.5) @ weights.T  # noqa: E731
    images = torch.full((1, *SHAPE), 0.45)
    images[..., 0, 0] = 0.45
    labels = torch.tensor([0])
    noise = torch.zeros(1, 1, *SHAPE)
    arguments = {"epsilon": 0.4, "num_steps": 40}
    far = pgd(with_noise(network, noise), nll, images, labels, **arguments)
    near = ddn(with_noise(network, noise), nll, images, labels, **arguments)
    assert norms(far - images) > 0.39
    assert 0.05 < norms(near - images) < 0.1  # the boundary is 0.05 away
    assert network(near).argmax() == 1


@pytest.mark.parametrize("attack", [pgd, ddn])
def test_zero_and_tiny_gradients(attack):
    images, labels, noise = batch()
    flat = attack(
        with_noise(lambda x: x.flatten(1)[:, :K] * 0, noise), nll, images, labels,
        epsilon=0.5, num_steps=3,
    )  # fmt: skip
    torch.testing.assert_close(flat, images)
    sure_of_0 = 60 * torch.eye(K)[0]  # the gradient is about e^-60, its square is no float32
    confident = with_noise(lambda x: x.flatten(1)[:, :K] + sure_of_0, noise)
    moved = attack(confident, nll, images, torch.zeros_like(labels), epsilon=0.5, num_steps=3)
    assert moved.isfinite().all() and (norms(moved - images) > 0).all()


def test_attacks_move_confident_images_in_float16_too():
    """Their gradients, of 1e-8 here, would be 0 there; in float32 no bit of a direction changes."""
    images_BCHW, labels_B = torch.full((B, *SHAPE), 0.5), torch.zeros(B, dtype=torch.int64)

    def logits_of(dtype):
        def forward(images):
            features_B = images.flatten(1).sum(1).to(dtype) * 1e-4
            margin_B = 9.2 + features_B.float()
            return torch.stack([margin_B, torch.zeros_like(margin_B)], 1)[:, None]

        return forward

    def loss_of(logits_BMK, labels_B):
        return -of_label(log_mean_softmax(logits_BMK), labels_B)

    exact, half = (
        pgd(logits_of(dtype), loss_of, images_BCHW, labels_B, epsilon=0.5, num_steps=2)
        for dtype in (torch.float32, torch.float16)
    )
    assert (half - images_BCHW).flatten(1).norm(dim=1).min() > 0.49
    torch.testing.assert_close(half, exact)


@pytest.mark.parametrize("beyond", [torch.inf, -torch.inf, torch.nan])
def test_a_gradient_that_float16_cannot_hold_moves_nothing(beyond):
    gradient = torch.ones(2, 1, 2, 2)
    gradient[1, 0, 0, 0] = beyond
    found = direction(gradient)
    assert torch.equal(found[0], torch.full((1, 2, 2), 0.5)) and not found[1].any()


def test_frozen_restores_and_leaves_other_callables_alone():
    network = Tiny()
    network.hidden.weight.requires_grad_(False)
    network.norm.eval()
    with pytest.raises(RuntimeError, match="inside"), frozen(network) as still:
        assert still is network and not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        raise RuntimeError("inside")
    assert network.training and network.drop.training and not network.norm.training
    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert not flags.pop("hidden.weight") and all(flags.values())
    with frozen(len) as same:
        assert same is len


@pytest.mark.parametrize("name", ["smoothadv", "adre-adv", "smoothmix", "smoothadv+consistency"])
def test_attacks_run_in_eval_mode_without_touching_statistics(name):
    network = Tiny()
    objective = objectives.OBJECTIVES[name](sigma=SIGMA, num_draws=M, num_steps=3)
    objective.step(network, *batch())
    trained = {"smoothmix": 2}.get(name, 1)
    assert network.modes == [False] * 3 + [True] * trained
    assert network.norm.num_batches_tracked == trained
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("attack", ["pgd", "ddn"])
def test_epsilon_zero_makes_smoothadv_gaussian(attack):
    network = Tiny().eval()
    images, labels, noise = batch(num_draws=1)
    adversarial = objectives.SmoothAdv(sigma=SIGMA, num_draws=1, epsilon=0.0, attack=attack)
    gaussian = objectives.Gaussian(sigma=SIGMA, num_draws=1)
    expected = gaussian.step(network, images, labels, noise.clone()).terms.total_B
    torch.testing.assert_close(
        adversarial.step(network, images, labels, noise.clone()).terms.total_B, expected
    )
    nearly = objectives.SmoothAdv(sigma=SIGMA, num_draws=1, epsilon=1e-7, attack=attack)
    torch.testing.assert_close(
        nearly.step(network, images, labels, noise.clone()).terms.total_B, expected,
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip


def test_the_training_pass_uses_the_attacks_noise():
    network = Tiny().eval()
    images, labels, noise = batch()
    objective = objectives.SmoothAdv(sigma=SIGMA, num_draws=M)
    moved = objective.attacked(network, images, labels, noise)[0]
    expected = with_noise(network, noise)(moved)
    step = objective.step(network, images, labels, noise.clone())
    torch.testing.assert_close(step.logits_BMK, expected)


def test_adre_adv_raises_its_own_loss():
    network = Tiny().eval()
    images, labels, noise = batch()
    objective = objectives.AdreAdv(sigma=SIGMA, num_draws=M, trade_off=0.3, num_steps=8)
    logits_of = with_noise(network, noise)
    moved = objective.attacked(network, images, labels, noise)[0]
    before = objective.attack_loss(logits_of(images), labels)
    assert (objective.attack_loss(logits_of(moved), labels) > before).all()


def test_epsilon_warms_up_over_ten_epochs():
    objective = objectives.SmoothAdv(sigma=SIGMA, epsilon=2.0)
    epsilons = [objective.at_epoch(epoch, ()).epsilon for epoch in range(12)]
    assert epsilons == pytest.approx([0.2 * (i + 1) for i in range(10)] + [2.0, 2.0])
    assert objectives.AdreAdv(sigma=SIGMA).at_epoch(0, ()).epsilon == 1.0


def test_unknown_attack_lists_the_names():
    with pytest.raises(ValueError, match="pgd, ddn, got 'fgsm'"):
        objectives.SmoothAdv(sigma=SIGMA, attack="fgsm")
