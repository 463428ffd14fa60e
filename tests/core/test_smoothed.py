"""SmoothedClassifier on any module: counts, reproducibility, errors, no side effects."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from rsray.core.evidence import ABSTAIN
from rsray.core.smoothed import SmoothedClassifier
from rsray.errors import UserError

IMAGE = torch.rand((1, 4, 4), generator=torch.Generator().manual_seed(0))


def network(classes=5):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, classes))  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class BareFunction(nn.Module):
    """No parameters, no buffers."""

    def forward(self, images):
        bright = images.mean((1, 2, 3))
        return torch.stack([bright, -bright, torch.full_like(bright, -9.0)], dim=1)


def test_counts_are_those_of_a_loop_over_draws():
    model, n = network().eval(), 300
    smoothed = SmoothedClassifier(model, 0.5, 5, batch_size=n)
    noise = torch.randn((n, 1, 4, 4), generator=seeded())
    with torch.no_grad():
        each = [int(model((IMAGE + 0.5 * eta)[None]).argmax()) for eta in noise]
    assert np.array_equal(smoothed.counts(IMAGE, n, seeded()), np.bincount(each, minlength=5))


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("batch_size", [1, 64, 400])
def test_every_draw_is_counted(n, batch_size):
    counts = SmoothedClassifier(network(), 0.5, 5, batch_size=batch_size).counts(IMAGE, n)
    assert counts.shape == (5,) and counts.dtype == np.int64 and counts.sum() == n


def test_the_last_batch_is_as_large_as_the_others():
    seen = []

    def record(module, given):
        seen.append(len(given[0]))

    model = network()
    model.register_forward_pre_hook(record)
    smoothed = SmoothedClassifier(model, 0.5, 5, batch_size=40)
    image = torch.rand(1, 4, 4)
    smoothed.counts(image, 1)  # the network is looked at the first time
    seen.clear()
    assert smoothed.counts(image, 100).sum() == 100 and seen == [40, 40, 40]
    seen.clear()
    assert smoothed.counts(image, 7).sum() == 7 and seen == [7]
    assert smoothed.counts(image, 0).sum() == 0


def test_one_generator_one_result():
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    first = smoothed.certify(IMAGE, n0=20, n=500, generator=seeded(3))
    assert smoothed.certify(IMAGE, n0=20, n=500, generator=seeded(3)) == first
    other = [smoothed.counts(IMAGE, 500, seeded(s)).tolist() for s in (3, 4)]
    assert other[0] != other[1]


def test_selection_and_estimation_draws_are_different():
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    generator = seeded(3)
    assert not np.array_equal(
        smoothed.counts(IMAGE, 400, generator), smoothed.counts(IMAGE, 400, generator)
    )


def test_without_a_generator_torchs_own_is_used():
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(smoothed.counts(IMAGE, 300).tolist())
    assert results[0] == results[1]


def test_module_without_parameters():
    certificate = SmoothedClassifier(BareFunction(), 0.1, 3).certify(IMAGE, n=1000)
    assert certificate.prediction == 0 and not certificate.abstained
    assert certificate.count_a == certificate.n == 1000 and certificate.n0 == 100
    assert certificate.p_a_lower == pytest.approx(0.001**1e-3)
    assert certificate.p_b_upper == pytest.approx(1 - certificate.p_a_lower)
    assert certificate.radius == pytest.approx(0.1 * NormalDist().inv_cdf(0.001**1e-3))


def test_a_coin_abstains():
    class Coin(nn.Module):
        def forward(self, images):
            return torch.stack([images.mean((1, 2, 3)), torch.zeros(len(images))], dim=1)

    smoothed = SmoothedClassifier(Coin(), 0.5, 2)
    black = torch.zeros(1, 4, 4)
    certificate = smoothed.certify(black, n=2000, generator=seeded())
    assert certificate.abstained and certificate.prediction == ABSTAIN and certificate.radius == 0
    prediction = smoothed.predict(black, n=1000, generator=seeded())
    assert prediction.prediction == ABSTAIN and prediction.p_value > 0.001


def test_predict_names_the_class():
    prediction = SmoothedClassifier(BareFunction(), 0.1, 3).predict(IMAGE, n=100)
    assert prediction.prediction == 0
    assert prediction.p_value == pytest.approx(2 * 0.5**100)
    assert (prediction.n, prediction.alpha) == (100, 0.001)


@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_as_it_was(training):
    model = network().train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    smoothed = SmoothedClassifier(model, 0.5, 5)
    results = [smoothed.counts(IMAGE, 200, seeded()).tolist() for _ in range(2)]
    assert results[0] == results[1]  # no dropout, no running statistics
    assert all(module.training is training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_after_an_error(training):
    class Broken(nn.Module):
        def forward(self, images):
            raise RuntimeError("broken")

    model = Broken().train(training)
    with pytest.raises(RuntimeError, match="broken"):
        SmoothedClassifier(model, 0.5, 5).counts(IMAGE, 10)
    assert model.training is training


def test_image_is_not_changed_and_may_be_of_any_number_type():
    pixels = (IMAGE * 255).round()
    image = pixels / 255
    before = image.clone()
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    want = smoothed.counts(image, 200, seeded())
    assert torch.equal(image, before)
    same = [image.double(), image.numpy(), image.numpy().astype(np.float64), pixels.to(torch.uint8),
            pixels.numpy().astype(np.uint8), np.flip(np.flip(image.numpy()).copy()),
            image.numpy().astype(">f4"), v2.functional.to_dtype(pixels.byte(), torch.float32, scale=True),
            pixels * (1 / 255)]  # fmt: skip
    assert not torch.equal(same[-1], image)
    for other in same:
        assert np.array_equal(smoothed.counts(other, 200, seeded()), want)


@pytest.mark.parametrize("image", [
    IMAGE * 255, (IMAGE - 0.47) / 0.25, IMAGE.log(), IMAGE * torch.nan, (IMAGE * 255).long(),
    (IMAGE * 255).numpy(), IMAGE > 0.5,
])  # fmt: skip
def test_pixels_outside_0_to_1_raise(image):
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    for ask in (smoothed.certify, smoothed.predict):
        with pytest.raises(UserError, match=r"image .*expected pixels in \[0, 1\], or uint8"):
            ask(image)


def test_a_batch_gives_the_answers_of_its_images():
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    batch = torch.stack([IMAGE, 1 - IMAGE, IMAGE / 2])
    generator = seeded()
    each = [smoothed.certify(image, 20, 300, generator=generator) for image in batch]
    assert smoothed.certify(batch, 20, 300, generator=seeded()) == each
    assert smoothed.certify(batch.numpy(), 20, 300, generator=seeded()) == each
    assert len(smoothed.predict(batch[:2], 50)) == len(smoothed.counts(batch[:2], 50)) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_of_other_types(dtype):
    counts = SmoothedClassifier(network().to(dtype), 0.5, 5).counts(IMAGE, 500, seeded())
    want = SmoothedClassifier(network(), 0.5, 5).counts(IMAGE, 500, seeded())
    assert np.abs(counts - want).sum() <= 10


def test_weights_that_are_whole_numbers_leave_images_as_they_are():
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            steps = torch.randint(-99, 99, (16, 5), generator=seeded(1), dtype=torch.int8)
            self.steps = nn.Parameter(steps, requires_grad=False)
            self.scale = nn.Parameter(torch.tensor(0.1))

        def forward(self, images):
            return images.flatten(1) @ (self.steps * self.scale)

    model, plain = Quantised(), nn.Sequential(nn.Flatten(), nn.Linear(16, 5, bias=False))
    plain[1].weight.data = (model.steps * model.scale).T
    counts = SmoothedClassifier(model, 0.5, 5).counts(IMAGE, 300, seeded())
    want = SmoothedClassifier(plain, 0.5, 5).counts(IMAGE, 300, seeded())
    assert np.abs(counts - want).sum() <= 4


def test_outputs_with_logits_inside():
    class Output:
        def __init__(self, logits):
            self.logits, self.loss = logits, None

    class HuggingFace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            return Output(self.inner(images))

    counts = SmoothedClassifier(HuggingFace(), 0.5, 5).counts(IMAGE, 200, seeded())
    want = SmoothedClassifier(network(), 0.5, 5).counts(IMAGE, 200, seeded())
    assert np.array_equal(counts, want)


def test_a_network_that_mixes_a_batch_is_refused_and_keeps_its_mode():
    model = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 5)
    )
    with pytest.raises(UserError, match="module '1' .*other images"):
        SmoothedClassifier(model.train(), 0.5, 5).predict(IMAGE, 10)
    assert model.training


def test_model_stays_on_its_device():
    model = network()
    smoothed = SmoothedClassifier(model, 0.5, 5)
    smoothed.counts(IMAGE, 10)
    assert smoothed.model is model
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_exact_noise_for_a_gpu_that_is_none_of_cudas_is_made_on_the_cpu():
    smoothed, apples = SmoothedClassifier(network(), 0.5, 5), torch.device("meta")
    copies = smoothed._noisy_copies(torch.full((1, 4, 4), 0.2), apples, None)
    assert copies(3).device == apples and copies(3).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_image_and_generator_may_live_on_the_cpu():
    smoothed = SmoothedClassifier(network().cuda(), 0.5, 5)
    counts = smoothed.counts(IMAGE, 500, seeded())
    assert next(smoothed.model.parameters()).is_cuda
    on_cpu = SmoothedClassifier(network(), 0.5, 5).counts(IMAGE, 500, seeded())
    assert np.abs(counts - on_cpu).sum() <= 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0}, "sigma is 0: .*positive"),
        ({"sigma": -0.5}, "sigma is -0.5"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"num_classes": 1}, "num_classes is 1: .*at least 2"),
        ({"batch_size": 0}, "batch_size is 0: .*at least 1"),
        ({"sigma": float("inf")}, "sigma is inf: .*finite"),
        ({"num_classes": 5.5}, "num_classes is 5.5: .*whole number"),
    ],
)
def test_bad_settings_are_the_users_mistake(settings, message):
    with pytest.raises(UserError, match=message):
        SmoothedClassifier(**{"model": network(), "sigma": 0.5, "num_classes": 5, **settings})


def test_numbers_of_draws_may_be_of_any_type_and_must_be_whole():
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    want = smoothed.certify(IMAGE, 10, 100, generator=seeded())
    for n, n0 in ((1e2, 10.0), (np.int64(100), np.float32(10)), (torch.tensor(100), 10)):
        found = smoothed.certify(IMAGE, n0, n, generator=seeded())
        assert found == want and type(found.n) is type(found.n0) is int
    for ask in (smoothed.certify, smoothed.predict, smoothed.counts):
        with pytest.raises(UserError, match="n is 100.5: it must be a whole number"):
            ask(IMAGE, n=100.5)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 1, 4, 4)])
def test_an_image_must_be_an_image_or_a_batch(shape):
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    for ask in (smoothed.certify, smoothed.predict):
        with pytest.raises(UserError, match=r"image has shape .*expected \[C, H, W\]"):
            ask(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 8, 8, 3), (8, 8, 1)])
def test_channels_come_first(shape):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * shape[-1], 5))
    with pytest.raises(UserError, match=r"looks like \[H, W, C\]: expected \[C, H, W\]"):
        SmoothedClassifier(linear, 0.5, 5).predict(np.zeros(shape, np.uint8))


def test_the_wrong_number_of_logits_is_named():
    with pytest.raises(UserError, match=r"returned shape \(10, 5\): expected \[10, 7\] logits"):
        SmoothedClassifier(network(), 0.5, 7).counts(IMAGE, 10)


def test_settings_with_which_nothing_could_be_certified_are_refused():
    smoothed = SmoothedClassifier(network(), 0.5, 5)
    with pytest.raises(UserError, match="n must be at least 10"):
        smoothed.certify(IMAGE, n=5)
    with pytest.raises(UserError, match="n0 is 0"):
        smoothed.certify(IMAGE, n0=0, n=100)
    with pytest.raises(UserError, match="alpha is 0"):
        smoothed.certify(IMAGE, n=100, alpha=0)
    with pytest.raises(UserError, match="n must be at least 0, got -3"):
        smoothed.counts(IMAGE, -3)


def test_nan_logits_get_no_certificate():
    class Broken(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 3), torch.nan)

    with pytest.raises(ArithmeticError):
        SmoothedClassifier(Broken(), 0.5, 3).certify(IMAGE, n=100)


def test_layers_that_were_frozen_stay_frozen():
    model = network().train()
    model[2].eval()  # a batch norm whose statistics are to stay
    SmoothedClassifier(model, 0.5, 5).counts(IMAGE, 10)
    assert model[0].training and not model[2].training


@pytest.mark.parametrize("settings", [{"n": 0}, {"n": -5}, {"alpha": 2.0}, {"alpha": 0.0}], ids=str)
def test_predict_refuses_useless_settings(settings):
    with pytest.raises(UserError):
        SmoothedClassifier(network(), 0.5, 5).predict(IMAGE, **settings)


def test_it_is_a_public_name():
    import rsray

    assert rsray.SmoothedClassifier is SmoothedClassifier
