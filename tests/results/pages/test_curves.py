import json

import numpy as np

from rsray.results.pages.curves import curves_data


def test_the_curves_hold_exact_accuracies_at_round_radii(make):
    results = [make(400, name="a"), make(50, name="b")]
    data = curves_data(results)
    radii = np.array(data["radii"])
    assert radii[0] == 0.0 and len(radii) <= 402
    # Beyond the largest radius nothing is certified.
    assert radii[-2] <= max(r.radius.max() for r in results) < radii[-1]
    for result, curve in zip(results, data["curves"], strict=True):
        expected = [np.mean(result.correct & (result.radius >= radius)) for radius in radii]
        np.testing.assert_allclose(curve["accuracy"], expected, atol=1e-6)
        low, high = np.array(curve["band"])
        assert (low <= curve["accuracy"]).all() and (high >= curve["accuracy"]).all()
    assert data["curves"][0]["colour"] != data["curves"][1]["colour"]


def test_of_a_run_that_decided_a_few_radii_those_are_known(make):
    few = make(60, name="few", at_radius=[0.25, 0.5])
    (curve,) = curves_data([few])["curves"]
    assert [radius for radius, _ in curve["points"]] == [0.25, 0.5]
    known = [value for value in curve["accuracy"] if value is not None]
    assert known == [value for _, value in curve["points"]] == few.accuracy_at([0.25, 0.5]).tolist()


def test_nothing_certified_is_a_curve_too(make):
    nothing = make(5, name="nothing")
    nothing.radius[:] = 0.0
    data = json.loads(json.dumps(curves_data([nothing])))
    assert len(data["radii"]) >= 2 and data["curves"][0]["accuracy"][-1] == 0.0


def test_a_radius_of_three_decimals_counts_at_that_radius(make):
    some = make(200, name="log")
    some.radius[:] = 0.282
    data = curves_data([some])
    at = data["radii"].index(0.282)
    assert data["curves"][0]["accuracy"][at] == round(some.correct.mean(), 6) > 0.5
