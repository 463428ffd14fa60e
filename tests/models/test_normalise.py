"""What --normalise states, and what it does to images."""

import pytest
import torch
from torch import nn

from rsray.errors import UserError
from rsray.models.normalise import CHOICES, NOTHING, Normalisation, normalisation_in_training

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@pytest.mark.parametrize(
    ("choice", "mean", "std"),
    [
        ("dataset", *CIFAR10),
        ("centre", CIFAR10[0], (1, 1, 1)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("0.5,0.4,.3/0.25,1,2e-1", (0.5, 0.4, 0.3), (0.25, 1, 0.2)),
    ],
)
def test_choices_with_statistics(choice, mean, std):
    stated = Normalisation.stated(choice, CIFAR10)
    images = torch.rand(2, 3, 4, 4)
    shaped = [torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (mean, std)]
    network = stated.before(nn.Identity(), 3)
    torch.testing.assert_close(network(images), (images - shaped[0]) / shaped[1])
    assert stated.is_as(Normalisation.stated(stated.text, None))
    assert stated.text in str(stated)


def test_what_is_recorded_states_the_same_layer_to_the_last_bit():
    fractions = [x / 255 for x in (125.3, 123.0, 113.9)], [x / 255 for x in (63.0, 62.1, 66.7)]
    given = Normalisation.stated("/".join(",".join(map(str, each)) for each in fractions), None)
    again = Normalisation.stated(given.text, None)
    assert again.text == given.text
    for mine, right in ((again.mean, given.mean), (again.std, given.std)):
        assert torch.equal(torch.tensor(mine), torch.tensor(right))


def test_none_is_nothing():
    network = nn.Identity()
    assert Normalisation.stated("none", None) == NOTHING and NOTHING.text == "none"
    assert NOTHING.before(network, 3) is network
    assert not NOTHING.is_as(Normalisation.stated("imagenet", None))


@pytest.mark.parametrize(
    "choice",
    ["center", "", "0.5", "0.5/0", "0.5/-1", "0.5,0.5/1", "nan/1", "0.5/inf", "a/b", "1/2/3"],
)
def test_what_is_no_choice_lists_the_choices(choice):
    with pytest.raises(UserError, match=".*".join(CHOICES)) as caught:
        Normalisation.stated(choice, CIFAR10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("choice", ["dataset", "centre"])
def test_a_data_set_without_statistics_has_no_layer(choice):
    with pytest.raises(UserError, match="not known: give them as MEAN/STD"):
        Normalisation.stated(choice, None)


def test_statistics_of_other_channels_are_refused():
    with pytest.raises(UserError, match="3 channels, but they have 1"):
        Normalisation.stated("imagenet", None).before(nn.Identity(), 1)


def test_what_a_run_records_is_what_its_network_is_built_with():
    assert normalisation_in_training("lenet", None).text == "none"
    assert normalisation_in_training("own.module:make", CIFAR10).text == "none"
    found = normalisation_in_training("lenet", CIFAR10)
    assert found.text == "0.4914,0.4822,0.4465/0.2023,0.1994,0.201"
