"""Do signals of the training itself order models: forgetting, churn, two halves, representation, coherence of steps?

    python benchmarks/early_signals.py --data DIR --out signals.json [--tasks 50] [--jobs 2] [--print]

The runs of the small plan that are in the development part and of tasks with at least 1,000 test images are trained
again, with what follows recorded after every epoch on the monitored samples; `--print` scores what is in the file.

* *Forgetting* (Toneva et al. 2019, arXiv 1812.05159): how often a sample turned from right to wrong, per sample and
  epoch so far; the share of samples that were forgotten once or more; and the share of epochs after which a sample was
  first right.
* *Churn*: the share of samples whose predicted class is not that of the epoch before, on the samples and on fixed
  flipped and shifted copies of them, mean of the last quarter of the epochs so far.
* *Agreement of two halves*: cosine of the gradients of the mean loss on two halves of the samples; and the share of
  samples to which linear classifiers of either half give the same class (ridge, on the representation before the last
  layer, mean over positions).
* *Representation*: the leave-one-out accuracy of ridge regression on that representation, every sample weighted by one
  minus its leverage, so that what is memorised counts little; and its growth since before training.
* *Coherence of steps* (after Fort et al. 2019, arXiv 1901.09491): by how much a step lowers the loss on other samples
  for each nat by which it lowers it on its own batch, mean of the last quarter of the epochs so far.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from lightning_gengap.zoo.evaluate.regressors import Codes, hold_out_points
from lightning_gengap.zoo.evaluate.splits import development, splits
from signal_recorder import Recorder

from lightning_gengap.samples.drawing import SampleReader, draw_samples
from lightning_gengap.zoo.evaluate.abilities import ranking
from lightning_gengap.zoo.evaluate.bootstrap import Resampling
from lightning_gengap.zoo.fit.fit import usable
from lightning_gengap.zoo.fit.specifications import IMAGES_3, TRIVIAL, Specification, Term
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as written
from lightning_gengap.zoo.table import Table, read, with_numbers
from lightning_gengap.zoo.train.plans import small_zoo
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.run import MONITORED, fresh_model, loader, make_trainer
from lightning_gengap.zoo.train.silence_lightning import silence_lightning
from lightning_gengap.zoo.train.task import prepare

TABLE = Path(__file__).resolve().parent.parent / "pretrained_predictors" / "small_zoo_v3.csv.gz"
SIGNALS = (
    "forgetting/rate",
    "forgetting/ever",
    "forgetting/learned_at",
    "churn/samples",
    "churn/copies",
    "halves/gradients",
    "halves/classifiers",
    "representation/weighted",
    "representation/weighted_growth",
    "steps/coherence",
)


def trained_again(recipe: Recipe, directory: Path | None) -> tuple[str, dict[str, Any]]:
    """The key of one run, and its snapshots with their signals."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    with silence_lightning():
        data = prepare(recipe.task, directory)
        model = fresh_model(recipe, data, directory)
        batches = loader(data, recipe.batch_size)
        samples = draw_samples(batches, SampleReader(MONITORED))
        assert samples is not None
        inputs = torch.cat([batch.inputs for batch in samples.batches if batch.inputs is not None])
        targets = torch.cat([batch.targets for batch in samples.batches])
        recorder = Recorder(inputs, targets, recipe, data)
        make_trainer(recipe.epochs, [recorder], "cpu").fit(model, batches)
    return recipe.key, {"rows": recorder.rows, "seconds": time.perf_counter() - begun}


def chosen(table: Table, tasks: int) -> list[Recipe]:
    """Recipes of the small plan in the development part, of tasks that can be ranked and are soon trained."""
    serving = development(table) & (table.numbers("gap.test_samples") >= 1000)
    serving &= table.numbers("recipe.train_samples") < 10_000
    keys = set(table.words("run")[serving])
    return [recipe for recipe in small_zoo(tasks) if recipe.key in keys]


def with_signals(table: Table, found: dict[str, Any]) -> tuple[Table, float]:
    """The table with a column for each signal, and the largest difference of a gap from the table's."""
    places = {(run, float(row["epoch"])): row for run, one in found.items() for row in one["rows"]}
    keys = list(zip(table.words("run"), table.numbers("epoch").tolist(), strict=True))
    gaps = np.array([places.get(key, {}).get("gap.accuracy", np.nan) for key in keys])
    difference = float(np.nanmax(np.abs(gaps - table.numbers("gap.accuracy"))))
    for name in SIGNALS:
        table = with_numbers(table, f"measure.{name}", np.array([places.get(k, {}).get(name, np.nan) for k in keys]))
    return table, difference


def scored(table: Table) -> str:
    """What each signal adds to the trivial features and to `images_v3`, on development tasks held out."""
    trivial = Specification("trivial", TRIVIAL, "additive")
    columns = [table.numbers(f"measure.{name}") for name in SIGNALS]
    among = development(table) & usable(table, trivial) & usable(table, IMAGES_3) & np.isfinite(columns).all(axis=0)
    runs, tasks = (len(set(table.words(column)[among])) for column in ("run", "task"))
    split, codes, draws = splits(table)["by task"], Codes.of(table), Resampling.of(table)
    actual = table.numbers("gap.accuracy")
    signals = {"": (), **{name: (Term(name, "identity"),) for name in SIGNALS}}
    signals["all"] = tuple(Term(name, "identity") for name in SIGNALS)
    lines, bases = [], {}
    for name, terms in signals.items():
        cells = [name or "none"]
        for base in (trivial, IMAGES_3):
            held = hold_out_points(table, replace(base, features=(*base.features, *terms)), split, among, codes=codes)
            error = draws.mean(100 * np.abs(held.gap - actual[held.rows]), held.rows)
            ranked = ranking(table, held.rows, {"trivial": held.gap, "one": held.gap})
            base_error = bases.setdefault(base.name, error)
            cells.append(ranged((base_error.minus(error) if name else error).listed(), 1))
            cells += [f"{ranked[kind]['tau']['one'][0]:.2f}" for kind in ("along training", "final")]
        if len(terms) == 1:
            rows = np.flatnonzero(among)
            own = table.numbers("measure.train_accuracy")[rows] - table.numbers(f"measure.{name}")[rows]
            alone = ranking(table, rows, {"trivial": own, "one": own})
            cells += [f"{alone[kind]['tau']['one'][0]:.2f}" for kind in ("along training", "final")]
        else:
            cells += ["", ""]
        lines.append(cells)
    header = ["signal"]
    for base in ("trivial", IMAGES_3.name):
        header += [f"saved of {base}'s error (first line: the error)", "tau, along training", "tau, last"]
    header += ["its own tau, along training", "last"]
    return f"{int(among.sum())} rows of {runs} runs in {tasks} tasks\n\n" + written(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/early_signals.json"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--print", action="store_true", help="score what is in the file, train nothing")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    table = read(TABLE)
    left = [] if options.print else [recipe for recipe in chosen(table, options.tasks) if recipe.key not in found]
    jobs = (delayed(trained_again)(recipe, options.data) for recipe in left)
    for number, (key, one) in enumerate(Parallel(n_jobs=options.jobs, return_as="generator_unordered")(jobs), 1):
        found[key] = one
        options.out.write_text(json.dumps(found))
        print(f"{number} of {len(left)}: {one['seconds']:.0f} s", flush=True)
    table, difference = with_signals(table, found)
    print(f"gaps differ from the table's by at most {100 * difference:.2f} points; ", end="")
    print(scored(table))


if __name__ == "__main__":
    main()
