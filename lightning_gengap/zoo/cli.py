"""The verbs of `gengap zoo`: recipe to run, run to table, table to predictor, predictor to report."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from lightning_gengap.errors import DataError
from lightning_gengap.zoo.files import refuse_overwriting, sorted_out

Backend = Literal["loky", "dask", "ray"]
Plan = Literal["small", "grids", "wide", "long", "whole", "digits", "tables", "texts", "colour", "large_colour"]
Accelerator = Literal["cpu", "gpu", "auto"]

zoo = typer.Typer(help="Train models, collect their measurements, fit a predictor and report on it.")


def _checked_processes(number: int) -> int:
    if number == 0 or number < -1:
        raise typer.BadParameter(f"{number} is neither -1 nor a number of processes.")
    return number


DataFolder = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of <source>_<split>_{images,labels}.npy, <text>.npz and <table>.dat."),
]
Processes = Annotated[
    int, typer.Option(callback=_checked_processes, help="At a time; -1 for all that the backend has.")
]
OnBackend = Annotated[Backend, typer.Option(help="Local processes, or a running cluster.")]


@zoo.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/zoo"),
    data: DataFolder = None,
    plan: Annotated[Plan, typer.Option(help="Which recipes.")] = "small",
    tasks: Annotated[
        int | None, typer.Option(min=1, help="So many tasks of the plan; by default all that it has by itself.")
    ] = None,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the weights of snapshots, for `gengap zoo remeasure`.")
    ] = False,
    accelerator: Annotated[
        Accelerator,
        typer.Option(
            help="What trains; on a GPU all processes share one. A run's key does not depend on it, so that a folder "
            "can be resumed on another."
        ),
    ] = "cpu",
    processes: Processes = 2,
    backend: OnBackend = "loky",
) -> None:
    """Train the zoo's models. Finished runs are kept, so that it can be resumed."""
    from joblib import delayed

    from lightning_gengap.zoo.train.parallel import in_parallel
    from lightning_gengap.zoo.train.plans import planned
    from lightning_gengap.zoo.train.run import check_accelerator, run

    if backend == "loky":  # on a cluster it is the workers that need the GPU
        check_accelerator(accelerator)
    recipes = planned(plan, tasks)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [delayed(run)(recipe, data, out, keep_weights, accelerator) for recipe in recipes]
    trained = in_parallel(jobs, processes, backend, "run")
    print(f"{trained} runs trained, {len(recipes) - trained} were there already: {out}")


@zoo.command()
def remeasure(
    runs: Annotated[Path, typer.Argument(help="Folder of runs.")],
    measures: Annotated[list[str], typer.Option(help="One or more names, as in --measures hessian tic.")],
    more_measures: Annotated[list[str] | None, typer.Argument(help="The names after the first.")] = None,
    data: DataFolder = None,
    last_only: Annotated[bool, typer.Option("--last-only", help="Only the last snapshot of each run.")] = False,
    processes: Processes = 2,
    backend: OnBackend = "loky",
) -> None:
    """Add measures to finished runs, from the weights that they kept."""
    from joblib import delayed

    from lightning_gengap.measures import get_measure
    from lightning_gengap.zoo.train.parallel import in_parallel
    from lightning_gengap.zoo.train.remeasure import remeasure

    names = [*measures, *(more_measures or ())]  # an option takes one value
    for name in names:
        get_measure(name)
    paths, cut = sorted_out(runs)
    _say_skipped(cut)
    if not paths:
        raise DataError(
            "runs",
            got=f"no finished run in {runs}",
            expected="files <key>.json",
            remedy="`gengap zoo run` first.",
        )
    jobs = [delayed(remeasure)(path, names, data, last_only) for path in paths]
    measured = in_parallel(jobs, processes, backend, "run")
    print(f"{measured} runs measured, {len(paths) - measured} had {', '.join(names)} already: {runs}")


@zoo.command()
def table(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, and tables to add to them.")],
    out: Annotated[Path, typer.Option(help="A .csv.gz file.")],
) -> None:
    """Collect finished runs in one table."""
    from lightning_gengap.zoo.table import collect, joined, read, rows_of, write_checked

    refuse_overwriting(out)
    for folder in filter(Path.is_dir, runs):
        _say_skipped(sorted_out(folder)[1])
    parts = [collect(part) if part.is_dir() else rows_of(read(part)) for part in runs]
    written = write_checked(joined(*parts), out)
    counts = len(set(written.columns["run"])), len(set(written.columns["task"]))
    print(f"{len(written)} snapshots of {counts[0]} runs in {counts[1]} tasks: {out}")


def _say_skipped(paths: Iterable[Path]) -> None:
    for path in paths:
        print(f"gengap: skipped {path}: not a whole run. Repeat it with `gengap zoo run`.", file=sys.stderr)


@zoo.command()
def fit(
    table: Annotated[Path, typer.Argument(help="A .csv.gz file of `gengap zoo table`.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The predictor's .json file. Its card is written beside it; so is the figure of a predictor of one "
            "grid, where matplotlib is installed."
        ),
    ],
    name: Annotated[
        str, typer.Option(help="The predictor's name. A bundled name has its own features.")
    ] = "default_v3",
    like: Annotated[
        str | None, typer.Option(help="The bundled name whose features it has, if not --name; else default_v3.")
    ] = None,
    no_scores: Annotated[
        bool, typer.Option("--no-scores", help="Skip the held-out scores, which take minutes.")
    ] = False,
) -> None:
    """Fit a predictor to a table, and score it on held-out groups."""
    from lightning_gengap.zoo.release import fit_to_files

    predictor = fit_to_files(table, out, name, like, scored=not no_scores)
    print(f"{predictor.name} fitted on {predictor.provenance['runs']} runs: {out}")


@zoo.command()
def evaluate(
    table: Annotated[Path, typer.Argument(help="A .csv.gz file of `gengap zoo table`.")],
    predictor: Annotated[str, typer.Option(help="A bundled name or a path; its own fit is not used.")] = "default",
    out: Annotated[Path, typer.Option(help="Folder for report.md, report.json and figures.")] = Path("runs/evaluation"),
    locked: Annotated[bool, typer.Option("--locked", help="Score the locked part too; note each use.")] = False,
    figures: Annotated[
        bool | None, typer.Option(help="Draw them; by default where matplotlib is installed.", show_default=False)
    ] = None,
) -> None:
    """Report on a predictor's features, fitted anew in every fold. It takes minutes."""
    from lightning_gengap.zoo.release import evaluate_to_folder

    print(evaluate_to_folder(table, predictor, out, locked, figures))
    print(f"Written: {out}")
