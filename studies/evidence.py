"""What an estimate is worth with held-out samples, beside the prediction alone and the samples alone.

    python studies/evidence.py [pretrained_predictors/small_zoo_v3.csv.gz] [--predictor images_v3] [--locked]

Held-out samples are drawn for every run of the zoo: each is right or wrong at each epoch, and right as often as the
test says. One sample's correctness is correlated over the epochs of a run, as that of real ones: about 0.6 between
neighbouring snapshots, 0.45 between distant ones. The test accuracy itself has a sampling error, and the samples are
drawn around the true one.

m* is the number of held-out samples whose accuracy errs as much as the estimate, at the last snapshots of tasks with
2,000 test samples and more; "said" is the number whose deviation is that of the estimate. Intervals are by
resampling tasks.

The prediction is made without the task or without the source. Its scale is that of the other tasks or sources. Tasks
count alike. Abstentions are left out. Prints Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from contests import study_of, study_parser
from numpy.typing import NDArray

from lightning_gengap.predictors.evidence import posterior
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.parts import NORMAL_QUANTILE
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts
from lightning_gengap.zoo.fit.scales import Residuals, by_score, held_out_residuals
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import SIBLINGS, fold_of
from lightning_gengap.zoo.table import Floats, Rows, Table

SPLITS = ("by task", "leave one source out")
SIZES = (50, 100, 200, 500)
ENOUGH = 2000  # test samples of a task whose m* counts
FAR, NEAR = 0.65, 0.17  # correlations of what makes a sample hard: in all epochs, and more between close ones
HEADER = (
    "m",
    "estimate",
    "error (points)",
    "of last snapshots",
    "coverage of 90 %",
    "m* said",
    "m*",
    "over m* alone + m",
)
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimates:
    """Test accuracies that are estimated for some rows, with their standard deviations."""

    accuracy: Floats
    deviation: Floats


def correctness(
    accuracies: Floats, epochs: Floats, samples: int, rng: np.random.Generator, runs: Rows | None = None
) -> NDArray[np.bool_]:
    """Whether each sample is classified right at each epoch, shape (epochs, samples). They may be of several runs."""
    runs = np.zeros(len(epochs), np.int64) if runs is None else runs
    distance = np.abs(np.log(epochs)[:, None] - np.log(epochs))
    near = np.where(runs[:, None] == runs, NEAR * np.exp(-distance), 0.0)
    latent = FAR + near + (1 - FAR - NEAR) * np.eye(len(epochs))
    hard = np.linalg.cholesky(latent) @ rng.standard_normal((len(epochs), samples))
    thresholds = np.array([_NORMAL.inv_cdf(min(max(p, 1e-6), 1 - 1e-6)) for p in accuracies])
    right: NDArray[np.bool_] = hard < thresholds[:, None]
    return right


def true_accuracies(tested: Floats, test_samples: Floats, rng: np.random.Generator) -> Floats:
    """What the test accuracies may really be, as half of their sampling variance is common to a run."""
    common, own = rng.standard_normal(), rng.standard_normal(len(tested))
    error = np.sqrt(tested * (1 - tested) / test_samples) * (common + own) / math.sqrt(2)
    return np.clip(tested + error, 0.0, 1.0)


def scales(table: Table, found: Residuals, split: str) -> Floats:
    """For each row the scale that fits the other groups: folds of tasks, or sources with their siblings."""
    tasks = table.words("task")[found.rows]
    if split == "by task":
        groups = fold_of(tasks, 10).astype(str)
    else:
        groups = np.array([SIBLINGS.get(name, name) for name in table.words("recipe.source")[found.rows].tolist()])
    scaled, scale = found.residual / found.deviation, np.ones(len(tasks))
    for group in set(groups.tolist()):
        own = groups == group
        if not own.all():
            scale[own] = by_score(scaled[~own], tasks[~own])
    return scale


def simulated(
    table: Table, found: Residuals, scale: Floats, samples: int, rng: np.random.Generator
) -> dict[str, Estimates]:
    """What the samples alone, with the prediction of the same epoch, and with all of the run so far estimate."""
    tested, n = (table.numbers(f"gap.test_{name}")[found.rows] for name in ("accuracy", "samples"))
    epochs, runs = table.numbers("epoch")[found.rows], table.codes("run")[found.rows]
    names = ("held-out samples alone", "with the prediction of this epoch", "with all epochs so far")
    made = {name: Estimates(np.zeros(len(runs)), np.zeros(len(runs))) for name in names}
    for own in _runs(runs, epochs):
        right = correctness(true_accuracies(tested[own], n[own], rng), epochs[own], samples, rng).mean(axis=1)
        spread = (right * samples + 0.5) / (samples + 1)
        alone = made[names[0]]
        alone.accuracy[own], alone.deviation[own] = right, np.sqrt(spread * (1 - spread) / samples)
        seen = [
            Observation(
                float(right[place]),
                float(found.predicted[row]),
                float(found.deviation[row]),
                samples,
                epoch=float(epochs[row]),
                source="held_out",
            )
            for place, row in enumerate(own)
        ]
        for place, row in enumerate(own):
            for name, known in ((names[1], seen[place : place + 1]), (names[2], seen[: place + 1])):
                after = posterior(known, epochs[row : row + 1], found.deviation[row : row + 1], float(scale[row]))
                made[name].accuracy[row] = np.clip(found.predicted[row] + after.mean[0], 0, 1)
                made[name].deviation[row] = math.sqrt(after.variance[0])
    return made


def _runs(runs: Rows, epochs: Floats) -> Iterator[Rows]:
    """The rows of each run, in the order of their epochs."""
    order = np.lexsort((epochs, runs))
    yield from np.split(order, np.flatnonzero(np.diff(runs[order])) + 1)


def line(table: Table, found: Residuals, said: Sequence[Estimates], of_sum: float) -> tuple[list[str], float]:
    """The cells of one estimate, over all draws; and its m*. `of_sum` is the m* to compare with, NaN for none.

    An interval that knows of held-out samples is one for the true accuracy; the error of the test widens it. That
    of the prediction alone was fitted to tests, and has it already.
    """
    tested, n = (table.numbers(f"gap.test_{name}")[found.rows] for name in ("accuracy", "samples"))
    tasks, last = table.codes("task")[found.rows], last_snapshots(table)[found.rows]
    errors = np.array([one.accuracy - tested for one in said])
    of_test = 0.0 if math.isnan(of_sum) else tested * (1 - tested) / n
    noisy = np.array([np.sqrt(one.deviation**2 + of_test) for one in said])
    covered = (np.abs(errors) <= NORMAL_QUANTILE * noisy).mean(axis=0)
    enough = last & (n >= ENOUGH)
    worth, stated, shown = math.nan, math.nan, "-"
    if enough.any():
        spread = np.mean([np.sqrt(one.accuracy * (1 - one.accuracy)) for one in said], axis=0)
        stating = np.mean([one.deviation for one in said], axis=0)
        stated = (_by_task(spread[enough], tasks[enough]) / _by_task(stating[enough], tasks[enough])) ** 2
        draws = len(errors)
        known = HoldOuts.of(
            errors[:, enough].ravel(), *(np.tile(column[enough], draws) for column in (tested, n, tasks))
        )
        score = known.equivalent()
        worth, shown = score.value, ranged_m(score)
    cells = [
        f"{100 * _by_task(np.abs(errors).mean(axis=0), tasks):.2f}",
        f"{100 * _by_task(np.abs(errors).mean(axis=0)[last], tasks[last]):.2f}",
        f"{_by_task(covered, tasks):.2f}",
        "-" if math.isnan(stated) else f"{stated:.0f}",
        shown,
        "" if math.isnan(of_sum) or math.isnan(worth) else f"{worth / of_sum:.2f}",
    ]
    return cells, worth


def ranged_m(score: Score) -> str:
    """m* with its interval by resampling tasks."""
    value, low, high = score.listed() or [math.inf] * 3
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def _by_task(values: Floats, tasks: Rows) -> float:
    """The mean over tasks of their means."""
    return float(np.average(values, weights=1 / np.bincount(tasks)[tasks]))


def worth(table: Table, found: Residuals, split: str, draws: int) -> list[list[str]]:
    """The lines of one split: the prediction alone, and the estimates for each number of samples."""
    scale = scales(table, found, split)
    prior = Estimates(found.predicted, scale * found.deviation)
    cells, alone = line(table, found, [prior], math.nan)
    lines = [["0", "prediction alone", *cells]]
    for samples in SIZES:
        rng = np.random.default_rng(samples)
        made = [simulated(table, found, scale, samples, rng) for _ in range(draws)]
        for name in made[0]:
            cells, _ = line(table, found, [one[name] for one in made], alone + samples)
            lines.append([str(samples), name, *cells])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--draws", type=int, default=4, help="of held-out samples, for each run")
    options = parser.parse_args(arguments)
    study = study_of(options)
    table = study.setting.table
    for split in SPLITS:
        splits = study.split_of[split]
        found = held_out_residuals(table, study.setting.specification, splits, study.allowed)
        tasks, runs = (len(np.unique(table.codes(column)[found.rows])) for column in ("task", "run"))
        scale = scales(table, found, split)
        print(f"\n## {split}: {tasks} tasks, {runs} runs, {len(found.rows)} snapshots; scale {np.median(scale):.2f}\n")
        print(markdown_table(HEADER, worth(table, found, split, options.draws)))


if __name__ == "__main__":
    main()
