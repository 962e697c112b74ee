"""The console command `gengap`. What a verb needs is imported when it runs, so that its help appears at once."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from lightning_gengap import __version__
from lightning_gengap.errors import GapError
from lightning_gengap.zoo.cli import zoo
from lightning_gengap.zoo.files import refuse_overwriting

UsageError: Any = typer.BadParameter.mro()[1]  # of click, which newer versions of typer contain and older ones import

app = typer.Typer(
    help="The generalization gap of a classifier, from its training data alone.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(zoo, name="zoo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments: of the command line, without the command's name; by default those of this process.

    Returns:
        The exit status: 2 for an error that the user can correct, which is one line on standard error.

    >>> main(["--version"])
    gengap 0.1.0
    0
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows another
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="gengap", standalone_mode=False)
    except GapError as error:
        return _refused(str(error))
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        return _refused(f"got {got}; expected files and folders that can be read and written. Choose others.")
    except typer.Abort:
        return 130
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "gengap"
        message = error.format_message()
        return _refused(f"{message}{'' if message.endswith(('.', '?')) else '.'} See `{command} --help`.")
    return status or 0


def _refused(message: str) -> int:
    print(f"gengap: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"gengap {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hold the options of the command itself."""


@app.command()
def demo(
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    out: Annotated[Path, typer.Option(help="Folder for TensorBoard events.")] = Path("runs"),
) -> None:
    """Train a small network on digits and watch its gap."""
    from lightning_gengap.demo import demo

    demo(epochs, out)


@app.command()
def predictors(
    name: Annotated[str | None, typer.Argument(help="A bundled name, or the path of a predictor file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the predictor as JSON, in full.")] = False,
) -> None:
    """List the bundled predictors, or describe one."""
    from lightning_gengap.predictor_summary import show_predictor, show_predictors
    from lightning_gengap.predictors.files import load_predictor

    if name is None and as_json:
        raise typer.BadParameter("name the predictor to print", param_hint="'--json'")
    if name is None:
        show_predictors()
    elif as_json:
        print(json.dumps(asdict(load_predictor(name)), indent=1, sort_keys=True))
    else:
        show_predictor(load_predictor(name))


@app.command()
def measures(name: Annotated[str | None, typer.Argument(help="A measure.")] = None) -> None:
    """Print all measures and keys as Markdown, as in docs/measures.md, or describe one measure."""
    from lightning_gengap.reference_pages import describe_measure, measures_page

    print(measures_page() if name is None else describe_measure(name), end="")


@app.command()
def measure(
    model: Annotated[str, typer.Option(help="module:callable that returns the torch module.")],
    data: Annotated[Path, typer.Option(help=".npz file with `images` (or `inputs`) and `labels`.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A Lightning checkpoint or a state dict.")] = None,
    predictor: Annotated[str, typer.Option(help="A bundled name, or the path of a predictor file.")] = "default",
    train_samples: Annotated[
        int | None, typer.Option(min=1, max=2**53, help="Size of the training set, where the data are a part of it.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("--samples", min=1, help="Measure so many of the samples, drawn as a monitor does.")
    ] = None,
) -> None:
    """Measure a model on training samples, and predict its gap."""
    from lightning_gengap.command_inputs import explaining_failures, load_model, read_samples, restore_weights
    from lightning_gengap.predictors.files import load_predictor
    from lightning_gengap.samples.reader import SampleReader
    from lightning_gengap.standalone import ALL, default_measures, flags_of, measurer_for

    chosen = load_predictor(predictor)
    samples, module = read_samples(data), load_model(model)
    initial_state = None if checkpoint is None else restore_weights(module, checkpoint)
    with explaining_failures(samples), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reader = SampleReader(ALL if number is None else number)
        measurer = measurer_for(module, samples, reader, initial_state, train_samples)
        found = measurer.measure(module, default_measures(chosen))
        flags = flags_of(measurer, module)
    for note in (*found.notes, *(str(warning.message) for warning in caught)):
        print(f"gengap: {' '.join(note.split())}", file=sys.stderr)
    prediction = asdict(chosen.predict(found.values, flags))
    print(json.dumps({"values": found.values, "predictor": chosen.name, "prediction": prediction}, indent=1))


@app.command()
def learning_curve(
    model: Annotated[str, typer.Option(help="module:callable that returns the LightningModule before its first step.")],
    data: Annotated[Path, typer.Option(help=".npz file with `images` (or `inputs`) and `labels`.")],
    epochs: Annotated[int, typer.Option(min=1, help="Of each training, as of one on all samples.")],
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    fractions: Annotated[str, typer.Option(help="Parts of the samples to train on.")] = "1/8,1/4,1/2",
    trainer: Annotated[str, typer.Option(help="Further arguments of the Trainer, as a JSON object.")] = "{}",
    out: Annotated[Path | None, typer.Option(help="Folder for finished parts; go on from them.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curve to this .png file.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train a model on parts of its data: what would all of them give, and twice and four times as many?"""
    import torch

    from lightning_gengap import command_inputs as inputs
    from lightning_gengap.learning_curves.learning_curve import learning_curve

    parts = inputs.read_fractions(fractions)
    arguments = {"max_epochs": epochs, **inputs.read_object("--trainer", trainer)}
    samples = inputs.read_samples(data)
    torch.manual_seed(seed)  # of the initial weights
    module = inputs.load_model(model)
    with inputs.explaining_failures(samples):
        curve = learning_curve(module, samples, parts, trainer=arguments, batch_size=batch_size, seed=seed, out=out)
    print(curve.table())
    if figure is not None:
        curve.figure(figure)


@app.command()
def compare(
    checkpoints: Annotated[list[Path], typer.Argument(help="Of trainings with GapMonitor, two or more.")],
    same: Annotated[
        str, typer.Option(help="What they have in common: run (epochs of one), recipe, or task (the data set).")
    ] = "task",
) -> None:
    """Say which checkpoint has the highest test accuracy, and how probable it is that others are better."""
    if len(checkpoints) < 2:
        raise typer.BadParameter("name two checkpoints or more", param_hint="'CHECKPOINTS...'")
    from lightning_gengap.monitor.comparing import ranking

    print(ranking(checkpoints, same))


@app.command()
def recalibrate(
    pairs: Annotated[
        Path, typer.Argument(help='JSON list of {"values": from `gengap measure`, "gap": ..., "samples": m, ...}.')
    ],
    out: Annotated[Path, typer.Option(help="The new predictor's .json file.")],
    predictor: Annotated[str, typer.Option(help="A bundled name, or the path of a predictor file.")] = "default",
) -> None:
    """Let a predictor know the gaps of other models, which you observed on so many held-out samples."""
    from lightning_gengap.command_inputs import read_observed_gaps
    from lightning_gengap.predictors.files import dumps, load_predictor
    from lightning_gengap.predictors.recalibration import described, recalibrate

    refuse_overwriting(out)
    moved = recalibrate(load_predictor(predictor), read_observed_gaps(pairs))
    out.write_text(dumps(moved), encoding="utf-8")
    print(f"{described(moved)}: {out}")
