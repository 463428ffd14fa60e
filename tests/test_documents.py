"""The documents say what is so: their commands exist, their links lead somewhere, versions agree."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from rsray_cli.main import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", ".github/*.md", "clusters/*.md", "rsray/**/*.md", "tests/**/*.md")
    for file in ROOT.glob(pattern)
)
CODE = [
    file
    for folder in ("rsray", "cli", "clusters", "tests", ".ci", ".github")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".yaml", ".yml", ".sh", ".md", ".sbatch", "") and file.is_file()
]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def name_of(file):
    return str(file.relative_to(ROOT))


def fenced_lines():
    """Return (document, line) of every command line of rsray in a block of code."""
    for document in DOCUMENTS:
        for block in re.findall(
            r"^```\w*\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE
        ):
            for line in block.splitlines():
                if words := re.match(r"(?:uv run )?rsray (.+)", line):
                    yield pytest.param(words[1], id=f"{name_of(document)}: {line[:60]}")


@pytest.mark.parametrize("line", [*fenced_lines()])
def test_a_command_line_names_a_command_and_its_options(line):
    words = shlex.split(line, comments=True)
    command = typer.main.get_command(app)
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {option for parameter in command.params for option in parameter.secondary_opts}
    asked = {word.split("=")[0] for word in words if word.startswith("--")}
    assert asked <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_link_leads_to_a_file(document):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    for link in links:
        assert "://" in link or (document.parent / link).exists(), link


def test_the_readme_is_short_and_has_its_picture():
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"[A-Za-z']{2,}", text)) <= 1500
    assert ".github/images/digits.png" in text
    assert text.index("ACR") == text.index("average certified radius (ACR)") + 26


def test_one_version_and_a_place_for_what_comes():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[:2] == ["Unreleased", VERSION]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION


def test_only_documents_of_the_repository_are_cited():
    known = {file.name for file in DOCUMENTS}
    for file in CODE:
        cited = (
            re.findall(r"\b[A-Z][A-Z-]{2,}\.md\b", file.read_text())
            if "tests" not in file.parts
            else []
        )
        assert set(cited) <= known, file


def test_every_command_has_a_row_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    for name in typer.main.get_command(app).commands:
        assert re.search(rf"`rsray {name}\b", readme), name
