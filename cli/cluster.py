"""`rsray cluster`: a cluster from a YAML file, and commands that run there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from rsray.errors import UserError, printable
from rsray.screen import say, show

if TYPE_CHECKING:
    from rsray.cluster.dashboard import Dashboard
    from rsray.cluster.packaging import CommandLine

app = typer.Typer(
    help="Bring a cluster up from a YAML file (see clusters/), run commands there, take it down.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Yaml = Annotated[
    str,
    typer.Argument(metavar="YAML", help="A cluster definition: see clusters/.", show_default=False),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="YAML|URL",
        help="A cluster definition, or the address of a Ray dashboard: http://127.0.0.1:8265.",
        show_default=False,
    ),
]
SUBMITTED_COMMANDS = ("tune", "train", "certify", "predict", "recertify")
JOBS_SHOWN = 20
EXIT_DETACHED = 130


@app.command()
def up(yaml: Yaml) -> None:
    """Bring the cluster up, with token authentication, and wait for its head and promised workers.

    Example: rsray cluster up clusters/local.yaml
    """
    from rsray.cluster.definition import read_cluster_file
    from rsray.cluster.launcher import bring_up

    bring_up(read_cluster_file(yaml), say)
    _show_status(yaml)
    named = quote(yaml)
    say(f"next: rsray certify RUN --cluster {named}; when done: rsray cluster down {named}")


@app.command()
def status(target: Target) -> None:
    """Print the nodes, what they have, and the jobs of rsray."""
    _show_status(target)
    named = quote(target)
    say(f"next: rsray cluster submit {named} ..., or attach {named} to follow the latest job")


def _show_status(target: str) -> None:
    from rsray.cluster.dashboard import connect_dashboard
    from rsray.cluster.jobs import list_jobs

    with connect_dashboard(target) as dashboard:
        for node in sorted(dashboard.nodes(), key=lambda node: not node["is_head_node"]):
            has = node["resources_total"]
            role = "head" if node["is_head_node"] else "worker"
            figures = f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"
            show(f"{role:<7} {node['node_ip']:<16} {node['state']:<6} {figures}")
        for job in list_jobs(dashboard)[:JOBS_SHOWN]:
            show(f"job     {job.id}  {job.status:<10} {job.command}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    target: Target,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the log and fetch the results.")
    ] = True,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or URI for the results.", show_default=False),
    ] = None,
) -> None:
    """Run an rsray command on a cluster that is up. The job survives this terminal.

    Example: rsray cluster submit clusters/local.yaml --out runs/there certify runs/my-run
    """
    from rsray.cluster.dashboard import connect_dashboard

    words = context.args
    if not words or words[0] not in SUBMITTED_COMMANDS:
        allowed = ", ".join(SUBMITTED_COMMANDS)
        raise UserError(f"submit {words[0] if words else ''}: give one of {allowed}")
    if {"--cluster", "--down"} & {word.partition("=")[0] for word in words}:
        raise UserError(f"submit takes neither --cluster nor --down: rsray cluster down {target}")
    _refuse_other_results(target, words[0], out)
    with connect_dashboard(target) as dashboard:
        job_id = _submit(dashboard, words, out)
        if not wait:
            say(f"next: rsray cluster attach {quote(target)} {job_id}")
            return
        status = _follow(dashboard, job_id)
    _end(target, status, down=False)


@app.command()
def attach(
    target: Target,
    job: Annotated[
        str | None,
        typer.Argument(help="The job's id. (default: the latest)", show_default=False),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Local folder for the results. (default: as the job was submitted from here)",
            show_default=False,
        ),
    ] = None,
    down: Annotated[bool, typer.Option("--down", help="Then take the cluster down.")] = False,
) -> None:
    """Follow a job's log again from its start, and fetch its results when it ends.

    Without an id it is the latest job that was submitted from this machine.
    """
    from rsray.cluster.dashboard import connect_dashboard
    from rsray.cluster.jobs import find_job

    with connect_dashboard(target) as dashboard:
        status = _follow(dashboard, find_job(dashboard, job).id, out)
    _end(target, status, down)


@app.command("down")
def take_down(yaml: Yaml) -> None:
    """Stop this cluster's Ray on all its hosts, or give its machines back; nothing else stops."""
    from rsray.cluster import launcher
    from rsray.cluster.definition import read_cluster_file

    cluster = read_cluster_file(yaml)
    launcher.take_down(cluster, say)
    say(f"{cluster.name} is down")
    say(f"next: rsray cluster up {quote(yaml)}")


def check_target(target: str) -> None:
    """Raise UserError for the file of a cluster that could not be brought up."""
    from rsray.cluster.dashboard import is_url
    from rsray.cluster.definition import read_cluster_file

    if not is_url(target):
        read_cluster_file(target)


