"""`rsray cluster`: a cluster from a YAML file, and commands that run there."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Annotated

import typer

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


@app.command()
def up(yaml: Yaml) -> None:
    """Bring the cluster up, with token authentication, and wait for its head and promised workers.

    Example: rsray cluster up clusters/local.yaml
    """
    from rsray.cluster import launcher
    from rsray.cluster.definition import read_cluster_file
    from rsray.screen import say

    launcher.up(read_cluster_file(yaml), say)
    status(yaml)
    say(f"next: rsray certify RUN --cluster {yaml}; when done: rsray cluster down {yaml}")


@app.command()
def status(target: Target) -> None:
    """Print the nodes, what they have, and the jobs of rsray."""
    from rsray.cluster.endpoint import connect
    from rsray.cluster.jobs import jobs

    with connect(target) as endpoint:
        for node in sorted(endpoint.nodes(), key=lambda node: not node["is_head_node"]):
            has = node["resources_total"]
            role = "head" if node["is_head_node"] else "worker"
            figures = f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"
            print(f"{role:<7} {node['node_ip']:<16} {node['state']:<6} {figures}")
        for job in jobs(endpoint)[:20]:
            print(f"job     {job.id}  {job.status:<10} {job.command}")


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
    from rsray.cluster.endpoint import connect
    from rsray.errors import UserError

    words = context.args
    allowed = ("tune", "train", "certify", "predict", "recertify")
    if not words or words[0] not in allowed:
        raise UserError(f"submit {words[0] if words else ''}: give one of {', '.join(allowed)}")
    given = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--config"]
    given += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    positional = words[1:2] if words[0] in ("certify", "predict", "recertify") else []
    models = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--model"]
    with connect(target) as endpoint:
        _run(
            endpoint,
            words,
            inputs=[*given, *positional],
            model=models[0] if models else None,
            out=out,
            wait=wait,
        )


@app.command()
def attach(
    target: Target,
    job: Annotated[
        str | None,
        typer.Argument(help="The job's id. (default: the latest)", show_default=False),
    ] = None,
    down: Annotated[bool, typer.Option("--down", help="Then take the cluster down.")] = False,
) -> None:
    """Follow a job's log again from its start, and fetch its results when it ends."""
    from rsray.cluster.endpoint import connect
    from rsray.cluster.jobs import find

    with connect(target) as endpoint:
        status = _follow(endpoint, find(endpoint, job).id)
    _end(target, status, down)


@app.command("down")
def take_down(yaml: Yaml) -> None:
    """Stop this cluster's Ray on all its hosts, or give its machines back; nothing else stops."""
    from rsray.cluster import launcher
    from rsray.cluster.definition import read_cluster_file
    from rsray.screen import say

    cluster = read_cluster_file(yaml)
    launcher.down(cluster, say)
    say(f"{cluster.name} is down")


def run_there(
    target: str,
    *,
    down: bool,
    address: str | None,
    out: str | None,
    inputs: tuple[str | None, ...] = (),
    model: str | None = None,
) -> None:
    """Run the command that was typed on a cluster, which is brought up if it is not."""
    from rsray.cluster import launcher
    from rsray.cluster.definition import read_cluster_file
    from rsray.cluster.endpoint import connect, is_url
    from rsray.errors import UserError
    from rsray.screen import say

    if address is not None:
        raise UserError("give --cluster or --address, not both")
    if is_url(target):
        if down:
            raise UserError(f"--down takes a cluster away that a YAML describes, not {target}")
    else:
        launcher.up(read_cluster_file(target), say)
    words = without_options(sys.argv[1:], {"--cluster": 1, "--out": 1, "--down": 0})
    with connect(target) as endpoint:
        status = _run(endpoint, words, inputs=list(inputs), model=model, out=out)
    _end(target, status, down)


def without_options(words: list[str], options: dict[str, int]) -> list[str]:
    """Return the words without these options and as many values of each as it says."""
    kept, skip = [], 0
    for word in words:
        if skip:
            skip -= 1
        elif word in options:
            skip = options[word]
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept


def _run(endpoint, words, *, inputs, model, out, wait=True):  # type: ignore[no-untyped-def]
    from rsray.cluster.jobs import submit
    from rsray.cluster.packaging import CommandLine
    from rsray.screen import say
    from rsray_cli import options

    where = out or options.new_folder("cluster", words[0])
    line = CommandLine.of(words, inputs=inputs, model=model)
    job_id = submit(endpoint, line, where)
    say(f"job {job_id} on {endpoint.target} -> {where}")
    if not wait:
        say(f"attach: rsray cluster attach {endpoint.target} {job_id}")
        return 0
    return _follow(endpoint, job_id)


def _follow(endpoint, job_id):  # type: ignore[no-untyped-def]
    """Show the log until the job ends and fetch the results; returns the exit status."""
    from rsray.cluster.fetching import fetch
    from rsray.cluster.jobs import follow
    from rsray.errors import UserError
    from rsray.screen import say

    with _detaching(endpoint.target, job_id):
        job = follow(
            endpoint, job_id, lambda text: print(text, end="", file=sys.stderr, flush=True)
        )
        try:
            folder = fetch(endpoint, job)
        except UserError:
            if job.status == "SUCCEEDED":
                raise
            folder = None  # what failed at once has written nothing
    if folder is not None:
        say(f"results of {job_id} are in {folder}")
        print(folder)
    elif job.status == "SUCCEEDED":
        print(job.out_there)
    if job.status == "SUCCEEDED":
        return 0
    say(f"job {job_id} has {job.status.lower()}; the lines above say why")
    return job.exit_code if job.exit_code in (1, 2) else 1


@contextmanager
def _detaching(target, job_id):  # type: ignore[no-untyped-def]
    """Leave a job to itself on Ctrl-C or when its cluster cannot be heard, and say how to return."""
    from rsray.cluster.jobs import LostError
    from rsray.screen import say

    again = f"the job goes on; attach again: rsray cluster attach {target} {job_id}"
    try:
        yield
    except KeyboardInterrupt:
        say(f"detached: {again}")
        raise SystemExit(130) from None
    except LostError as problem:
        raise LostError(f"{problem}; {again}") from problem


def _end(target, status, down):  # type: ignore[no-untyped-def]
    from rsray.cluster.endpoint import is_url
    from rsray.screen import say

    if down and not is_url(target):
        take_down(target)
    elif not is_url(target):
        say(f"the cluster stays up: rsray cluster down {target}")
    if status:
        raise SystemExit(status)
