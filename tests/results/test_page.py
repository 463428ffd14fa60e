import re
from html.parser import HTMLParser

from rsray.results import page

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


def test_page_is_whole_escaped_and_self_contained(tmp_path, make):
    evil = "<script>alert(1)</script>"
    results = [make(name=evil, device='"<b>gpu', versions={"rsray": "1<2"}), make(50, name="other")]
    page.write_page(tmp_path / "page.html", results, warnings=[f"n differs: {evil}"])
    text = (tmp_path / "page.html").read_text()
    outline = Outline()
    outline.feed(text)
    assert outline.open == [] and "script" not in outline.tags and "b" not in outline.tags
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
        text = page.build(results, warnings=[], step=0.25)
        assert ("standard error of the ACR" in text) == is_shown
        assert f"{(few.radius * few.correct).mean():.3f}" not in text
        assert "<td>-</td>" in text
