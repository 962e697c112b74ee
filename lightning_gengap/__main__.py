"""The console command `gengap`: demo, predictors, measures, measure, and the stages of the zoo."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_gengap.errors import ConfigurationError, GapError
from lightning_gengap.zoo.commands import zoo_stages
from lightning_gengap.zoo.files import refuse_overwriting


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

    listing = verbs.add_parser("measures", help="list all measures and keys, as docs/measures.md")
    listing.set_defaults(verb=_measures)

    measuring = verbs.add_parser("measure", help="measure a model on training samples, and predict its gap")
    measuring.add_argument("--model", required=True, help="module:callable that returns the torch module")
    measuring.add_argument("--data", required=True, type=Path, help=".npz with `images` (or `inputs`) and `labels`")
    measuring.add_argument("--checkpoint", type=Path, help="a Lightning checkpoint or a state dict")
    measuring.add_argument("--predictor", default="default")
    measuring.add_argument("--train-samples", type=int, help="training-set size, where the data are a part of it")
    measuring.set_defaults(verb=_measure)

    recalibrating = verbs.add_parser("recalibrate", help="move a predictor towards gaps that you observed")
    recalibrating.add_argument("pairs", type=Path, help='JSON list of {"values": from `gengap measure`, "gap": ...}')
    recalibrating.add_argument("--predictor", default="default")
    recalibrating.add_argument("--out", type=Path, required=True, help="the new predictor's .json file")
    recalibrating.set_defaults(verb=_recalibrate)

    zoo_stages(verbs.add_parser("zoo", help="fit a predictor").add_subparsers(required=True, metavar="STAGE"))
    return parser


def _demo(options: argparse.Namespace) -> None:
    from lightning_gengap.demo import demo

    demo(options.epochs, options.out)


def _predictors(options: argparse.Namespace) -> None:
    from lightning_gengap.predictors.files import available_predictors, load_predictor

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


def _measures(options: argparse.Namespace) -> None:
    from lightning_gengap.reference_pages import measures_page

    print(measures_page(), end="")


def _measure(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from lightning_gengap.predictors.files import load_predictor
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


def _recalibrate(options: argparse.Namespace) -> None:
    from lightning_gengap.predictors.files import dumps, load_predictor
    from lightning_gengap.predictors.recalibration import recalibrate

    refuse_overwriting(options.out)
    try:
        pairs = [(dict(pair["values"]), float(pair["gap"])) for pair in json.loads(options.pairs.read_text())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            str(options.pairs),
            got=f"{type(error).__name__}: {error}",
            expected='a JSON list of {"values": {...}, "gap": 0.12}',
            remedy="Take the values from `gengap measure`, and the gap from held-out data.",
        ) from None
    predictor = recalibrate(load_predictor(options.predictor), pairs)
    options.out.write_text(dumps(predictor), encoding="utf-8")
    correction = predictor.correction
    assert correction is not None, "recalibrate always sets it"
    print(
        f"{correction.pairs} observed gaps: factor {correction.factor:.2f}, width {correction.width:.2f}: {options.out}"
    )


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


if __name__ == "__main__":
    sys.exit(main())
