"""Results of a job come to where this machine recorded or the user says, and nowhere else."""

import dataclasses
import io
import os
import re
import shlex
import subprocess
import tarfile
import tracemalloc
from types import SimpleNamespace

import pytest

from rsray.cluster import fetching, jobs
from rsray.cluster.dashboard import Dashboard
from rsray.cluster.definition import NodeLayout
from rsray.cluster.jobs import JobRecord, keep_record, read_records
from rsray.cluster.packaging import CommandLine
from rsray.cluster.ssh import Host
from rsray.errors import UserError


def dashboard(client=None, answers=None, **layout):
    class Here(Dashboard):
        def job_client(self):
            return client

        def get(self, path):
            return answers

    return Here("http://127.0.0.1:1", None, "x.yaml", NodeLayout(**layout), None, "c")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


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
    job = JobRecord(cluster="c", job="j", out_there=str(there), out_here=str(here))
    assert fetching.fetch_results(dashboard(Shell()), job) == here
    assert (here / "counts" / "a.parquet").read_bytes() == content
    assert (here / "summary.json").read_text() == "{}"
    assert sorted(path.name for path in here.iterdir()) == ["counts", "summary.json"]
    monkeypatch.setattr(fetching, "MOST_LOG_BYTES", 30)
    with pytest.raises(UserError, match="s3://"):
        fetching.fetch_results(dashboard(Shell()), job)


def test_a_job_that_cannot_bring_the_results_is_told_in_a_line(tmp_path):
    class Busy(Shell):
        def delete_job(self, job_id):
            raise RuntimeError("Request failed with status code 500: job is in RUNNING state")

    there = tmp_path / "there"
    there.mkdir()
    record = JobRecord(cluster="c", job="j", out_there=str(there), out_here=str(tmp_path / "here"))
    with pytest.raises(UserError, match="cannot fetch .*: .*RUNNING state"):
        fetching.fetch_results(dashboard(Busy()), record)


