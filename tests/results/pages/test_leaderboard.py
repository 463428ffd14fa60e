import numpy as np
import pytest
from test_page import Outline

from rsray.results.pages import leaderboard
from rsray.results.table import Layout


def build(results, **how):
    return leaderboard.build(results, warnings=how.pop("warnings", []), layout=Layout(**how))


def test_groups_by_data_and_sigma_the_best_first(make):
    results = [
        make(40, name="weak", sigma=0.5), make(60, name="strong", sigma=0.5),
        make(40, name="other sigma", sigma=1.0), make(40, name="other data", dataset="mnist"),
        make(40, name="log", sigma=None, dataset=None),
    ]  # fmt: skip
    text = build(results, warnings=["left out: x.tsv"], title="Ours")
    outline = Outline()
    outline.feed(text)
    words = " ".join(outline.text)
    assert outline.open == [] and outline.tags.count("script") == 2 and "Ours" in words
    best, second = sorted(results[:2], key=lambda result: -result.acr)
    heading = words.index("toy, sigma 0.5")
    assert heading < words.index(best.name, heading) < words.index(second.name, heading)
    for group in ("toy, sigma 1", "mnist, sigma 0.5", "not known, sigma not known"):
        assert group in words
    assert "left out: x.tsv" in words and 'class="sortable"' in text


def test_a_result_is_compared_with_the_best_on_the_same_images(make, pair_of):
    first, second = pair_of(make)
    text = build([first, second])
    assert "Against the best, on the same images" in text and "McNemar" in text
    apart = make(3, name="apart", start=1000)
    assert "apart is not compared with" in build([first, apart])


@pytest.fixture
def pair_of():
    import dataclasses

    def both(make):
        first = make(name="first")
        return first, dataclasses.replace(first, name="second", radius=first.radius * 0.9)

    return both


def test_names_of_strangers_are_text(make):
    evil = "<script>alert(1)</script>\x1b[2J"
    text = build([make(name=evil), make(50, name="b", dataset=evil)])
    outline = Outline()
    outline.feed(text)
    assert outline.tags.count("script") == 2 and "\x1b" not in text
    assert np.all([reference.startswith("#") for reference in outline.references])
