"""Easy: the attack on the noise against a loop over draws, the weights against statsmodels."""

import pytest
import torch
from scipy.stats import norm as normal
from statsmodels.stats.proportion import proportion_confint
from torch.nn.functional import cross_entropy

from rsray.objectives import Easy, Gaussian
from rsray.objectives.easy import weights_by_count

from .tiny import SIGMA, B, M, Tiny, batch, one_step

COUNTS = torch.tensor([0, 3, 49, 50, 51, 80, 100, 100])


def attacked_one_by_one(network, image, label, noise, epsilon, steps):
    """The authors' loop, for one draw of one image."""
    own = noise
    for _ in range(steps):
        leaf = noise.clone().requires_grad_()
        logits = network((image + leaf)[None])
        if logits.argmax() != label:
            return noise
        (gradient,) = torch.autograd.grad(cross_entropy(logits, label[None]), leaf)
        noise = noise + epsilon * gradient / gradient.norm()
        noise = noise / noise.norm() * own.norm()
    return noise


@pytest.mark.parametrize(("epsilon", "steps"), [(0.25, 3), (1.0, 1), (0.5, 0)])
def test_each_draw_keeps_the_first_noise_that_errs(epsilon, steps):
    objective = Easy(sigma=SIGMA, num_draws=M, epsilon=epsilon, num_steps=steps)
    network, (images, labels, noise) = Tiny().eval(), batch(0)
    labels = network(images).argmax(-1)  # some draws err at once, others later, some never
    _, found = objective.attacked(network, images, labels, noise.clone())
    for b in range(B):
        for j in range(M):
            expected = attacked_one_by_one(
                network, images[b], labels[b], noise[b, j], epsilon, steps
            )
            torch.testing.assert_close(found[b, j], expected, rtol=1e-4, atol=1e-5)
    norms = found.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, noise.flatten(2).norm(dim=2))


def test_the_attack_makes_the_loss_larger():
    objective, network = Easy(sigma=SIGMA, num_draws=M), Tiny().eval()
    plain = one_step(objective.at_epoch(0, ()), network).terms.total_B
    attacked = one_step(objective.at_epoch(10, ()), network).terms.total_B
    assert (attacked >= plain - 1e-6).all() and attacked.mean() > plain.mean()


def test_a_threshold_in_percent_is_refused():
    """It dropped nothing: no image reaches it, and where none is left all are kept."""
    with pytest.raises(ValueError, match="threshold must be at most 1, got 40"):
        Easy(sigma=SIGMA, threshold=40)


def test_the_warm_up_is_gaussian_training():
    network = Tiny().eval()
    warm = Easy(sigma=SIGMA, num_draws=1).at_epoch(9, ())
    torch.testing.assert_close(
        one_step(warm, network).terms.total_B,
        one_step(Gaussian(sigma=SIGMA), network).terms.total_B,
        atol=1e-5,
        rtol=1e-5,
    )


def test_weights_are_the_quantiles_of_confidence_bounds():
    table = weights_by_count()
    assert len(table) == 17 and (table[:12] == table[12]).all() and table[0] > 0
    for count in range(12, 17):
        lower = proportion_confint(count, 16, alpha=0.2, method="beta")[0]
        assert table[count].item() == pytest.approx(normal.ppf(lower), rel=1e-6)


class Counter:
    """Counts that do not depend on the draws, and which numbers of draws were asked for."""

    def __init__(self, of_100=COUNTS):
        self.of_100, self.asked = of_100, []

    def __call__(self, draws):
        self.asked.append(draws)
        return self.of_100 * draws // 100


def test_hard_images_are_dropped_once_and_the_others_weighed_again_and_again():
    objective = Easy(sigma=SIGMA, warm_up_epochs=4, reweigh_every=3, threshold=0.5)
    weights, asked = None, []
    for epoch in range(12):
        counter = Counter(COUNTS if epoch < 7 else COUNTS.flip(0))
        weights = objective.image_weights(epoch, weights, counter)
        asked.append(counter.asked)
        assert (weights is None) == (epoch < 4)
        if weights is not None:
            assert ((weights > 0) == (COUNTS >= 50)).all(), "dropped for good"
        if epoch == 4:
            table = weights_by_count()
            torch.testing.assert_close(weights, table[COUNTS * 16 // 100] * (COUNTS >= 50))
    assert asked == [[], [], [], [], [100, 16], [], [], [16], [], [], [16], []]


def test_where_nothing_would_be_left_nothing_is_dropped():
    objective = Easy(sigma=SIGMA, warm_up_epochs=0, threshold=0.9)
    counter = Counter(torch.tensor([10, 20, 30]))
    assert (objective.image_weights(0, None, counter) > 0).all()
