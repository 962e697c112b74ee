"""What a learning curve says of a training on all samples, and of one on four times as many as the curve knows.

    python studies/learning_curves.py --data DIRECTORY --out runs/curves [--plans tables texts small] [--recipes 16]

The recipes are those of the zoo, whose runs on all N samples are in the committed tables. Of each recipe two curves
are trained: one on all N samples, by which the run of the table is estimated; and one on a quarter of them, by which
N / 4, N / 2 and N are foretold. What is true at N / 4 and N / 2 is a part of the first curve. Of the plan `colour`,
whose trainings are long, the first curve alone is trained, up to N / 4. A last table sets the first curve beside the
prediction of a predictor that was fitted without the source (of `colour`, without the data set), and beside their mean,
weighted by precision; and another adds held-out samples to both, drawn around the accuracy of the table, by kind of
data and number of training samples. Finished parts are kept in --out. Prints Markdown: errors in accuracy points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Subset, TensorDataset

from lightning_gengap import LearningCurve, learning_curve, load_predictor
from lightning_gengap.learning_curves.power_law import Estimate
from lightning_gengap.stratified_split import stratified_order
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts
from lightning_gengap.zoo.evaluate.held_out import offered
from lightning_gengap.zoo.evaluate.quick import hold_out_points
from lightning_gengap.zoo.sealed import sealed_families, sealed_sources
from lightning_gengap.zoo.splits import splits
from lightning_gengap.zoo.table import read
from lightning_gengap.zoo.train.model import fresh_model
from lightning_gengap.zoo.train.plans import planned
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import prepare

FOLDER = Path("pretrained_predictors")
TABLES = {
    "tables": "third_zoo_v2.csv.gz",
    "texts": "third_zoo_v2.csv.gz",
    "small": "small_zoo_v3.csv.gz",
    "colour": "image_zoo_v2.csv.gz",
}
PREDICTORS = {"tables": "default_v4", "texts": "default_v4", "small": "images_v3", "colour": "images_v5"}
KINDS = {"tables": "tables", "texts": "texts", "small": "small images", "colour": "32 x 32 images"}
FEWEST, MOST = 800, {"colour": 10_000}  # samples
_MOST = 4000  # of the other plans
FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
CHEAP = 2  # parts of a curve up to a quarter
LARGE = 2000  # samples, from which on a training set counts as large
CLOSE = 0.02
HELD = (0, 50, 100, 200, 500)  # samples
SEED = 0


@dataclass(frozen=True)
class Case:
    """A recipe with its two curves, and what the table says of its run on all samples."""

    kind: str
    recipe: Recipe
    whole: LearningCurve
    quarter: LearningCurve | None
    train_accuracy: float
    test_accuracy: float
    test_samples: float

    @property
    def group(self) -> str:
        """Its kind of data and whether the training set is small."""
        size = f"{LARGE} samples and more" if self.recipe.task.train_samples >= LARGE else f"below {LARGE} samples"
        return f"{self.kind}, {size}"

    @property
    def true(self) -> dict[str, float]:
        """The test accuracy on n, 2 n and 4 n samples, where n is a quarter of all."""
        _, quarter, half = self.whole.parts
        return {"n": quarter.test_accuracy, "2 n": half.test_accuracy, "4 n": self.test_accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data sets of the zoo")
    parser.add_argument("--out", type=Path, default=Path("runs/curves"), help="folder for what is finished")
    parser.add_argument("--plans", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--recipes", type=int, default=16, help="of each plan")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [
        case_of(plan, recipe, row, options) for plan in options.plans for recipe, row in chosen(plan, options.recipes)
    ]
    predictions = {run: each for plan in options.plans for run, each in predicted(plan).items()}
    full = [case for case in cases if case.quarter is not None]
    pages = [page(full)] if full else []
    print("\n\n".join([*pages, beside_predictions(cases, predictions), with_held_out(cases, predictions)]))


def chosen(plan: str, count: int) -> Iterator[tuple[Recipe, pd.Series]]:
    """Recipes of one run of each task in turn, whose run is in the table, and its last row."""
    table = pd.read_csv(FOLDER / TABLES[plan])
    last = table.sort_values("epoch").groupby("run").last()
    fitting = [
        recipe
        for recipe in planned(plan)
        if FEWEST <= recipe.task.train_samples <= MOST.get(plan, _MOST)
        and recipe.task.noise < 1
        and recipe.key in last.index
        and (plan != "colour" or not {recipe.family, recipe.task.source} & (sealed_families() | sealed_sources()))
    ]
    rng, taken = np.random.default_rng(SEED), 0
    while taken < count and fitting:
        tasks = list(dict.fromkeys(recipe.task for recipe in fitting))
        for task in tasks[: count - taken]:
            own = [recipe for recipe in fitting if recipe.task == task]
            recipe = own[int(rng.integers(len(own)))]
            fitting.remove(recipe)
            taken += 1
            yield recipe, last.loc[recipe.key]


def case_of(plan: str, recipe: Recipe, row: pd.Series, options: argparse.Namespace) -> Case:
    data = prepare(recipe.task, options.data)
    dataset, labels = TensorDataset(data.train_images, data.train_labels), data.train_labels.numpy()
    quarter = stratified_order(labels, SEED + 1)[: len(labels) // 4]

    def curve(part: Subset | TensorDataset, name: str, parts: int = len(FRACTIONS)) -> LearningCurve:
        return learning_curve(
            fresh_model(recipe, data, options.data),
            part,
            FRACTIONS[:parts],
            trainer={"max_epochs": recipe.epochs, "accelerator": "cpu", "gradient_clip_val": 5.0},
            batch_size=recipe.batch_size,
            out=options.out / recipe.key / name,
            progress=False,
        )

    return Case(
        KINDS[plan],
        recipe,
        curve(dataset, "whole", CHEAP if plan == "colour" else len(FRACTIONS)),
        None if plan == "colour" else curve(Subset(dataset, sorted(quarter.tolist())), "quarter"),
        float(row["gap.train_accuracy"]),
        float(row["gap.test_accuracy"]),
        float(row["gap.test_samples"]),
    )


def predicted(plan: str) -> dict[str, Estimate]:
    """The test accuracy of each run of a table, by a predictor that was fitted without its source, or data set.

    Its deviation is the root mean square of its errors on all last snapshots of the table.
    """
    specification = load_predictor(PREDICTORS[plan]).specification
    table = read(FOLDER / TABLES[plan])
    among = offered(table, specification, locked=True)
    split = "leave one data set out" if plan == "colour" else "leave one source out"
    rows, gaps = hold_out_points(table, specification, splits(table)[split], among)
    rows, gaps = (each[last_snapshots(table)[rows]] for each in (rows, gaps))
    test = table.numbers("measure.train_accuracy")[rows] - gaps
    deviation = float(np.sqrt(np.mean((test - table.numbers("gap.test_accuracy")[rows]) ** 2)))
    runs = table.words("run")[rows]
    return {str(run): Estimate(float(each), deviation, 0.0, 1.0) for run, each in zip(runs, test, strict=True)}


def beside_predictions(cases: Sequence[Case], predictions: Mapping[str, Estimate]) -> str:
    """Errors and m* of prediction, curves and both, on the recipes that have a prediction."""
    own = [case for case in cases if case.recipe.key in predictions]
    alone = [predictions[case.recipe.key] for case in own]
    lines = [f"| {len(own)} recipes | error | m* |", "|---|---|---|", worth("prediction", own, alone)]
    longest = min(len(case.whole.parts) for case in own)
    for name, count in (("n/8 and n/4", CHEAP), ("n/8, n/4 and n/2", len(FRACTIONS)))[: 1 + (longest > CHEAP)]:
        curves = [of_parts(count, matched=False)(case) for case in own]
        lines.append(worth(f"curve from {name}", own, curves))
        lines.append(worth("... and prediction", own, [mean_of(*pair) for pair in zip(alone, curves, strict=True)]))
    return "\n".join(lines)


def with_held_out(cases: Sequence[Case], predictions: Mapping[str, Estimate], draws: int = 200) -> str:
    """Errors with so many held-out samples, of the prediction alone and with the cheaper curve, by kind of data."""
    own = [case for case in cases if case.recipe.key in predictions]
    groups = {group: [case for case in own if case.group == group] for group in sorted({case.group for case in own})}
    curve, rng = of_parts(CHEAP, matched=False), np.random.default_rng(SEED)
    lines = [f"| recipes | joined | {' | '.join(f'm = {size}' for size in HELD)} |", "|" + "---|" * (2 + len(HELD))]
    for kind, group in (groups | {"all": own}).items():
        for name, with_curve in (("prediction", False), ("prediction and curve from n/8 and n/4", True)):
            cells = []
            for size in HELD:
                errors = [
                    abs(mean_of(predictions[case.recipe.key], *joined, *sample).accuracy - case.test_accuracy)
                    for case in group
                    for joined in [[curve(case)] if with_curve else []]
                    for sample in ([drawn(case, size, rng)] if size else [] for _ in range(draws if size else 1))
                ]
                cells.append(f"{100 * np.mean(errors):.1f}")
            lines.append(f"| {kind} ({len(group)}) | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def drawn(case: Case, samples: int, rng: np.random.Generator) -> Estimate:
    """The accuracy on held-out samples of a run, with its standard deviation."""
    right = rng.binomial(samples, case.test_accuracy)
    accuracy = (right + 0.5) / (samples + 1)
    return Estimate(right / samples, float((accuracy * (1 - accuracy) / samples) ** 0.5), 0.0, 1.0)


def worth(name: str, cases: Sequence[Case], estimates: Sequence[Estimate]) -> str:
    """The error in points, and the number of held-out samples whose accuracy errs as much."""
    true, counts = (np.array([getattr(case, part) for case in cases]) for part in ("test_accuracy", "test_samples"))
    errors = np.array([each.accuracy for each in estimates]) - true
    tasks = np.array([str(case.recipe.task) for case in cases])
    found, low, high = HoldOuts.of(errors, true, counts, tasks).equivalent().listed() or [np.inf] * 3
    return f"| {name} | {100 * np.abs(errors).mean():.1f} | {found:.0f} [{low:.0f}, {high:.0f}] |"


def mean_of(*estimates: Estimate) -> Estimate:
    """Their mean, weighted by precision."""
    precisions = np.array([each.deviation**-2 for each in estimates])
    accuracy = float(precisions @ [each.accuracy for each in estimates] / precisions.sum())
    return Estimate(accuracy, float(precisions.sum() ** -0.5), 0.0, 1.0)


def page(cases: Sequence[Case]) -> str:
    """Both tables."""
    groups = {kind: [case for case in cases if case.kind == kind] for kind in dict.fromkeys(c.kind for c in cases)}
    groups["all"] = list(cases)
    lines = _head("all samples, from")
    for kind, own in groups.items():
        for name, estimate in ESTIMATES.items():
            pairs = [(estimate(case), case.test_accuracy) for case in own]
            lines.append(f"| {kind} ({len(own)}) | {name} | {scores(pairs)} |")
    lines += ["", *_head("accuracy on")]
    for kind, own in groups.items():
        for place, at in enumerate(("n", "2 n", "4 n")):
            pairs = [(case.quarter, case.true[at]) for case in own if case.quarter is not None]
            foretold = [(quarter.extrapolate(2**place * quarter.samples), true) for quarter, true in pairs]
            straight = [(line(quarter, 2**place * quarter.samples), true) for quarter, true in pairs]
            lines.append(f"| {kind} ({len(own)}) | {at} | {scores(foretold)} |")
            lines.append(f"| {kind} ({len(own)}) | {at}, by a line through the last two | {scores(straight)} |")
    return "\n".join(lines)


def _head(what: str) -> list[str]:
    names = ("recipes", what, "error", "median", "worst", "within 2 points", "in the 90 % band")
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def scores(pairs: Sequence[tuple[Estimate, float]]) -> str:
    """Mean, median and largest error in points, and the shares that are close and, where there is one, in the band."""
    errors = np.array([abs(read.accuracy - true) for read, true in pairs])
    inside = np.mean([read.lower <= true <= read.upper for read, true in pairs])
    figures = (f"{100 * value:.1f}" for value in (errors.mean(), np.median(errors), errors.max()))
    banded = any(read.lower < read.upper for read, _ in pairs)
    return f"{' | '.join(figures)} | {np.mean(errors <= CLOSE):.2f} | {f'{inside:.2f}' if banded else ''}"


def of_parts(count: int, matched: bool) -> Callable[[Case], Estimate]:
    """The estimate from the first parts, with or without the train accuracy of the run on all samples."""

    def estimate(case: Case) -> Estimate:
        curve = replace(case.whole, parts=case.whole.parts[:count])
        return curve.estimate(case.train_accuracy if matched else None)

    return estimate


def as_at(place: int) -> Callable[[Case], Estimate]:
    """The test accuracy of a part, as if more samples changed nothing."""

    def estimate(case: Case) -> Estimate:
        accuracy = case.whole.parts[place].test_accuracy
        return Estimate(accuracy, 0.0, accuracy, accuracy)

    return estimate


def line(curve: LearningCurve, samples: float) -> Estimate:
    """The straight line in logarithms through the errors of the last two parts, without any prior."""
    first, last = curve.parts[-2:]
    errors = [max(1 - part.test_accuracy, 0.5 / part.tested) for part in (first, last)]
    slope = np.log(errors[1] / errors[0]) / np.log(last.samples / first.samples)
    accuracy = float(np.clip(1 - errors[1] * (samples / last.samples) ** slope, 0, 1))
    return Estimate(accuracy, 0.0, accuracy, accuracy)


ESTIMATES: Mapping[str, Callable[[Case], Estimate]] = {
    "n/4 as it is": as_at(1),
    "n/8 and n/4": of_parts(2, matched=False),
    "n/8 and n/4, at equal train accuracy": of_parts(2, matched=True),
    "n/8, n/4 and n/2": of_parts(3, matched=False),
    "n/8, n/4 and n/2, at equal train accuracy": of_parts(3, matched=True),
}


if __name__ == "__main__":
    main()
