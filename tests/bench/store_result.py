"""Keep a certification in results/ as a CSV of its certificates, with how it was made.

    python tests/bench/store_result.py CERT NAME --train "rsray train ..." --certify "rsray certify ..."

writes results/DATASET/NAME.csv, which `rsray report` reads, and NAME.csv.json beside it: sigma, n,
alpha, ACR, both commands, commit, date and machine. A CERT that `rsray verify` finds unlike its
counts is refused. Then the tables in README.md are written anew: each is what `rsray report
tests/bench/results/DATASET --format markdown` prints. Without arguments that is all.
"""

import argparse
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rsray import api
from rsray.errors import UserError
from rsray.results.compare import cert_folder, load
from rsray.results.reading.cohen import write_facts, write_log
from rsray.storage.yaml_files import from_yaml

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE / "README.md"
# A table of README.md: the mark before it names the data set.
REPORT = re.compile(
    r"(<!-- rsray report tests/bench/results/(\S+) -->\n).*?(<!-- end of the report -->\n)",
    re.DOTALL,
)
# What a result is kept with, beside what its columns cannot say.
KEPT = ("acr", "train", "certify", "commit", "date", "machine")


def store(cert, name, *, train, certify, commit, results=RESULTS):
    """Write results/DATASET/NAME.csv and its facts, both or neither; returns the first.

    `cert` is a CERT, or a TUNE that holds one. Raises UserError for anything else.
    """
    result, date, machine = load(cert), *_date_and_machine(cert)
    kept = {
        "acr": result.acr,
        "train": train,
        "certify": certify,
        "commit": commit,
        "date": date,
        "machine": machine,
    }
    file = results / result.parameter("dataset") / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        made = Path(folder, file.name)
        write_log(made, result)
        facts = json.loads(Path(write_facts(made, result).removeprefix("file://")).read_text())
        # The log last: its name is what others look for
        beside = file.with_name(f"{file.name}.json")
        beside.write_text(json.dumps({**facts, **kept}, indent=2) + "\n")
        file.write_bytes(made.read_bytes())
    return file


def _date_and_machine(cert):
    """Return the day on which a certification ended, and the device that it was made on."""
    folder = cert_folder(cert)
    if folder is None or not folder.is_local or not folder.is_file("certify.yaml"):
        raise UserError(f"{cert} is no CERT on this machine: it has no certify.yaml")
    record = from_yaml(folder.read("certify.yaml"), f"{folder}/certify.yaml")
    evaluation = record.get("evaluation")
    machine = evaluation.get("device_name") if isinstance(evaluation, dict) else None
    if not machine:
        raise UserError(f"{folder}/certify.yaml does not say its evaluation's device_name")
    ended = (folder.local_path / "certificates.parquet").stat().st_mtime
    return f"{datetime.fromtimestamp(ended, UTC):%Y-%m-%d}", machine


def commands(folder):
    """Return how each result that is kept in a folder was made, as a list."""
    lines = []
    for file in sorted(folder.glob("*.csv")):
        told = json.loads(file.with_name(f"{file.name}.json").read_text())
        made = f"{told['date']}, commit {told['commit']}, {told['machine']}"
        lines.append(f"- {file.stem}: `{told['train']}`; `{told['certify']}` ({made})\n")
    return "".join(lines)


def with_reports(text, results=RESULTS):
    """Return the page with the table of today's results between each pair of marks."""

    def report(found):
        begin, dataset, end = found.groups()
        table = api.report([results / dataset]).text("markdown")
        return f"{begin}\n{table}\n{commands(results / dataset)}\n{end}"

    return REPORT.sub(report, text)


def _commit():
    done = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    return subprocess.run(done, capture_output=True, check=True, text=True).stdout.strip()


def main(words=None):
    """Store a result, if one is given, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cert", nargs="?")
    parser.add_argument("name", nargs="?")
    for name in ("train", "certify", "commit"):
        parser.add_argument(f"--{name}")
    given = parser.parse_args(words)
    if given.cert:
        if not (given.name and given.train and given.certify):
            parser.error("a CERT needs a NAME, --train and --certify")
        said = {"train": given.train, "certify": given.certify, "commit": given.commit or _commit()}
        try:
            if not (checked := api.verify(cert_folder(given.cert) or given.cert)).is_equal:
                parser.error(str(checked))
            file = store(given.cert, given.name, **said)
        except UserError as problem:
            parser.error(str(problem))
        mark = f"<!-- rsray report tests/bench/results/{file.parent.name} -->"
        if mark not in PAGE.read_text():
            print(f"{PAGE} has no table of it: put {mark} and <!-- end of the report --> there")
    PAGE.write_text(with_reports(PAGE.read_text()))


if __name__ == "__main__":
    main()
