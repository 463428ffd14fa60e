import numpy as np
import pytest

from rsray.errors import UserError
from rsray.presets import presets
from rsray.results.published import published_figures, row_of_preset


def test_figures_of_a_data_set_at_the_sigmas_of_the_results(make):
    every = published_figures("cifar10", [])
    assert {each.settings["sigma"] for each in every} == {0.12, 0.25, 0.5, 1.0}
    some = published_figures("cifar10", [make(sigma=0.5), make(sigma=None)])
    assert some and {each.settings["sigma"] for each in some} == {0.5}
    assert all(each.is_published and each.figure for each in every)
    with pytest.raises(UserError, match="published 'cifar100' is unknown"):
        published_figures("cifar100", [])


def test_a_row_has_the_digits_of_its_table_and_nothing_between_its_radii():
    entry = presets()["macer-cifar10-0.25"]
    row = row_of_preset(entry, np.array([0.0, 0.1, 0.25]))
    assert row.accuracy[0] == entry.certified[0.0] and np.isnan(row.accuracy[1])
    assert row.accuracy[2] == entry.certified[0.25]
    assert row.texts["ACR"] == entry.acr and row.figures["ACR"] == float(entry.acr)
    assert row.figures["images"] is None and "MACER table 1" in row.name
