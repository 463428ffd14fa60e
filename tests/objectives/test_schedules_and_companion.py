import pytest
import torch

import rsray.objectives as objectives

from .tiny import SIGMA, K, M, Tiny, batch, one_step


def test_mapping_starts_as_plain_softmax():
    objective = objectives.Sodm(sigma=SIGMA, num_draws=M)
    mapping = objective.companion(K)
    logits = torch.randn(3, M, K) * 5
    torch.testing.assert_close(mapping(logits), logits.log_softmax(-1))
    network = Tiny().eval()
    plain = one_step(objective, network).terms.total_B
    torch.testing.assert_close(one_step(objective, network, companion=mapping).terms.total_B, plain)


def test_the_mapping_shapes_the_classifiers_gradient():
    objective, network = objectives.Sodm(sigma=SIGMA, num_draws=M), Tiny().eval()
    mapping = objective.companion(K)
    torch.nn.init.normal_(mapping.outer.weight)
    plain = one_step(objective, network).terms.total_B
    assert not torch.allclose(one_step(objective, network, companion=mapping).terms.total_B, plain)


def seeded(images, seed):
    generator = torch.Generator().manual_seed(seed)

    def noise(draws):
        shape = (len(images), draws, *images.shape[1:])
        return SIGMA * torch.randn(shape, generator=generator, dtype=images.dtype)

    return noise


def test_companion_draws_of_ones_own_loop_come_from_torch():
    objective = objectives.Sodm(sigma=SIGMA, num_draws=M, mapping_draws=2 * M + 1)
    images, labels, _ = batch()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(
            objective.companion_loss(Tiny().eval(), objective.companion(K), images, labels)
        )
    assert all(torch.isfinite(value) for value in values)


def test_companion_loss_trains_the_mapping_only():
    objective = objectives.Sodm(sigma=SIGMA, num_draws=M, mapping_draws=10)
    network, mapping = Tiny(), objective.companion(K)
    images, labels, _ = batch()
    statistics = {key: value.clone() for key, value in network.state_dict().items()}
    optimiser = torch.optim.SGD(mapping.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = objective.companion_loss(network, mapping, images, labels, seeded(images, 0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert loss.shape == () and losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training and all(p.requires_grad for p in network.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(value, statistics[key])


def test_companion_draws_and_their_randomness():
    objective = objectives.Sodm(sigma=SIGMA, num_draws=4, mapping_draws=10)
    seen = []

    def network(noisy):
        seen.append(noisy)
        return noisy.flatten(1)[:, :K]

    images, labels, _ = batch()
    mapping = objective.companion(K)
    values = [
        objective.companion_loss(network, mapping, images, labels, seeded(images, s))
        for s in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]
    assert [len(noisy) // len(images) for noisy in seen[:3]] == [4, 4, 2]
    deviation = torch.cat([n - images.repeat_interleave(len(n) // len(images), 0) for n in seen])
    assert deviation.std().item() == pytest.approx(SIGMA, rel=0.05)


def test_every_fifth_step_is_the_mappings():
    due = [step for step in range(20) if objectives.Sodm(sigma=SIGMA).companion_due(step)]
    assert due == [4, 9, 14, 19]
    assert objectives.Gaussian(sigma=SIGMA).companion(K) is None


def test_sodm_weight_grows_at_the_first_drop():
    objective = objectives.Sodm(sigma=SIGMA)
    weights = [objective.at_epoch(epoch, (35, 50)).trade_off for epoch in (0, 34, 35, 49, 50, 54)]
    assert weights == [6.0, 6.0, 60.0, 60.0, 60.0, 60.0]


def test_macer_is_deferred_until_the_first_drop():
    objective = objectives.Macer(sigma=1.0, deferred=True)
    weights = [objective.at_epoch(epoch, (200, 400)).trade_off for epoch in (0, 199, 200)]
    assert weights == [0.0, 0.0, 12.0]
    assert objective.at_epoch(5, ()).trade_off == 0.0, "its first drop never comes"


def test_smoothmix_warms_up():
    objective = objectives.SmoothMix(sigma=SIGMA, trade_off=5.0)
    weights = [objective.at_epoch(epoch, ()).trade_off for epoch in (0, 4, 9, 50)]
    assert weights == pytest.approx([0.5, 2.5, 5.0, 5.0])


def test_smoothmix_mixes_at_most_half():
    class Recorder(Tiny):
        def forward(self, images):
            if self.training:
                self.seen.append(images.detach().clone())
            return super().forward(images)

    network = Recorder()
    network.seen = []
    images, labels, noise = batch()
    objective = objectives.SmoothMix(sigma=SIGMA, num_draws=M)
    before = noise.clone()
    objective.step(network, images, labels, noise, generator=torch.Generator().manual_seed(0))
    clean, mixed = (seen.unflatten(0, (len(images), M)) for seen in network.seen)
    torch.testing.assert_close(clean, images.unsqueeze(1) + before)
    moved = (mixed - before)[:, 0] - images
    assert ((mixed - before) >= -1e-6).all() and ((mixed - before) <= 1 + 1e-6).all()
    assert (moved.flatten(1).norm(dim=1) <= objective.num_steps * objective.step_size / 2).all()
    torch.testing.assert_close((mixed - before)[:, 0], (mixed - before)[:, -1])


def test_smoothmix_needs_no_generator():
    assert one_step(objectives.SmoothMix(sigma=SIGMA), Tiny()).terms.total_B.isfinite().all()
