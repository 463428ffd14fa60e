"""What `rsray tune` shows: bars while it runs, and the results at its end."""

from __future__ import annotations


def show_plan(where, config, test_images) -> None:  # type: ignore[no-untyped-def]
    """Say on stderr what will be searched and certified, and whether a paper's setting is in it."""
    from rsray.config import CertifyConfig
    from rsray.data import selected
    from rsray.distributed.search.space import (
        distributions,
        most_epochs,
        published_settings,
        why_untried,
    )
    from rsray_cli.screen.live import say

    base, number = config.train, f"{config.trials} trials of up to {most_epochs(config)} epochs"
    about = f"{base.objective} on {base.dataset}, sigma {base.sigma:g}"
    say(f"searching {', '.join(config.search)} of {about}: {number} -> {where}")
    reason = why_untried(distributions(config.search), base)
    if not published_settings(base):
        say(f"no paper has a setting for {about}")
    elif reason and config.sampler != "grid":
        say(f"the published setting is not among the trials: {reason}")
    if config.final:
        images = len(selected(test_images, 0, config.skip, config.limit))
        settings = "the winner and what it is compared with" if config.compare else "the winner"
        each = CertifyConfig.model_fields["n0"].default + config.n
        draws = images * each * (1 + config.compare)
        say(f"then certifying {settings} on {images:,} test images: up to {draws:,} draws")


def show_results(where, config, finals) -> int:  # type: ignore[no-untyped-def]
    """Print the results on stdout, and on stderr where everything is.

    Returns how many test images have no certificate; they are named.
    """
    from rsray.results import compare, plot
    from rsray_cli.screen.live import say
    from rsray_cli.screen.results import name_failures, show

    if config.sampler == "grid" or len(config.objectives) > 1:
        _show_trials(where, config)
    if finals.best is not None:
        results = [where / "best" / "certificates"]
        results += [where / "paper" / "certificates"] if finals.paper else []
        show(*results)
        num_selected = finals.best["num_images"] + len(finals.best["failed"])
        print(f"ACR {finals.best['acr']:.4f} over {num_selected} test images")
        if finals.paper is not None:
            print(f"ACR {finals.paper['acr']:.4f} of the {finals.rival}, on the same images")
        curve = where / "radius-accuracy.png"
        plot.save_plot(compare.load_all(results), curve)
        say(f"curve        {curve}")
        say(f"certificates {', '.join(map(str, results))}")
    if finals.won:
        say(f"the winner is the {finals.rival} itself")
    say(f"page         {where / 'tune.html'}  (its pictures: {where / 'plots'})")
    # On an object store the journal is in segments, which the dashboard cannot open.
    shows = f"  (optuna-dashboard {where / 'study.journal'} shows them)" if where.is_local else ""
    say(f"trials       {where / 'trials.parquet'}{shows}")
    say(f"winner       {where / 'best.yaml'}  (again: rsray train --config {where / 'best.yaml'})")
    return sum(name_failures(done["failed"]) for done in (finals.best, finals.paper) if done)


def _show_trials(where, config) -> None:  # type: ignore[no-untyped-def]
    """Print on stdout the table of a grid, or of the trials on the Pareto front."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import rich.box
    from rich.console import Console
    from rich.table import Table

    is_grid = config.sampler == "grid"
    names = ["number", *config.search, "projected_acr", "clean_accuracy", "state"]
    title = None if is_grid else "Pareto front"
    table = Table(
        *[name.replace("_", " ") for name in names], box=rich.box.SIMPLE_HEAD, title=title
    )
    for row in pq.read_table(pa.BufferReader(where.read("trials.parquet"))).to_pylist():
        if not (is_grid or row["pareto"]):
            continue
        cells = (row[name] for name in names)
        table.add_row(*[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])
    Console().print(table)


class Screen:
    """One bar per phase of the search."""

    def __init__(self, shown) -> None:  # type: ignore[no-untyped-def]
        """Draw with these bars."""
        self.shown = shown
        self.bars = {}  # type: ignore[var-annotated]

    def watch(self):  # type: ignore[no-untyped-def]
        """Return the callbacks that the search tells."""
        from rsray.distributed.search.watch import Watch

        return Watch(
            trial=self.trial, phase=self.phase, training=self.training, certifying=self.certifying
        )

    def phase(self, name: str) -> None:
        """Begin a bar."""
        from rsray_cli.screen.live import CertifyBar, TrainingBar, say

        if name == "search":
            self.bars[name] = self.shown.add_task("search", figures="starting", total=None)
        elif name.startswith("train"):
            self.bars["train"] = TrainingBar(self.shown)
        else:
            self.bars["certify"] = CertifyBar(self.shown)
        if self.shown.disable:
            say(f"phase: {name}")

    def training(self, progress) -> None:  # type: ignore[no-untyped-def]
        """Show where the final training is."""
        self.bars["train"](progress)

    def certifying(self, snapshot) -> None:  # type: ignore[no-untyped-def]
        """Show where the certification is."""
        self.bars["certify"](snapshot)

    def trial(self, event) -> None:  # type: ignore[no-untyped-def]
        """Show a look at a trial, or how it ended."""
        from rsray_cli.screen.live import say

        setting = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in event.params.items()
        )
        best = f"best projected ACR {event.best:.3f}" if event.best is not None else ""
        self.shown.update(
            self.bars["search"],
            total=event.trials,
            completed=event.finished,
            figures=f"{event.finished}/{event.trials} trials  {best}",
        )
        if event.kind == "report":
            return
        result = (
            f"failed: {event.error or 'its process was lost'}"
            if event.kind == "failed"
            else f"projected ACR {event.acr:.3f} at epoch {event.epoch}"
        )
        line = f"trial {event.finished}/{event.trials}: {setting}: {result}"
        self.shown.console.print(line, highlight=False) if not self.shown.disable else say(line)
