"""Jobs: what travels, the command line there, the log, the results, and mistakes at the terminal."""

import asyncio
import http.server
import json
import sys
import threading

import pytest
from edited import CLUSTERS, edit

from rsray.cluster import jobs
from rsray.cluster.dashboard import Dashboard, connect_dashboard
from rsray.cluster.definition import NodeLayout
from rsray.cluster.packaging import remote_out
from rsray.errors import UserError


def dashboard(client=None, **remote):
    class Here(Dashboard):
        def job_client(self):
            return client

    return Here("http://127.0.0.1:1", None, "x.yaml", NodeLayout(**remote), None)


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
    ended = jobs.Job("j", "SUCCEEDED", 0, "", "")
    monkeypatch.setattr(jobs, "find_job", lambda dashboard, job_id: ended)
    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    shown = []
    assert jobs.follow_log(dashboard(Flaky()), "j", shown.append) is ended
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_log_that_breaks_off_often_is_followed_while_it_grows(monkeypatch):
    ended = jobs.Job("j", "SUCCEEDED", 0, "out", "python -c x")

    class Breaking:
        lines = 0

        async def tail_job_logs(self, job_id):
            self.lines += 1
            yield "x\n" * self.lines
            if self.lines < 2 * jobs.MOST_RECONNECTS:
                raise RuntimeError("WebSocket error")

    monkeypatch.setattr(jobs, "find_job", lambda dashboard, job_id: ended)
    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    shown = []
    assert jobs.follow_log(dashboard(Breaking()), "j", shown.append) is ended
    assert "".join(shown) == "x\n" * 2 * jobs.MOST_RECONNECTS


def test_a_silent_cluster_is_given_up(monkeypatch):
    class Silent:
        async def tail_job_logs(self, job_id):
            raise OSError("no route")
            yield

    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    with pytest.raises(jobs.SilentClusterError, match="no route"):
        jobs.follow_log(dashboard(Silent()), "j", print)


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


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A dashboard that sends its visitors on."""

    seen: list[str] = []

    def do_GET(self):  # noqa: N802
        """Keep the token of who comes, and redirect."""
        self.seen.append(self.headers.get("Authorization"))
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/there")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


def test_a_token_does_not_follow_a_redirect_or_go_to_a_proxy(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with pytest.raises(UserError, match="answers 302"):
        with connect_dashboard(f"http://127.0.0.1:{server.server_port}"):
            pass
    assert len(Elsewhere.seen) == 1
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(UserError, match="no Ray dashboard answers"):
        with connect_dashboard("http://127.0.0.1:1"):
            pass
    assert len(Elsewhere.seen) == 1
    server.shutdown()


@pytest.mark.parametrize(
    "answers", [[5], {"a": 1}, None, [{"submission_id": "x", "metadata": 5}], 7]
)
def test_answers_of_another_form_are_one_line(answers):
    class Odd(Dashboard):
        def get(self, path):
            return answers

    odd = Odd("http://127.0.0.1:1", None, "x.yaml", NodeLayout(), None)
    for ask in (odd.nodes, lambda: jobs.list_jobs(odd)):
        with pytest.raises(UserError, match="something else than"):
            ask()


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
    "no host": (["cluster", "status", "http://"], "names nothing"),
    "no address": (["cluster", "status", "http://[x"], "is no address"),
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


@pytest.mark.parametrize("command", ["tune", "train", "certify"])
def test_the_commands_that_run_on_a_cluster(command):
    import inspect
    from importlib import import_module

    signature = inspect.signature(getattr(import_module(f"rsray_cli.{command}"), command))
    assert {"cluster", "down"} <= set(signature.parameters)