def test_results_come_through_ssh_without_standing_in_memory(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    ssh, there, here = tmp_path / "bin" / "ssh", tmp_path / "there", tmp_path / "here"
    ssh.write_text("#!/bin/sh\nexec bash -s\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    there.mkdir()
    (there / "counts.parquet").write_bytes(os.urandom(2**25))
    head = Host("h", "u", None, tmp_path / "known_hosts")
    record = JobRecord(cluster="c", job="j", out_there=str(there), out_here=str(here))
    tracemalloc.start()
    fetching.fetch_results(dataclasses.replace(dashboard(), head=head), record)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (here / "counts.parquet").stat().st_size == 2**25 and most < 2**23
    assert [file.name for file in here.iterdir()] == ["counts.parquet"]


def test_nothing_is_fetched_from_where_it_is_to_stay():
    stays = JobRecord(cluster="c", job="j", out_there="s3://b/x")
    assert fetching.fetch_results(dashboard(), stays) is None


def test_an_archive_cannot_write_outside(tmp_path):
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="did not come whole: .*outside the destination"):
        data.seek(0)
        fetching._unpack_archive(data, tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def archive(*members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def link(name, target):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = tarfile.SYMTYPE, target
    return found


def fetched(monkeypatch, content, here):
    monkeypatch.setattr(fetching, "_through_log", lambda dashboard, there: content)
    record = JobRecord(cluster="c", job="j", out_there="~/there", out_here=str(here))
    return fetching.fetch_results(dashboard(), record)


def test_links_in_an_archive_are_left_out(tmp_path, monkeypatch):
    here = tmp_path / "here"
    content = archive((link("counts", "elsewhere"), b""), (tarfile.TarInfo("a.json"), b"{}"))
    fetched(monkeypatch, content, here)
    assert [path.name for path in here.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08" + bytes(40)])
def test_an_archive_that_is_none_is_told_in_a_line(content, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="the results did not come whole"):
        fetched(monkeypatch, content, tmp_path / "here")
    whole = archive((tarfile.TarInfo("a.json"), bytes(range(256)) * 99))
    with pytest.raises(UserError, match="the results did not come whole"):
        fetched(monkeypatch, whole[:-30], tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_an_archive_that_fills_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    content = archive((tarfile.TarInfo("a.json"), bytes(1001)))
    with pytest.raises(UserError, match="fill the disk"):
        fetched(monkeypatch, content, tmp_path / "here")


def test_links_here_are_not_followed(tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (here / "summary.json").symlink_to(victim)
    fetched(monkeypatch, archive((tarfile.TarInfo("summary.json"), b"{}")), here)
    assert victim.read_text() == "precious" and (here / "summary.json").read_text() == "{}"
    (here / "counts").symlink_to(elsewhere)
    with pytest.raises(UserError, match="counts is a link"):
        fetched(monkeypatch, archive((tarfile.TarInfo("counts/a.parquet"), b"1")), here)
    assert list(elsewhere.iterdir()) == []


def test_results_in_storage_come_without_what_leads_out(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/rsray/job-1/counts/a.parquet", b"1")
    memory.pipe("/rsray/job-1/summary.json", b"{}")
    memory.pipe("/rsray/job-1/.claim-1", b"x")
    here, victim = tmp_path / "here", tmp_path / "victim"
    here.mkdir()
    victim.write_text("precious")
    (here / "summary.json").symlink_to(victim)
    record = JobRecord(cluster="c", job="j", out_there="memory://rsray/job-1", out_here=str(here))
    assert fetching.fetch_results(dashboard(), record) == here
    assert (here / "counts" / "a.parquet").read_bytes() == b"1" and victim.read_text() == "precious"
    assert sorted(path.name for path in here.iterdir()) == ["counts", "summary.json"]


def job(job_id, there="~/rsray/out/x-1", **metadata):
    return {
        "submission_id": job_id, "status": "SUCCEEDED", "driver_exit_code": 0, "start_time": 5,
        "entrypoint": "python -c 'run()' certify x", "metadata": {jobs.OUT_THERE: there, **metadata},
    }  # fmt: skip


def test_where_results_go_is_not_the_clusters_to_say(tmp_path):
    """A cluster's metadata used to name the local folder."""
    hostile = job("j", rsray_out_here=str(tmp_path / "home" / ".ssh"))
    there = dashboard(answers=[hostile])
    results = fetching.results_of(there, jobs.find_job(there, "j"))
    assert results.out_here is None and fetching.fetch_results(there, results) is None
    results = fetching.results_of(there, jobs.find_job(there, "j"), str(tmp_path / "mine"))
    assert results.out_here == str(tmp_path / "mine")


def test_what_this_machine_recorded_counts_and_out_comes_first(tmp_path):
    keep_record(JobRecord(cluster="c", job="j", out_there="~/out/a", out_here="/home/me/a"))
    there = dashboard(answers=[job("j", there="s3://private-bucket/x")])
    found = fetching.results_of(there, jobs.find_job(there, "j"))
    assert (found.out_there, found.out_here) == ("~/out/a", "/home/me/a")
    found = fetching.results_of(there, jobs.find_job(there, "j"), str(tmp_path))
    assert (found.out_there, found.out_here) == ("~/out/a", str(tmp_path))


def test_a_cluster_cannot_name_the_users_other_storage(tmp_path):
    there = dashboard(answers=[job("j", there="s3://private/x")], results="s3://team/rsray")
    with pytest.raises(UserError, match="s3://private/x is not fetched"):
        fetching.results_of(there, jobs.find_job(there, "j"), str(tmp_path))
    there = dashboard(answers=[job("j", there="s3://team/rsray/x-1")], results="s3://team/rsray")
    found = fetching.results_of(there, jobs.find_job(there, "j"), str(tmp_path))
    assert found.out_there == "s3://team/rsray/x-1"


def test_attach_without_an_id_follows_only_what_was_submitted_from_here():
    there = dashboard(answers=[job("theirs"), job("ours")])
    with pytest.raises(UserError, match="submitted from here"):
        jobs.find_job(there)
    keep_record(JobRecord(cluster="another", job="theirs", out_there="x"))
    keep_record(JobRecord(cluster="c", job="ours", out_there="x"))
    assert jobs.find_job(there).id == "ours" and jobs.find_job(there, "theirs").id == "theirs"


def test_the_record_of_jobs_is_the_users_alone_and_survives_damage(home):
    keep_record(JobRecord(cluster="c", job="one", out_there="x"))
    file = jobs._records_file()
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    with file.open("a") as stream:
        stream.write('{"cut off\n[1]\n{"cluster": "c", "job": 5}\n' + "[" * 100_000 + "\n")
    keep_record(JobRecord(cluster="c", job="two", out_there="y"))
    assert list(read_records("c")) == ["one", "two"]


def test_a_submission_is_recorded_before_it_is_made(tmp_path, monkeypatch):
    class Client:
        def submit_job(self, **request):
            self.request, self.known = request, read_records("c")

    client = Client()
    monkeypatch.chdir(tmp_path)
    from rsray_cli.cluster import typed_line as line_for_cluster

    there = dashboard(client)
    job_id = jobs.submit_job(there, line_for_cluster(["train"]), "runs/x", print)
    assert client.request["submission_id"] == job_id and list(client.known) == [job_id]
    assert client.known[job_id].out_here == str(tmp_path / "runs" / "x")
    assert str(tmp_path) not in str(client.request["metadata"])


def test_what_runs_on_the_head_alone_waits_for_no_workers_and_a_prediction_is_a_file():
    there = dashboard(wait_for={"GPU": 4})
    assert "wait_for_resources GPU=4" in jobs.job_command(there, ["certify", "run"])
    assert "wait_for_resources" not in jobs.job_command(there, ["predict", "run"])


@pytest.mark.parametrize(
    ("results", "out", "wanted", "here"),
    [(None, "x", r"~/rsray/out/x-\w{8}/predictions\.parquet", "x"),
     (None, "a/p.parquet", r"~/rsray/out/p\.parquet-\w{8}/p\.parquet", "a"),
     ("s3://b/r?scheme=http", "x", r"s3://b/r/x-\w{8}/predictions\.parquet\?scheme=http", "x"),
     (None, "s3://b/p.parquet", r"s3://b/p\.parquet", None)],
)  # fmt: skip
def test_where_a_prediction_is_written(results, out, wanted, here, tmp_path, monkeypatch):
    sent = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "_send_job", lambda dashboard, **request: sent.update(request))
    monkeypatch.setattr(jobs, "copy_all", lambda line, folder, say: folder)
    job = jobs.submit_job(dashboard(results=results), CommandLine(("predict", "run")), out, print)
    written = shlex.split(sent["entrypoint"])[-1]
    assert re.fullmatch(wanted, written), written
    assert read_records("c")[job].out_here == (None if here is None else str(tmp_path / here))


def test_a_head_that_has_just_started_is_asked_again(tmp_path, monkeypatch):
    class Client:
        asked = 0

        def submit_job(self, **request):
            self.asked += 1
            if self.asked < 3:
                raise RuntimeError("status code 500: No available agent to submit job, please")

    client = Client()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    from rsray_cli.cluster import typed_line as line_for_cluster

    jobs.submit_job(dashboard(client), line_for_cluster(["train"]), "runs/x", print)
    assert client.asked == 3
    monkeypatch.setattr(jobs, "AGENT_SECONDS", -1.0)
    client.asked = 0
    with pytest.raises(UserError, match="does not take the job: .*No available agent"):
        jobs.submit_job(dashboard(client), line_for_cluster(["train"]), "runs/x", print)


def test_the_names_of_jobs_do_not_steer_the_terminal():
    hostile = {**job("j"), "entrypoint": "python -c 'run()' certify \x1b[2Jx"}
    assert "\x1b" not in jobs.list_jobs(dashboard(answers=[hostile]))[0].command
