"""Which of two trainings generalises better: how good is the stated probability?

    python studies/comparison.py [pretrained_predictors/small_zoo_v3.csv.gz] [--predictor images_v3] [--locked]

Pairs are the last snapshots of two runs of one task, and two snapshots of one run. The prediction is made without the
task or without the source, its scale is that of the others, and both are joined with held-out samples that all
snapshots share. These are drawn as in `evidence`: one sample's correctness is correlated by about 0.6 between
neighbouring snapshots of a run, and by 0.45 between distant ones and between runs. `same_answers` measures that on real
networks. With --real they are taken out of the test samples, and the others judge.

What happened is the order of the test accuracies, in tasks with 500 test samples and more, as if the test samples were
all there are. The Brier score is the mean squared difference of probability and outcome, over all pairs and over those
that lie farther apart than the standard error of their difference in the test. Tasks count alike, and so does either
order of a pair. How alike what two predictions miss is was chosen on half of the data sets. Prints Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import NormalDist

import numpy as np
from contests import study_of, study_parser
from evidence import SPLITS, held_out_of, judged, scales
from held_out_samples import RealDraw, correctness, real_answers
from numpy.typing import NDArray
from test_predictions import read

from lightning_gengap.predictors.comparison import Answers, Contender, Standing, compared
from lightning_gengap.predictors.evidence import LENGTH
from lightning_gengap.predictors.likeness import ALIKE, REACH, STRETCH
from lightning_gengap.predictors.observations import HELD_OUT, Kin, Observation
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.fit.scales import Residuals, held_out_residuals
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.table import Floats, Rows, Table

SIZES = (0, 50, 100, 200)
EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ENOUGH = 500  # test samples of a task whose pairs count
MOST_OF_TASK, MOST_OF_RUN = 40, 3  # pairs
HEADER = (
    "m",
    "Brier score",
    "of clear pairs",
    "hold-out alone",
    "of clear pairs",
    "stated: observed frequency",
    "mean off",
    "largest off",
)
_cdf = np.vectorize(NormalDist().cdf, otypes=[float])


@dataclass(frozen=True)
class Zoo:
    """Held-out predictions of snapshots, and what the test said of them: arrays with one entry a row."""

    found: Residuals
    scale: Floats
    epochs: Floats
    tested: Floats
    test_samples: Floats
    runs: Rows
    tasks: Rows
    sources: NDArray[np.str_]
    last: NDArray[np.bool_]
    real: RealDraw | None = None

    @staticmethod
    def of(table: Table, found: Residuals, scale: Floats, real: RealDraw | None = None) -> Zoo:
        """The rows of `found`, with real held-out samples or drawn ones."""
        numbers = {name: table.numbers(name)[found.rows] for name in ("epoch", "gap.test_accuracy", "gap.test_samples")}
        runs, tasks = (table.codes(name)[found.rows] for name in ("run", "task"))
        sources, last = table.words("recipe.source")[found.rows], last_snapshots(table)[found.rows]
        return Zoo(found, scale, *numbers.values(), runs, tasks, sources, last, real)

    def pairs_of_runs(self, rng: np.random.Generator) -> Rows:
        """Last snapshots of two runs of one task, in any order; shape (pairs, 2)."""
        kept = self.last & (self.test_samples >= ENOUGH)
        groups = (np.flatnonzero(kept & (self.tasks == task)) for task in np.unique(self.tasks))
        return _pairs(groups, MOST_OF_TASK, rng)

    def pairs_of_epochs(self, rng: np.random.Generator) -> Rows:
        """Two snapshots of one run, in any order; shape (pairs, 2)."""
        kept = self.test_samples >= ENOUGH
        return _pairs((np.flatnonzero(kept & (self.runs == run)) for run in np.unique(self.runs)), MOST_OF_RUN, rng)

    def weights(self, pairs: Rows) -> Floats:
        """Of each pair, so that tasks count alike; they add up to 1."""
        tasks = self.tasks[pairs[:, 0]]
        weights: Floats = 1 / np.bincount(tasks)[tasks]
        return weights / weights.sum()

    def gained(self, pairs: Rows) -> tuple[Floats, Floats]:
        """By how much the test accuracy of the first is higher, and the variance of that, of which half is common."""
        first, second = pairs.T
        variance = self.tested * (1 - self.tested) / self.test_samples
        return self.tested[first] - self.tested[second], (variance[first] + variance[second]) / 2

    def contenders(self, pair: Rows, samples: int, rng: np.random.Generator) -> tuple[list[Contender], Floats]:
        """Both, as they were with the runs so far and held-out samples that both share; and their test accuracies."""
        known = [np.flatnonzero((self.runs == self.runs[row]) & (self.epochs <= self.epochs[row])) for row in pair]
        if samples == 0:
            return [Contender(self._standing(row)) for row in pair], self.tested[pair]
        answers, tested = self._answers(np.unique(np.concatenate(known)), samples, rng)
        return [
            Contender(
                replace(self._standing(row), answers=Answers.of("shared", answers[row])),
                tuple(self._observed(one, answers[one].mean(), samples, HELD_OUT) for one in own),
            )
            for row, own in zip(pair, known, strict=True)
        ], np.array([tested[row] for row in pair])

    def _answers(
        self, rows: Rows, samples: int, rng: np.random.Generator
    ) -> tuple[dict[int, NDArray[np.bool_]], dict[int, float]]:
        """Which of the held-out samples each row has right, and its test accuracy on others."""
        if self.real is None:
            right = correctness(self.tested[rows], self.epochs[rows], samples, rng, rng, self.runs[rows])
            return dict(zip(rows.tolist(), right, strict=True)), dict(
                zip(rows.tolist(), self.tested[rows], strict=True)
            )
        answers, tested, seed = {}, {}, int(rng.integers(2**31))
        for run in np.unique(self.runs[rows]):
            own = rows[self.runs[rows] == run]
            drawn = self.real(self.found.rows[own], samples, seed)
            answers |= dict(zip(own.tolist(), drawn.right, strict=True))
            tested |= dict(zip(own.tolist(), drawn.tested.tolist(), strict=True))
        return answers, tested

    def _standing(self, row: int) -> Standing:
        predicted, deviation = float(self.found.predicted[row]), float(self.found.deviation[row])
        return Standing("", 2, predicted, deviation, float(self.scale[row]), epoch=float(self.epochs[row]))

    def _observed(self, row: int, accuracy: float, samples: int, source: str) -> Observation:
        predicted, deviation = float(self.found.predicted[row]), float(self.found.deviation[row])
        return Observation(float(accuracy), predicted, deviation, samples, 0.0, float(self.epochs[row]), source)


def _pairs(groups: Iterator[Rows], most: int, rng: np.random.Generator) -> Rows:
    """Up to so many pairs of each group."""
    found = []
    for group in groups:
        all_pairs = list(combinations(rng.permutation(group).tolist(), 2))
        chosen = rng.permutation(len(all_pairs))[:most]
        found += [all_pairs[place] for place in chosen]
    return np.array(found)


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The probability by the held-out samples alone: a paired test, half a sample added on either side."""
    better, worse = float(np.sum(first & ~second)), float(np.sum(second & ~first))
    variance = better + worse + 1 - (better - worse) ** 2 / len(first)
    return NormalDist().cdf((better - worse) / math.sqrt(variance))


