"""The stages of the zoo as verbs of the console command: recipe to run, run to table, table to predictor, report."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_gengap.errors import ConfigurationError, DataError
from lightning_gengap.zoo.files import refuse_overwriting
from lightning_gengap.zoo.train.parallel import BACKENDS, in_parallel


def zoo_stages(stages: Any) -> None:
    """Add the stages to the parser of `gengap zoo`."""
    run = stages.add_parser("run", help="train the zoo's models; finished runs are kept, so it can be resumed")
    run.add_argument("--out", type=Path, default=Path("runs/zoo"))
    run.add_argument("--data", type=Path, help="folder of <source>_<split>_{images,labels}.npy")
    run.add_argument(
        "--plan",
        choices=("small", "grids", "wide", "long", "whole", "digits"),
        default="small",
        help="which recipes; see zoo/plans.py, grid_plans.py and long_plans.py",
    )
    run.add_argument("--tasks", type=int, help="so many tasks of the plan; the default is 50, or all grids")
    run.add_argument("--keep-weights", action="store_true", help="keep the weights of snapshots, for `zoo remeasure`")
    run.add_argument(
        "--accelerator",
        choices=("cpu", "gpu", "auto"),
        default="cpu",
        help="what trains: on a GPU all --processes share one; a run's key does not depend on it, so that a folder can "
        "be resumed on another",
    )
    _parallel_options(run)
    run.set_defaults(verb=_run)

    again = stages.add_parser("remeasure", help="add measures to finished runs, from the weights they kept")
    again.add_argument("runs", type=Path)
    again.add_argument("--measures", nargs="+", required=True)
    again.add_argument("--data", type=Path, help="as for `zoo run`")
    again.add_argument("--last-only", action="store_true", help="only the last snapshot of each run")
    _parallel_options(again)
    again.set_defaults(verb=_remeasure)

    table = stages.add_parser("table", help="collect finished runs in one table")
    table.add_argument("runs", type=Path, nargs="+", help="folders of runs, and tables to add to them")
    table.add_argument("--out", type=Path, required=True, help="a .csv.gz file")
    table.set_defaults(verb=_table)

    fitting = stages.add_parser("fit", help="fit a predictor to a table, and score it on held-out groups")
    fitting.add_argument("table", type=Path)
    fitting.add_argument("--name", default="default_v3", help="a bundled name has its own features")
    fitting.add_argument("--like", help="whose features others have: a bundled name; the default is default_v3")
    fitting.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the predictor's .json file; its card goes beside it, and a group's figure where matplotlib is installed",
    )
    fitting.add_argument("--no-scores", action="store_true", help="skip the held-out scores, which take minutes")
    fitting.set_defaults(verb=_fit)

    evaluation = stages.add_parser(
        "evaluate", help="print and write the whole report of a predictor's features, re-fitted in every fold; minutes"
    )
    evaluation.add_argument("table", type=Path)
    evaluation.add_argument("--predictor", default="default", help="a bundled name or a path; its fit is not used")
    evaluation.add_argument(
        "--out", type=Path, default=Path("runs/evaluation"), help="folder for report.md, report.json and figures"
    )
    evaluation.add_argument("--locked", action="store_true", help="score the locked part too; note each use")
    evaluation.add_argument(
        "--figures",
        action=argparse.BooleanOptionalAction,
        help="draw them; the default is to draw where matplotlib is installed",
    )
    evaluation.set_defaults(verb=_evaluate)


def _parallel_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=2, help="at a time; -1 for all that the backend has")
    parser.add_argument("--backend", choices=BACKENDS, default="loky", help="local processes, or a running cluster")


def _run(options: argparse.Namespace) -> None:
    from joblib import delayed

    from lightning_gengap.zoo.train.run import check_accelerator, run

    if options.backend == "loky":  # on a cluster it is the workers that need the GPU
        check_accelerator(options.accelerator)
    recipes = list(_planned(options.plan, options.tasks))
    options.out.mkdir(parents=True, exist_ok=True)
    rest = (options.data, options.out, options.keep_weights, options.accelerator)
    jobs = [delayed(run)(recipe, *rest) for recipe in recipes]
    trained = in_parallel(jobs, options.processes, options.backend, "run")
    print(f"{trained} runs trained, {len(recipes) - trained} were there already: {options.out}")


def _planned(plan: str, tasks: int | None) -> Iterable[Any]:
    from lightning_gengap.zoo.train import long_plans, plans
    from lightning_gengap.zoo.train.grid_plans import GRIDS, grid_zoo

    if plan == "grids":
        return grid_zoo(len(GRIDS) if tasks is None else tasks)
    if plan == "whole":
        return islice(long_plans.whole_zoo(), None if tasks is None else plans.RUNS_PER_TASK * tasks)
    of_tasks: dict[str, Callable[[int], Iterator[Any]]] = {
        "small": plans.small_zoo,
        "wide": plans.wide_zoo,
        "long": long_plans.long_zoo,
        "digits": plans.digits_zoo,
    }
    return of_tasks[plan](50 if tasks is None else tasks)


def _remeasure(options: argparse.Namespace) -> None:
    from joblib import delayed

    from lightning_gengap.measures import get_measure
    from lightning_gengap.zoo.files import sorted_out
    from lightning_gengap.zoo.train.remeasure import remeasure

    names = [name for name in options.measures if get_measure(name)]
    paths, cut = sorted_out(options.runs)
    _say_skipped(cut)
    if not paths:
        raise DataError(
            "runs",
            got=f"no finished run in {options.runs}",
            expected="files <key>.json",
            remedy="`gengap zoo run` first.",
        )
    jobs = [delayed(remeasure)(path, names, options.data, options.last_only) for path in paths]
    measured = in_parallel(jobs, options.processes, options.backend, "run")
    print(f"{measured} runs measured, {len(paths) - measured} had {', '.join(names)} already: {options.runs}")


def _table(options: argparse.Namespace) -> None:
    from lightning_gengap.zoo.files import sorted_out
    from lightning_gengap.zoo.table import collect, joined, read, rows_of, write_checked

    refuse_overwriting(options.out)
    for folder in filter(Path.is_dir, options.runs):
        _say_skipped(sorted_out(folder)[1])
    parts = [collect(part) if part.is_dir() else rows_of(read(part)) for part in options.runs]
    table = write_checked(joined(*parts), options.out)
    runs, tasks = len(set(table.columns["run"])), len(set(table.columns["task"]))
    print(f"{len(table)} snapshots of {runs} runs in {tasks} tasks: {options.out}")


def _say_skipped(paths: Iterable[Path]) -> None:
    for path in paths:
        print(f"gengap: skipped {path}: not a whole run. Repeat it with `gengap zoo run`.", file=sys.stderr)


def _fit(options: argparse.Namespace) -> None:
    from lightning_gengap.predictors.files import dumps
    from lightning_gengap.zoo.evaluate.one_family import scored_by_run
    from lightning_gengap.zoo.evaluate.split_scores import check_scores, scores
    from lightning_gengap.zoo.fit.fit import check_fit, fit, usable
    from lightning_gengap.zoo.fit.loss_head import fit_loss_head
    from lightning_gengap.zoo.fit.specifications import DEFAULT_3, SPECIFICATIONS
    from lightning_gengap.zoo.report.card import card
    from lightning_gengap.zoo.report.figures import drawable
    from lightning_gengap.zoo.report.one_family_card import one_family_card
    from lightning_gengap.zoo.report.one_family_figure import draw, shown
    from lightning_gengap.zoo.table import read

    card_path, figure_path = (options.out.with_suffix(suffix) for suffix in (".md", ".png"))
    if options.out in (card_path, figure_path):
        kind = "card" if options.out == card_path else "figure"
        raise ConfigurationError(
            f"--out {options.out}", got=f"the path of the {kind}", expected="a .json file", remedy="Name it *.json."
        )
    refuse_overwriting(options.out)
    refuse_overwriting(card_path)
    known = {"": DEFAULT_3, **SPECIFICATIONS}
    like = options.like or (options.name if options.name in SPECIFICATIONS else "")
    if like not in known:
        raise ConfigurationError(
            f"--like {like}",
            got="an unknown name",
            expected=f"one of {', '.join(SPECIFICATIONS)}",
            remedy="Name one of these, or leave it out for the features of default_v3.",
        )
    if known[like].grid:
        refuse_overwriting(figure_path)
    table, specification = read(options.table), replace(known[like], name=options.name)
    check_fit(table, specification)
    if not options.no_scores:
        check_scores(table, specification)
    predictor = fit(table, specification)
    if specification.loss_head:
        predictor = replace(predictor, loss_head=fit_loss_head(table, specification, usable(table, specification)))
    files: dict[Path, bytes] = {}
    if specification.grid and not options.no_scores:
        listed, held = scored_by_run(table, specification)
        predictor = replace(predictor, scores=listed)
        if drawable():
            files[figure_path] = draw(shown(predictor, table, held))
        files[card_path] = one_family_card(predictor, figure_path.name if files else "").encode()
    elif not options.no_scores:
        predictor = replace(predictor, scores=scores(table, specification))
        # Figures of `zoo evaluate`, where its folder bears the predictor's name and lies beside it.
        drawn = sorted(options.out.with_name(f"evaluation_{options.out.stem}").glob("*.png"))
        figures = [path.relative_to(options.out.parent).as_posix() for path in drawn]
        files[card_path] = card(predictor, table, figures).encode()
    files[options.out] = dumps(predictor).encode()
    for path, content in files.items():
        path.write_bytes(content)
    print(f"{predictor.name} fitted on {predictor.provenance['runs']} runs: {options.out}")


def _evaluate(options: argparse.Namespace) -> None:
    from lightning_gengap.predictors.files import load_predictor
    from lightning_gengap.zoo.evaluate.scores import assess
    from lightning_gengap.zoo.report import figures
    from lightning_gengap.zoo.report.report import report
    from lightning_gengap.zoo.table import read

    drawing = figures.drawable() if options.figures is None else options.figures
    if drawing:
        figures.require()
    if options.out.exists() and not options.out.is_dir():
        refuse_overwriting(options.out)
    paths = [options.out / name for name in ("report.md", "report.json")]
    for path in filter(Path.exists, paths):
        refuse_overwriting(path)
    assessment = assess(read(options.table), load_predictor(options.predictor).specification, options.locked)
    # All is made before the first file is written, so that no report is left half new.
    with tempfile.TemporaryDirectory() as folder:
        drawn = figures.draw(assessment, Path(folder)) if drawing else []
        text = report(assessment.report, drawn)
        numbers = json.dumps(assessment.report, indent=1, allow_nan=False) + "\n"
        options.out.mkdir(parents=True, exist_ok=True)
        for name in drawn:
            shutil.copyfile(Path(folder) / name, options.out / name)
    for path, content in zip(paths, (text, numbers), strict=True):
        path.write_text(content, encoding="utf-8")
    print(text)
    print(f"Written: {options.out}")
