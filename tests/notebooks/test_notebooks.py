"""The notebook runs from its first cell to its last, and shows results as pictures and tables."""

import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")


def test_the_notebook_is_stored_without_results():
    import json

    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    # The kernel that this environment has, whatever else is installed for this user.
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix, "share", "jupyter")))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert sum("<svg" in page for page in pages) == 2
    assert any("Average certified radius" in page for page in pages)
    assert any("image/png" in data for data in shown)
    assert any("text/markdown" in data for data in shown)
    told = "".join(output.get("text", "") for output in outputs)
    assert "at alpha = 1e-6" in told and "Traceback" not in told