def brier(probability: Floats, gained: Floats, weights: Floats) -> float:
    """Of the probability that the first is better; a tie counts as half."""
    outcome = np.where(gained == 0, 0.5, gained > 0)
    return float(np.average((probability - outcome) ** 2, weights=weights))


def calibration(probability: Floats, gained: Floats, weights: Floats) -> tuple[list[str], float, float]:
    """Stated and observed frequency in bins, and how far they lie apart: on average, and at most.

    Pairs are turned so that the probability is one half or more.
    """
    turned = probability < 0.5
    stated = np.where(turned, 1 - probability, probability)
    outcome = np.where(gained == 0, 0.5, (gained > 0) != turned)
    bins = np.clip(np.digitize(stated, EDGES) - 1, 0, len(EDGES) - 2)
    shown, off, shares = [], [], []
    for place in range(len(EDGES) - 1):
        own = bins == place
        if own.any():
            said, happened = (float(np.average(of[own], weights=weights[own])) for of in (stated, outcome))
            shown.append(f"{said:.2f}: {happened:.2f}")
            off.append(abs(said - happened))
            shares.append(weights[own].sum())
    return shown, float(np.average(off, weights=shares)), max(off)


def lines(zoo: Zoo, pairs: Rows, same: Kin, draws: int) -> list[list[str]]:
    """One line for each number of shared held-out samples, which are drawn so many times for each pair."""
    rng, pairs = np.random.default_rng(1), np.tile(pairs, (draws, 1))
    of_test, weights, made = zoo.gained(pairs)[1], zoo.weights(pairs), []
    for samples in SIZES:
        said = []
        for pair in pairs:
            (first, second), tested = zoo.contenders(pair, samples, rng)
            alone = math.nan
            if first.standing.answers is not None and second.standing.answers is not None:
                alone = paired(first.standing.answers.right(), second.standing.answers.right())
            said.append((compared(first, second, same).probability, alone, tested[0] - tested[1]))
        probability, alone, gained = np.array(said).T
        clear = np.abs(gained) > np.sqrt(of_test)
        shown, mean, largest = calibration(probability, gained, weights)
        scores = [brier(of[some], gained[some], weights[some]) for of in (probability, alone) for some in (..., clear)]
        cells = ["-" if math.isnan(score) else f"{score:.3f}" for score in scores]
        made.append([str(samples), *cells, "; ".join(shown), f"{mean:.3f}", f"{largest:.3f}"])
    return made


