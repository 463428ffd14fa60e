"""Jobs: what travels, the command line there, the log, the results, and mistakes at the terminal."""

import asyncio
import http.server
import json
import subprocess
import sys
import threading

import pytest
from edited import CLUSTERS, edit

from rsray.cluster import fetching, jobs
from rsray.cluster.dashboard import Dashboard, connect_dashboard
from rsray.cluster.definition import NodeLayout
from rsray.cluster.packaging import CommandLine, copy_all, remote_out
from rsray.errors import UserError


def dashboard(client=None, **remote):
    class Here(Dashboard):
        def job_client(self):
            return client

    return Here("http://127.0.0.1:1", None, "x.yaml", NodeLayout(**remote), None)


def test_local_files_travel_and_other_words_stay(tmp_path):
    run = tmp_path / "my run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "model.safetensors").write_text("weights")
    (run / "checkpoints" / "big").write_text("x")
    settings = tmp_path / "best.yaml"
    settings.write_text("a: 1")
    words = ["certify", str(run), f"--config={settings}", "--data-root", "s3://b/data"]
    line = CommandLine.of(
        words, inputs=[str(run), str(settings), "absent", "s3://b/x", None], model=None
    )
    folder = copy_all(line, tmp_path / "package")
    there = line.there()
    assert there[0] == "certify" and there[3:] == ["--data-root", "s3://b/data"]
    assert (folder / there[1] / "model.safetensors").read_text() == "weights"
    assert (folder / there[2].removeprefix("--config=")).read_text() == "a: 1"
    assert not (folder / there[1] / "checkpoints").exists()
    done = subprocess.run(
        [sys.executable, "-c", "import rsray, rsray_cli; print(rsray.__file__, rsray_cli.__file__)"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(folder / p / "__init__.py") for p in ("rsray", "rsray_cli")]


def test_a_users_own_model_travels(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def factory(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    line = CommandLine.of(["train"], inputs=[], model="mine:factory")
    assert (copy_all(line, tmp_path / "package") / "mine.py").exists()
    with pytest.raises(UserError, match="'absent_module'"):
        copy_all(CommandLine.of(["train"], inputs=[], model="absent_module:f"), tmp_path / "other")


def test_too_much_to_send_is_said(tmp_path, monkeypatch):
    big = tmp_path / "big.safetensors"
    big.write_bytes(b"x" * 1000)
    monkeypatch.setattr("rsray.cluster.packaging.MOST_BYTES", 10)
    with pytest.raises(UserError, match="big.safetensors"):
        copy_all(
            CommandLine.of(["certify", str(big)], inputs=[str(big)], model=None), tmp_path / "p"
        )


def test_the_same_folder_continues_and_another_does_not():
    assert remote_out("runs/a", "~/rsray/out") == remote_out("./runs/a", "~/rsray/out/")
    assert remote_out("runs/a", "s3://b/x").startswith("s3://b/x/a-")
    assert remote_out("runs/a", "x") != remote_out("other/a", "x")


def test_the_command_of_a_job():
    plain = jobs.job_command(dashboard(), ["certify", "a b", "--n", "10"])
    assert plain == (
        "\"$HOME\"/rsray/.venv/bin/python -c 'from rsray_cli.main import run; run()' certify 'a b' --n 10"
    )
    waiting = jobs.job_command(dashboard(python="python", wait_for={"GPU": 4}), ["tune"])
    assert waiting.startswith("python -m rsray.cluster.wait_for_resources GPU=4 && python -c ")


class Flaky:
    """A log that breaks off twice and each time starts from its beginning."""

    def __init__(self):
        self.calls = 0

    async def tail_job_logs(self, job_id):
        """Yield the log in pieces."""
        self.calls += 1
        for number, piece in enumerate(["one\ntw", "o\nthr", "ee\n"]):
            if self.calls <= 2 and number == self.calls:
                raise RuntimeError("connection closed")
            yield piece
            await asyncio.sleep(0)


def test_a_log_that_breaks_off_is_shown_once(monkeypatch):
    ended = jobs.Job("j", "SUCCEEDED", 0, None, None, "")
    monkeypatch.setattr(jobs, "find_job", lambda dashboard, job_id: ended)
    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    shown = []
    assert jobs.follow_log(dashboard(Flaky()), "j", shown.append) is ended
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_silent_cluster_is_given_up(monkeypatch):
    class Silent:
        async def tail_job_logs(self, job_id):
            raise OSError("no route")
            yield

    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    with pytest.raises(jobs.SilentClusterError, match="no route"):
        jobs.follow_log(dashboard(Silent()), "j", print)


class Shell:
    """Ray's client for jobs, with a shell of this machine behind it."""

    def submit_job(self, *, entrypoint):
        self.command = f"Running entrypoint for job fetch: {entrypoint}\n"  # as Ray's log begins
        self.said = subprocess.run(
            ["bash", "-c", entrypoint], capture_output=True, text=True
        ).stdout
        return "fetch"

    def get_job_status(self, job_id):
        return "SUCCEEDED"

    def get_job_logs(self, job_id):
        first, newline, rest = self.said.partition("\n")  # two processes write it at a time
        return "noise\n" + first + newline + self.command + rest

    def delete_job(self, job_id):
        pass


def test_results_come_through_a_jobs_log(tmp_path, monkeypatch):
    there, here = tmp_path / "out there", tmp_path / "here"
    (there / "counts").mkdir(parents=True)
    (there / "checkpoints").mkdir()
    content = bytes(range(256)) * 40
    (there / "counts" / "a.parquet").write_bytes(content)
    (there / "summary.json").write_text("{}")
    (here / "counts").mkdir(parents=True)
    (here / "summary.json").write_text("old")
    job = jobs.Job("j", "SUCCEEDED", 0, str(there), str(here), "")
    assert fetching.fetch_results(dashboard(Shell()), job) == here
    assert (here / "counts" / "a.parquet").read_bytes() == content
    assert (here / "summary.json").read_text() == "{}"
    assert sorted(path.name for path in here.iterdir()) == ["counts", "summary.json"]
    monkeypatch.setattr(fetching, "MOST_LOG_BYTES", 30)
    with pytest.raises(UserError, match="s3://"):
        fetching.fetch_results(dashboard(Shell()), job)


def test_nothing_is_fetched_from_where_it_is_to_stay():
    assert (
        fetching.fetch_results(dashboard(), jobs.Job("j", "SUCCEEDED", 0, "s3://b/x", None, ""))
        is None
    )


def test_an_archive_cannot_write_outside(tmp_path):
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    with pytest.raises(tarfile.OutsideDestinationError):
        fetching._unpack_archive(data.getvalue(), tmp_path / "here")


class Guarded(http.server.BaseHTTPRequestHandler):
    """A dashboard that asks for a token."""

    def do_GET(self):  # noqa: N802
        """Answer who has the token."""
        allowed = self.headers.get("Authorization") == "Bearer right"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps([]).encode())

    def log_message(self, *_):
        """Say nothing."""


def test_an_address_asks_for_its_token(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    with connect_dashboard(url) as found:
        assert found.get("/api/jobs/") == [] and jobs.list_jobs(found) == []
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN"), connect_dashboard(url):
        pass
    server.shutdown()


def test_a_token_is_not_sent_in_the_clear(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with (
        pytest.raises(UserError, match="unencrypted"),
        connect_dashboard("http://203.0.113.7:8265"),
    ):
        pass


MISTAKES = {
    "no file": (["cluster", "up", "absent.yaml"], "neither a file nor an address"),
    "nothing there": (["cluster", "status", "http://127.0.0.1:1"], "no Ray dashboard answers"),
    "not up": (["cluster", "status", "local.yaml"], "is not up"),
    "both": (["certify", "x", "--cluster", "local.yaml", "--address", "auto"], "not both"),
    "down of an address": (["certify", "x", "--cluster", "http://h:1", "--down"], "--down takes"),
    "no command": (["cluster", "submit", "local.yaml"], "give one of tune"),
    "another command": (["cluster", "submit", "local.yaml", "doctor"], "submit doctor"),
    "unedited": (["cluster", "down", str(CLUSTERS / "local.yaml")], "# EDIT"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_at_the_terminal(case, tmp_path, monkeypatch, capsys):
    from rsray_cli.main import run

    words, said = MISTAKES[case]
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(edit(CLUSTERS / "local.yaml", tmp_path).parent)
    monkeypatch.setattr(sys, "argv", ["rsray", *words])
    with pytest.raises(SystemExit) as stopped:
        run()
    errors = capsys.readouterr().err
    assert stopped.value.code == 2 and errors.startswith("error: ") and said in errors, errors
    assert errors.count("\n") == 1


def test_the_words_that_stay_here():
    from rsray_cli.cluster import without_options

    words = ["certify", "run", "--cluster", "x.yaml", "--out=a", "--n", "5", "--down", "--out", "b"]
    assert without_options(words, {"--cluster": 1, "--out": 1, "--down": 0}) == [
        "certify",
        "run",
        "--n",
        "5",
    ]


@pytest.mark.parametrize("command", ["tune", "train", "certify"])
def test_the_commands_that_run_on_a_cluster(command):
    import inspect
    from importlib import import_module

    signature = inspect.signature(getattr(import_module(f"rsray_cli.{command}"), command))
    assert {"cluster", "down"} <= set(signature.parameters)