def run_there(
    target: str, *, down: bool = False, address: str | None = None, out: str | None = None
) -> None:
    """Run the command that was typed on a cluster, which is brought up if it is not."""
    from rsray.cluster.dashboard import connect_dashboard, is_url
    from rsray.cluster.packaging import files_to_send

    if address is not None:
        raise UserError("give --cluster or --address, not both")
    if down and is_url(target):
        raise UserError(f"--down takes a cluster away that a YAML describes, not {target}")
    # What cannot be sent, or brought back, is told before machines start.
    files_to_send(typed_line(sys.argv[1:]))
    _refuse_other_results(target, sys.argv[1], out)
    with ExitStack() as stack:
        with _tidying(target, down):
            dashboard = stack.enter_context(connect_dashboard(target))
            job_id = _submit(dashboard, sys.argv[1:], out)
        status = _follow(dashboard, job_id)
    _end(target, status, down)


@contextmanager
def _tidying(target: str, down: bool) -> Iterator[None]:
    """Bring the cluster of a YAML up for what follows; if that fails, leave no machine unnoticed.

    With --down a cluster that was not up before is taken down again.
    """
    from rsray.cluster.dashboard import is_url
    from rsray.cluster.definition import read_cluster_file
    from rsray.cluster.launcher import bring_up, is_up

    if is_url(target):
        yield
        return
    cluster = read_cluster_file(target)
    # Asked through ssh: only where it matters.
    is_ours_to_end = down and not is_up(cluster)
    try:
        bring_up(cluster, say)
        yield
    except BaseException:  # whatever Ray raises: machines cost money
        say(f"no job is known to run; {cluster.name} may be up: rsray cluster down {target}")
        if is_ours_to_end:
            try:
                take_down(target)
            except UserError as problem:
                say(f"warning: {problem}")
        raise


def _refuse_other_results(target: str, command: str, out: str | None) -> None:
    from rsray.cluster.dashboard import is_url
    from rsray.cluster.definition import read_cluster_file
    from rsray.cluster.jobs import refuse_other_results

    if out is not None:
        name = target.rstrip("/") if is_url(target) else read_cluster_file(target).name
        refuse_other_results(name, command, out)


def _submit(dashboard: Dashboard, words: list[str], out: str | None) -> str:
    """Submit the command and return the job's id."""
    from rsray.cluster.jobs import submit_job
    from rsray.execution import new_folder

    where = out or new_folder("cluster", words[0])
    job_id = submit_job(dashboard, typed_line(words), where, say)
    say(f"job {job_id} on {dashboard.target} -> {where}")
    return job_id


def _follow(dashboard: Dashboard, job_id: str, out: str | None = None) -> int:
    """Show the log until the job ends and fetch the results; returns the exit status."""
    from rsray.cluster.fetching import fetch_results, results_of
    from rsray.cluster.jobs import follow_log

    with _detaching(dashboard.target, job_id):
        job = follow_log(dashboard, job_id, _show_log)
        results = results_of(dashboard, job, out)
        try:
            folder = fetch_results(dashboard, results)
        except UserError:
            if job.status == "SUCCEEDED":
                say(f"the cluster stays up: the results of {job_id} are still there")
                raise
            # What failed at once has written nothing.
            folder = None
    if folder is not None:
        say(f"results of {job_id} are in {folder}")
        show(str(folder))
    elif job.status == "SUCCEEDED":
        show(results.out_there)
    if job.status == "SUCCEEDED":
        return 0
    say(f"job {job_id} has {job.status.lower()}; the lines above say why")
    return job.exit_code if job.exit_code in (1, 2) else 1


def _show_log(text: str) -> None:
    print(printable(text, keep="\n\t\r"), end="", file=sys.stderr, flush=True)


@contextmanager
def _detaching(target: str, job_id: str) -> Iterator[None]:
    """Leave a job to itself on Ctrl-C or when its cluster cannot be heard, and say how to return."""
    from rsray.cluster.jobs import SilentClusterError

    again = f"the job goes on; attach again: rsray cluster attach {target} {job_id}"
    try:
        yield
    except KeyboardInterrupt:
        say(f"detached: {again}")
        raise SystemExit(EXIT_DETACHED) from None
    except SilentClusterError as problem:
        raise SilentClusterError(f"{problem}; {again}") from problem


def _end(target: str, status: int, down: bool) -> None:
    """Take the cluster down if that was asked for, and exit with the status of the job."""
    from rsray.cluster.dashboard import is_url

    if down and not is_url(target):
        take_down(target)
    elif not is_url(target):
        say(f"the cluster stays up; next: rsray cluster down {quote(target)}")
    if status:
        raise SystemExit(status)


def typed_line(words: list[str]) -> CommandLine:
    """Return the line that the cluster runs for the words that were typed here."""
    from rsray.cluster.remote_words import line_for_cluster

    return line_for_cluster(words, num_values_of(words[0]))


def num_values_of(command: str) -> dict[str, int]:
    """Return how many values each option of a command takes: one, or none for a flag."""
    from rsray_cli.main import app

    commands = getattr(typer.main.get_command(app), "commands", {})
    return {
        name: 0 if getattr(parameter, "is_flag", False) else 1
        for parameter in (commands[command].params if command in commands else ())
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
