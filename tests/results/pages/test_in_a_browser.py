"""The pages in a real Chromium: they fit, no script fails, and the curves do what they say."""

from browser import look_at

from rsray.results.pages import leaderboard, page
from rsray.results.table import Layout

# Points at the middle, hides the first curve, zooms into the left half and back.
TRY = """(inside, page) => {
  const holder = page.querySelector("[data-curves]"), svg = holder.querySelector("svg");
  const box = svg.getBoundingClientRect(), lines = () => holder.querySelectorAll("polyline").length;
  const at = (kind, share) => svg.dispatchEvent(new inside.PointerEvent(kind, {
    clientX: box.left + box.width * share, clientY: box.top + box.height / 2, bubbles: true,
  }));
  const [first, second] = holder.querySelectorAll(".legend button");
  const last = () => [...holder.querySelectorAll(".axes text")].map(text => text.textContent);
  const told = {before: lines(), axis: last(), points: holder.querySelectorAll("circle").length};
  at("pointermove", 0.5);
  told.radius = holder.querySelector("p").textContent;
  told.value = first.querySelector("b").textContent;
  first.click();
  told.hidden = lines();
  told.pressed = [first, second].map(button => button.getAttribute("aria-pressed"));
  first.click();
  at("pointerdown", 0.1); at("pointermove", 0.5); at("pointerup", 0.5);
  told.zoomed = last();
  const reset = [...holder.querySelectorAll("button")].at(-1);
  told.canReset = !reset.hidden;
  reset.click();
  told.again = last();
  return told;
}"""


def test_the_pages_fit_and_their_curves_answer(make, tmp_path):
    name = "a-name-of-a-result-that-is-as-long-as-people-make-them-macer-cifar10-0.50-seed-1"
    results = [make(400, name=name, classes=list("abcdefghij")), make(50, name="other")]
    few = make(60, name="few", at_radius=[0.25, 0.5])
    warnings = ["n differs: 100 against 1000"]
    pages = {
        "report": page.build([*results, few], warnings=warnings),
        "leaderboard": leaderboard.build(results, warnings=warnings, layout=Layout()),
    }
    found = look_at(pages, tmp_path, attempt=TRY)
    assert len(found) == 6
    for where, one in found.items():
        assert one["problems"] == [], where
        assert one["width"] <= int(where.split()[1]), where
    told = found["report 800"]["told"]
    assert (told["before"], told["hidden"], told["points"]) == (2, 1, 2)
    assert told["pressed"] == ["false", "true"]
    radius = float(told["radius"].removeprefix("Certified accuracy at radius "))
    expected = results[0].accuracy_at([radius])[0]
    assert told["value"] == f"{100 * expected:.1f} %"
    assert told["zoomed"] != told["axis"] == told["again"] and told["canReset"]
