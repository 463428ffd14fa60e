"""What `rsray tune` shows: bars while it runs, and the results at its end."""

from __future__ import annotations


def show_results(where, config, finals) -> None:  # type: ignore[no-untyped-def]
    """Print the results on stdout, and on stderr where everything is."""
    from rsray.results import compare, plot
    from rsray_cli.live import say
    from rsray_cli.results import show

    if config.sampler == "grid" or len(config.objectives) > 1:
        _show_trials(where, config)
    if finals.best is not None:
        results = [f"{where}/best/certificates"]
        results += [f"{where}/paper/certificates"] if finals.paper else []
        show(*results)
        print(f"ACR {finals.best['acr']:.4f} over {finals.best['num_images']} test images")
        if finals.paper is not None:
            print(f"ACR {finals.paper['acr']:.4f} of the published setting, on the same images")
        curve = f"{where}/radius-accuracy.png"
        plot.save_plot(compare.load_all(results), curve)
        say(f"curve        {curve}")
        say(f"certificates {', '.join(results)}")
    say(f"page         {where}/tune.html  (its pictures: {where}/plots)")
    # On an object store the journal is in segments, which the dashboard cannot open.
    shows = "" if "://" in str(where) else f"  (optuna-dashboard {where}/study.journal shows them)"
    say(f"trials       {where}/trials.parquet{shows}")
    say(f"winner       {where}/best.yaml  (again: rsray train --config {where}/best.yaml)")


def _show_trials(where, config) -> None:  # type: ignore[no-untyped-def]
    """Print on stdout the table of a grid, or of the trials on the Pareto front."""
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
    for row in pq.read_table(f"{where}/trials.parquet").to_pylist():
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
        from rsray.fleet.watch import Watch

        return Watch(
            trial=self.trial, phase=self.phase, training=self.training, certifying=self.certifying
        )

    def phase(self, name: str) -> None:
        """Begin a bar."""
        from rsray_cli.live import CertifyBar, TrainingBar, say

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
        from rsray_cli.live import say

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
