import html
import json
import re
from html.parser import HTMLParser

import numpy as np

from rsray.results.pages import page
from rsray.results.pages.provenance import provenance_html

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.references, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_whole_escaped_and_self_contained(make):
    evil = "<script>alert(1)</script>"
    results = [make(name=evil, device='"<b>gpu', versions={"rsray": "1<2"}), make(50, name="other")]
    text = page.build(results, warnings=[f"n differs: {evil}"])
    outline = Outline()
    outline.feed(text)
    # The one script is the page's own.
    assert outline.open == [] and outline.tags.count("script") == 1 and "b" not in outline.tags
    assert text.count("<script>") == 1
    assert {"svg", "table", "style"} <= set(outline.tags)
    assert all(reference.startswith("#") for reference in outline.references)
    style = "".join(re.findall(r"<style.*?</style>", text, flags=re.DOTALL))
    assert "url(" not in style and "@import" not in style
    words = " ".join(outline.text)
    assert f"n differs: {evil}" in words and '"<b>gpu' in words and '{"rsray": "1<2"}' in words
    assert f"{(results[1].radius * results[1].correct).mean():.3f}" in words


def test_no_acr_of_a_run_that_decided_a_few_radii(make):
    few, whole = make(name="few", at_radius=[0.5]), make(50, name="all")
    for results, is_shown in (([few], False), ([few, whole], True)):
        text = page.build(results, warnings=[])
        assert ("standard error of the ACR" in text) == is_shown
        assert f"{(few.radius * few.correct).mean():.3f}" not in text
        assert "<td>-</td>" in text


def test_a_page_names_classes_and_failures_and_rounds_no_radius_up(make, without):
    # 0.5 * Phi^-1(0.001^(1/10000)) is 1.5992888, which 4 decimals would round up.
    result = without(make(n=10_000, classes=["<plane>", *"bcdefghij"]), 7, label=0)
    warning = "toy: 1 of 40 images failed"
    text = page.build([result], warnings=[warning])
    outline = Outline()
    outline.feed(text)
    words = " ".join(outline.text)
    assert "1.5992" in words and "1.5993" not in words
    assert "toy: <plane>" in words and "toy: j" in words and warning in words
    assert "Classes of" not in page.build([make()], warnings=[])


def test_of_many_classes_the_hardest_are_shown(make, monkeypatch):
    result = make(400, classes=list("abcdefghij"))
    assert "hardest" not in page.build([result], warnings=[])
    monkeypatch.setattr(page, "MOST_CLASSES", 3)
    text = page.build([result], warnings=[])
    gain = result.radius * result.correct
    order = np.argsort([gain[result.label == c].mean() for c in range(10)])
    shown = re.findall(r"<td>toy: (.)</td>", text)
    assert shown == ["abcdefghij"[c] for c in sorted(order[:3])]
    assert "Classes of toy, the 3 hardest" in text


def test_one_image_has_no_standard_error(make):
    text = page.build([make(1)], warnings=[])
    assert ">nan<" not in text and "unknown" in text


def test_provenance_says_what_became_of_checking_each_result(make):
    audit = {"passed": True, "blocks": 20, "stored_blocks": 2000}
    known = {
        "model": "lenet", "model_digest": "0123456789abcdef", "split": "test", "seed": 3,
        "device_name": "a chip", "precision": "bf16", "versions": {"rsray": "1", "torch": "2"},
    }  # fmt: skip
    results = [
        make(name="ours", audit=audit, **known),
        make(name="not audited", versions="none"),
        make(name="log", format="cohen", dataset=None),
    ]
    text = provenance_html(results, ["a/b", "c", "d"], ["equal", "equal", "no counts"])
    outline = Outline()
    outline.feed(text)
    heading, *words = (word for word in outline.text if word.strip())
    ours, middle, log = (words[17 * k : 17 * (k + 1)] for k in range(3))
    assert (heading, ours[0], middle[0], log[0]) == ("Provenance", "ours", "not audited", "log")
    names = (
        "lies in",
        "network",
        "images",
        "evaluated on",
        "made with",
        "seed",
        "verified",
        "audit",
    )
    assert dict(zip(ours[1::2], ours[2::2], strict=True)) == dict(zip(names, (
        "a/b", "lenet, SHA-256 0123456789ab", "toy, test", "a chip, bf16", "rsray 1, torch 2", "3",
        "equal", "passed, 20 of 2,000 blocks",
    ), strict=True))  # fmt: skip
    assert middle[-1] == "not yet: rsray audit CERT RUN"
    assert log[2::2] == ["d", *["unknown"] * 5, "no counts", "not possible: no counts"]
    assert provenance_html([], [], []) == ""


def test_provenance_names_the_denoiser_before_the_network(make):
    result = make(model="lenet", denoiser="runs/denoiser", model_digest="0123456789abcdef")
    text = provenance_html([result], ["a"], ["equal"])
    assert "lenet, behind the denoiser runs/denoiser, SHA-256 0123456789ab" in text


def test_notes_stand_at_the_top_and_under_the_plot(make):
    text = page.build([make(name="a"), make(50, name="b")], warnings=["n differs: 1, 2"])
    assert text.count("n differs: 1, 2") == 2
    assert text.index("n differs") < text.index("<figure>") < text.rindex("n differs")
    assert text.rindex("n differs") < text.index("</figure>")


def test_published_figures_are_points_of_the_curves(make):
    text = page.build([make()], warnings=[], published={"paper": {0.0: 0.9, 2.5: 0.1}})
    data = json.loads(html.unescape(re.search('data-curves="(.*?)"', text)[1]))
    told = data["curves"][1]
    assert told["name"] == "paper" and told["points"] == [[0.0, 0.9], [2.5, 0.1]]
    assert told["accuracy"][0] == 0.9 and data["radii"][-1] > 2.5
    assert [value for value in told["accuracy"] if value is not None] == [0.9, 0.1]