def of_higher_prediction(zoo: Zoo, pairs: Rows) -> str:
    """How often the higher prediction is right, and the Brier score of always stating that."""
    gained, of_test = zoo.gained(pairs)
    weights, clear = zoo.weights(pairs), np.abs(gained) > np.sqrt(of_test)
    first, second = pairs.T
    higher = zoo.found.predicted[first] > zoo.found.predicted[second]
    said = []
    for some in (np.ones(len(pairs), bool), clear):
        right = np.where(gained == 0, 0.5, higher == (gained > 0))[some]
        share = float(np.average(right, weights=weights[some]))
        said.append(f"{share:.2f} (Brier score {share * (1 - share):.3f})")
    return f"The higher prediction is right in {said[0]} of all pairs, and in {said[1]} of the clear ones."


@dataclass(frozen=True)
class Likeness:
    """A model of what two predictions miss. `reach` is in deviations, and infinite where distance does not matter."""

    said: str
    reach: float
    alike: float
    stretch: float = 1.0
    length: float = math.inf

    def probability_and_score(self, zoo: Zoo, pairs: Rows) -> tuple[Floats, Floats]:
        """That the first is better in the test, from predictions alone, and the log score of the difference."""
        (first, second), (gained, of_test), found = pairs.T, zoo.gained(pairs), zoo.found
        one, other = (zoo.scale[rows] * found.deviation[rows] for rows in (first, second))
        difference, reach = found.predicted[first] - found.predicted[second], self.reach * np.minimum(one, other)
        alike = self.alike * np.exp(-np.abs(difference) / reach)
        alike *= np.exp(-np.abs(np.log(zoo.epochs[first] / zoo.epochs[second])) / self.length)
        if math.isfinite(self.reach):
            difference = difference + 2 * (self.stretch - 1) * reach * np.tanh(difference / 2 / reach)
        variance = one**2 + other**2 - 2 * alike * one * other + of_test
        score = -0.5 * ((gained - difference) ** 2 / variance + np.log(variance))
        return _cdf(difference / np.sqrt(variance)), score


def likenesses(same: Kin) -> Iterator[Likeness]:
    """Those that are compared: of the level, as other evidence is joined, and of differences."""
    if same == "run":
        yield Likeness("process over epochs", math.inf, 1.0, length=LENGTH)
    else:
        yield from (Likeness(f"correlation {alike}", math.inf, alike) for alike in (0.3, 0.6, 0.9))
    for reach in (1.0, REACH, 3.0):
        for stretch in (1.0, STRETCH):
            yield Likeness(f"reach {reach:g}, stretch {stretch:g}", reach, ALIKE[same], stretch)


def by_likeness(zoo: Zoo, pairs: Rows, same: Kin) -> list[list[str]]:
    """What each model says from predictions alone, on the half of the data sets that it is chosen by, and on the other.

    The cells are the log score, the Brier score and how far stated and observed frequencies lie apart.
    """
    names = sorted(set(zoo.sources.tolist()))
    gained, weights, made = zoo.gained(pairs)[0], zoo.weights(pairs), []
    for model in likenesses(same):
        probability, score = model.probability_and_score(zoo, pairs)
        cells = []
        for place in (0, 1):
            half = np.isin(zoo.sources[pairs[:, 0]], names[place::2])
            _, mean, _ = calibration(probability[half], gained[half], weights[half])
            by_brier = brier(probability[half], gained[half], weights[half])
            cells += [f"{np.average(score[half], weights=weights[half]):.3f}", f"{by_brier:.3f}", f"{mean:.3f}"]
        made.append([model.said, *cells])
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--draws", type=int, default=2, help="of held-out samples, for each pair")
    parser.add_argument("--real", type=Path, help="predictions of test samples, by studies/test_predictions.py")
    parser.add_argument("--splits", nargs="+", default=SPLITS, help="as `gengap zoo evaluate` names them")
    options = parser.parse_args(arguments)
    study, half = study_of(options), ("log score", "Brier score", "mean off")
    table = study.setting.table
    _, among = held_out_of(options, table)
    real = None if options.real is None else real_answers(table, read(options.real))
    for split in options.splits:
        splits = judged(study.split_of[split], among)
        found = held_out_residuals(table, study.setting.specification, splits, study.allowed)
        zoo = Zoo.of(table, found, scales(table, found, split), real)
        kinds: dict[Kin, Rows] = {
            "task": zoo.pairs_of_runs(np.random.default_rng(0)),
            "run": zoo.pairs_of_epochs(np.random.default_rng(0)),
        }
        for same, pairs in kinds.items():
            tasks = len(np.unique(zoo.tasks[pairs[:, 0]]))
            print(f"\n### {split}, same {same}: {len(pairs)} pairs of {tasks} tasks\n")
            print(
                markdown_table(
                    ("predictions alone", *half, *(f"{name}, other half" for name in half)),
                    by_likeness(zoo, pairs, same),
                )
            )
            print("\n" + of_higher_prediction(zoo, pairs) + "\n")
            print(markdown_table(HEADER, lines(zoo, pairs, same, options.draws)))


if __name__ == "__main__":
    main()
