"""The console command `gengap`: demo, predictors, measure, zoo run, zoo table, zoo fit."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning_gengap.errors import ConfigurationError, GapError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; an error a user can correct is one line on standard error and exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        options.verb(options)
    except GapError as error:
        print(f"gengap: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gengap", description="The generalization gap, from training data alone.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="train a small network on digits and watch its gap")
    demo.add_argument("--epochs", type=int, default=30)
    demo.add_argument("--out", type=Path, default=Path("runs"), help="folder for TensorBoard events")
    demo.set_defaults(verb=_demo)

    predictors = verbs.add_parser("predictors", help="list the bundled predictors, or show one")
    predictors.add_argument("name", nargs="?", help="a bundled name or the path of a predictor file")
    predictors.set_defaults(verb=_predictors)

    measuring = verbs.add_parser("measure", help="measure a model on training samples, and predict its gap")
    measuring.add_argument("--model", required=True, help="module:callable that returns the torch module")
    measuring.add_argument("--data", required=True, type=Path, help=".npz with `images` (or `inputs`) and `labels`")
    measuring.add_argument("--checkpoint", type=Path, help="a Lightning checkpoint or a state dict")
    measuring.add_argument("--predictor", default="default")
    measuring.add_argument("--train-samples", type=int, help="training-set size, where the data are a part of it")
    measuring.set_defaults(verb=_measure)

    stages = verbs.add_parser("zoo", help="fit a predictor").add_subparsers(required=True, metavar="STAGE")
    run = stages.add_parser("run", help="train the zoo's models; finished runs are kept, so it can be resumed")
    run.add_argument("--out", type=Path, default=Path("runs/zoo"))
    run.add_argument("--data", type=Path, help="folder of <source>_<split>_{images,labels}.npy")
    run.add_argument("--tasks", type=int, default=60, help="tasks of eight runs each")
    run.add_argument("--digits", action="store_true", help="tasks from the embedded digits only")
    run.add_argument("--processes", type=int, default=2)
    run.set_defaults(verb=_zoo_run)

    table = stages.add_parser("table", help="collect finished runs in one table")
    table.add_argument("runs", type=Path)
    table.add_argument("--out", type=Path, required=True, help="a .csv.gz file")
    table.set_defaults(verb=_zoo_table)

    fitting = stages.add_parser("fit", help="fit a predictor to a table, and score it on held-out groups")
    fitting.add_argument("table", type=Path)
    fitting.add_argument("--name", default="default_v1", help="images_v1 has its own features, others the default's")
    fitting.add_argument("--out", type=Path, required=True, help="the predictor's .json file; its card goes beside it")
    fitting.add_argument("--no-scores", action="store_true", help="skip the held-out scores, which take minutes")
    fitting.set_defaults(verb=_zoo_fit)
    return parser


def _demo(options: argparse.Namespace) -> None:
    from lightning_gengap.demo import demo

    demo(options.epochs, options.out)


def _predictors(options: argparse.Namespace) -> None:
    from lightning_gengap.predictor import available_predictors, load_predictor

    if options.name is not None:
        print(json.dumps(asdict(load_predictor(options.name)), indent=1, sort_keys=True))
        return
    for name in available_predictors():
        predictor = load_predictor(name)
        facts = predictor.provenance
        print(
            f"{name:16} {predictor.target}, {len(predictor.features)} features, fitted on {facts['runs']} runs", end=""
        )
        print(f" of {facts['tasks']} tasks{f' (= {predictor.name})' if name != predictor.name else ''}")


def _measure(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from lightning_gengap.predictor import load_predictor
    from lightning_gengap.standalone import measure

    predictor = load_predictor(options.predictor)
    arrays = np.load(options.data)
    inputs = next((arrays[name] for name in ("images", "inputs") if name in arrays), None)
    if inputs is None or "labels" not in arrays:
        raise ConfigurationError(
            f"--data {options.data}",
            got=f"arrays {', '.join(arrays)}",
            expected="`images` or `inputs`, as the model takes them, and `labels`",
            remedy="Write it with numpy.savez(path, inputs=..., labels=...).",
        )
    model = _model(options.model)
    initial_state = _restore(model, options.checkpoint) if options.checkpoint else None
    labelled = torch.utils.data.TensorDataset(torch.from_numpy(inputs), torch.from_numpy(arrays["labels"]))
    values = measure(model, labelled, initial_state=initial_state)
    if options.train_samples:
        values["train_samples"] = float(options.train_samples)
    prediction = asdict(predictor.predict(values))
    print(json.dumps({"values": values, "predictor": predictor.name, "prediction": prediction}, indent=1))


def _model(reference: str) -> Any:
    module, _, name = reference.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"--model {reference}",
            got=str(error),
            expected="module:callable, importable from here and callable without arguments",
            remedy="For example --model my_project.model:build.",
        ) from None


def _restore(model: Any, path: Path) -> dict[str, Any] | None:
    """Load weights; the initial ones too where GapMonitor kept them in the checkpoint."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(content.get("state_dict", content))
    kept = (state for key, state in content.get("callbacks", {}).items() if key.startswith("GapMonitor"))
    return next((state.get("initial_state") for state in kept), None)


def _zoo_run(options: argparse.Namespace) -> None:
    from joblib import Parallel, delayed
    from tqdm import tqdm

    from lightning_gengap.zoo.recipe import digits_zoo, small_zoo
    from lightning_gengap.zoo.train import run

    recipes = list((digits_zoo if options.digits else small_zoo)(options.tasks))
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = (delayed(run)(recipe, options.data, options.out) for recipe in recipes)
    parallel = Parallel(n_jobs=options.processes, batch_size=1, return_as="generator_unordered")
    trained = sum(tqdm(parallel(jobs), total=len(recipes), unit="run", disable=None))
    print(f"{trained} runs trained, {len(recipes) - trained} were there already: {options.out}")


def _zoo_table(options: argparse.Namespace) -> None:
    from lightning_gengap.zoo.table import collect, read, write

    _refuse_overwriting(options.out)
    write(collect(options.runs), options.out)
    table = read(options.out)
    runs, tasks = len(set(table.columns["run"])), len(set(table.columns["task"]))
    print(f"{len(table)} snapshots of {runs} runs in {tasks} tasks: {options.out}")


def _zoo_fit(options: argparse.Namespace) -> None:
    from lightning_gengap.predictor import dumps
    from lightning_gengap.zoo.card import card
    from lightning_gengap.zoo.evaluation import scores
    from lightning_gengap.zoo.fit import DEFAULT, SPECIFICATIONS, fit
    from lightning_gengap.zoo.table import read

    _refuse_overwriting(options.out)
    table, specification = read(options.table), replace(SPECIFICATIONS.get(options.name, DEFAULT), name=options.name)
    predictor = fit(table, specification)
    if not options.no_scores:
        predictor = replace(predictor, scores=scores(table, specification))
    options.out.write_text(dumps(predictor), encoding="utf-8")
    if not options.no_scores:
        options.out.with_suffix(".md").write_text(card(predictor, table), encoding="utf-8")
    print(f"{predictor.name} fitted on {predictor.provenance['runs']} runs: {options.out}")


def _refuse_overwriting(path: Path) -> None:
    if path.exists():
        raise ConfigurationError(
            f"--out {path}",
            got="a file that exists",
            expected="a new path",
            remedy="Remove it first, or choose another.",
        )


if __name__ == "__main__":
    sys.exit(main())
