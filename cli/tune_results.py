"""What `rsray tune` says before a search, and the results at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsray.config import TuneConfig
    from rsray.outcomes import Study


def show_plan(where: str, config: TuneConfig, num_test_images: int) -> None:
    """Say on stderr what will be searched and certified, and whether a paper's setting is in it."""
    from rsray.config import CertifyConfig
    from rsray.data import selected
    from rsray.distributed.search.space import (
        distributions,
        most_epochs,
        published_settings,
        why_untried,
    )
    from rsray.screen import say

    base, number = config.train, f"{config.trials} trials of up to {most_epochs(config)} epochs"
    about = f"{base.objective} on {base.dataset}, sigma {base.sigma:g}"
    say(f"searching {', '.join(config.search)} of {about}: {number} -> {where}")
    reason = why_untried(distributions(config.search), base)
    if not published_settings(base):
        say(f"no paper has a setting for {about}")
    elif reason and config.sampler != "grid":
        say(f"the published setting is not among the trials: {reason}")
    if config.final:
        images = len(selected(num_test_images, 0, config.skip, config.limit))
        settings = "the winner and what it is compared with" if config.compare else "the winner"
        each = CertifyConfig.model_fields["n0"].default + config.n
        draws = images * each * (1 + config.compare)
        say(f"then certifying {settings} on {images:,} test images: up to {draws:,} draws")


def show_results(study: Study) -> int:
    """Print the results on stdout, and on stderr where everything is.

    Returns how many test images have no certificate; they are named.
    """
    from rsray.screen import say
    from rsray_cli.results import name_failures

    where, finals = study.place, study.finals
    config = study.config
    if config.sampler == "grid" or len(config.objectives) > 1:
        _show_trials(study, config)
    if finals.best is not None:
        _show_certificates(study)
    if finals.won:
        say(f"the winner is the {finals.rival} itself")
    say(f"page         {where / 'tune.html'}  (its pictures: {where / 'plots'})")
    # On an object store the journal is in segments, which the dashboard cannot open.
    shows = f"  (optuna-dashboard {where / 'study.journal'} shows them)" if where.is_local else ""
    say(f"trials       {where / 'trials.parquet'}{shows}")
    say(f"winner       {where / 'best.yaml'}  (again: rsray train --config {where / 'best.yaml'})")
    return sum(name_failures(done["failed"]) for done in (finals.best, finals.paper) if done)


def _show_certificates(study: Study) -> None:
    """Print the table and the ACR of the winner and its rival, and draw their curves."""
    from rsray import api
    from rsray.screen import say
    from rsray_cli import results

    where, finals = study.place, study.finals
    assert finals.best is not None
    folders = [where / "best" / "certificates"]
    folders += [where / "paper" / "certificates"] if finals.paper else []
    results.show(*folders)
    print(f"ACR {finals.best['acr']:.4f} over {finals.best['num_images']} test images")
    if finals.paper is not None:
        print(f"ACR {finals.paper['acr']:.4f} of the {finals.rival}, on the same images")
    curve = where / "radius-accuracy.png"
    api.report(folders, plot=curve)
    say(f"curve        {curve}")
    say(f"certificates {', '.join(map(str, folders))}")


def _show_trials(study: Study, config: TuneConfig) -> None:
    """Print on stdout the table of a grid, or of the trials on the Pareto front."""
    import rich.box
    from rich.console import Console
    from rich.table import Table

    is_grid = config.sampler == "grid"
    names = ["number", *config.search, "projected_acr", "clean_accuracy", "state"]
    title = None if is_grid else "Pareto front"
    table = Table(
        *[name.replace("_", " ") for name in names], box=rich.box.SIMPLE_HEAD, title=title
    )
    for row in study.trials.to_pylist():
        if not (is_grid or row["pareto"]):
            continue
        cells = (row[name] for name in names)
        table.add_row(*[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])
    Console().print(table)
