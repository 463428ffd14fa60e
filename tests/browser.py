"""Pages in a real browser without a screen: what they do, and whether they fit."""

import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# As root, and without a word to anybody outside.
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=20000", "--dump-dom",
)  # fmt: skip
WATCH = """<script>
window.problems = [];
window.onerror = text => { window.problems.push(text); };
console.error = (...words) => { window.problems.push(words.join(" ")); };
</script>"""
HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const pages = PAGES, found = {};
async function look(name, text, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  frame.srcdoc = text;
  document.body.append(frame);
  await new Promise(done => { frame.onload = done; });
  const inside = frame.contentWindow, page = frame.contentDocument;
  const one = {problems: inside.problems, width: page.documentElement.scrollWidth};
  try { one.told = (TRY)(inside, page); } catch (problem) { one.problems.push(String(problem)); }
  frame.remove();
  return one;
}
(async () => {
  for (const [name, text] of Object.entries(pages))
    for (const width of WIDTHS) found[`${name} ${width}`] = await look(name, text, width);
  const told = document.createElement("pre");
  told.textContent = "FOUND" + btoa(unescape(encodeURIComponent(JSON.stringify(found)))) + "END";
  document.body.replaceChildren(told);
})();
</script>"""


def look_at(pages, folder, *, widths=(360, 800, 1200), attempt="() => null"):
    """Return what came of each page (name -> HTML) at each width, by "NAME WIDTH".

    `problems` are the errors of its scripts, `width` is what it takes, `told` is what the function
    `attempt` (JavaScript, of its window and document) returns.
    """
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium here")
    watched = {name: text.replace("<head>", f"<head>{WATCH}", 1) for name, text in pages.items()}
    given = json.dumps(watched).replace("</", "<\\/")
    harness = HARNESS.replace("WIDTHS", json.dumps(widths)).replace("(TRY)", f"({attempt})")
    file = folder / "harness.html"
    file.write_text(harness.replace("PAGES", given, 1))
    command = [browser, *QUIET, f"--user-data-dir={folder / 'browser'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    found = re.search("FOUND(.*?)END", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    import base64

    return json.loads(base64.b64decode(found[1]))
