"""Rank scores: Kendall's tau within tasks and runs, the noise ceiling, sign errors, conditional mutual information."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from lightning_gengap.zoo.evaluate.bootstrap import DRAWS
from lightning_gengap.zoo.table import Floats

Labels = NDArray[np.int64]


def kendall(score: Floats, actual: Floats) -> float:
    """Kendall's tau-b; 0 where either side is constant, for it ranks nothing."""
    tau = float(kendalltau(score, actual).statistic) if len(score) > 1 else 0.0
    return tau if np.isfinite(tau) else 0.0


def kendall_pool(score: Floats, actual: Floats, runs: NDArray[np.str_], draws: int = DRAWS) -> Floats:
    """Tau-b in resamples of whole runs, drawn with replacement; the same runs give the same resamples.

    Copies of a run are not compared with each other. A pair inside a run counts as often as the run was drawn, and a
    pair of two runs by the product of how often they were drawn. In the mean both kinds then keep their proportion, up
    to 1 / runs. It costs one matrix of all pairs, and per draw a product of a matrix of all pairs of runs.
    """
    names, inverse = np.unique(runs, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(names)))
    ours, theirs = (np.sign(v[order, None] - v[None, order]) for v in (score, actual))
    rng = np.random.default_rng(len(names))
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(float)

    def counted(pairs: Floats) -> Floats:
        folded = np.add.reduceat(np.add.reduceat(pairs, starts, axis=0), starts, axis=1)
        inside = np.diag(folded)
        total: Floats = ((weights @ (folded - np.diag(inside))) * weights).sum(axis=1) + weights @ inside
        return total

    norm = np.sqrt(counted(np.abs(ours)) * counted(np.abs(theirs)))
    return np.divide(counted(ours * theirs), norm, out=np.zeros(draws), where=norm > 0)


def noise_ceiling(accuracy: Floats, samples: Floats, draws: int = 200) -> float:
    """The tau that knowing the true accuracies would reach: mean over draws of tau(true, measured again).

    True accuracies come from their binomial posterior (uniform prior), measured ones from a binomial given them, both
    independent between models. Models tested on the same images err together, so the ceiling is rather too low.
    """
    rng = np.random.default_rng(0)
    trials = np.rint(samples).astype(int)
    correct = np.clip(np.rint(accuracy * trials), 0, trials)
    truth = rng.beta(correct + 1, trials - correct + 1, size=(draws, len(accuracy)))
    again = rng.binomial(trials, truth) / trials
    return float(np.mean([kendall(one, other) for one, other in zip(truth, again, strict=True)]))


def sign_errors(measure: Floats, gap: Floats, axes: Sequence[Labels], trials: float) -> dict[str, float]:
    """Sign errors over coupled environments (Dziugaite et al. 2020): how often a measure orders a pair wrongly.

    An environment is a pair of settings that differ in one hyperparameter; its error is the mean of
    (1 - sign(gap difference) x sign(measure difference)) / 2 over pairs of seeds. Pairs with equal gaps are left out.
    The axes hold every model's level of each hyperparameter; `trials` is the number of test samples.

    Returns:
        `mean` and `worst` over environments (both 0 to 1, .5 is a coin), `worst_axis`: the largest mean over the
        environments of one hyperparameter, `resolved`: the mean over pairs of models whose gaps differ by more than two
        standard errors (absent without such pairs), `environments`: their number. Empty without environments.
    """
    levels = np.stack(axes)
    _, settings = np.unique(levels, axis=1, return_inverse=True)
    settings = settings.reshape(-1)
    first, second = np.triu_indices(len(gap), 1)
    differing = (levels[:, first] != levels[:, second]).sum(axis=0)
    coupled = (differing == 1) & (gap[first] != gap[second])
    first, second = first[coupled], second[coupled]
    if len(first) == 0:
        return {}
    wrong = (1 - np.sign(gap[first] - gap[second]) * np.sign(measure[first] - measure[second])) / 2
    ends = np.sort(np.stack([settings[first], settings[second]]), axis=0)
    environments, which = np.unique(ends, axis=1, return_inverse=True)
    which = which.reshape(-1)
    errors = np.bincount(which, wrong) / np.bincount(which)
    representative = np.unique(which, return_index=True)[1]
    axis = (levels[:, first] != levels[:, second]).argmax(axis=0)[representative]
    by_axis = [errors[axis == a].mean() for a in range(len(axes)) if (axis == a).any()]
    resolution = 2 * np.sqrt(2 * 0.25 / trials)  # the largest standard error of a difference of two shares
    apart = np.abs(gap[first] - gap[second]) > resolution
    scores = {"mean": float(errors.mean()), "worst": float(errors.max()), "worst_axis": float(max(by_axis))}
    scores |= {"resolved": float(wrong[apart].mean())} if apart.any() else {}
    return scores | {"environments": float(environments.shape[1])}


def conditional_mutual_information(measure: Floats, gap: Floats, axes: Sequence[Labels]) -> float:
    """The score of the PGDL competition (2012.07976), 0 to 100, of a measure that rises with the gap.

    V and M are the signs of the differences of gap and measure over all ordered pairs of models, a model with itself
    included, where a tie counts as minus: hence a reversed measure scores less. A cell holds the pairs with the same
    values of two hyperparameters at both ends. Score: 100 x the smallest, over pairs of hyperparameters, of (mean over
    cells of I(V; M)) / (mean over cells of H(V)), empty cells left out. With one hyperparameter, the cells are those of
    its values.
    """
    above = gap[:, None] > gap[None, :]
    larger = measure[:, None] > measure[None, :]
    outcome = (2 * above + larger).ravel()
    ratios = []
    for chosen in combinations(axes, min(2, len(axes))):
        _, level = np.unique(np.stack(chosen), axis=1, return_inverse=True)
        level = level.reshape(-1)
        cell = (level[:, None] * (level.max() + 1) + level[None, :]).ravel()
        counts = np.bincount(4 * cell + outcome, minlength=4 * int(cell.max() + 1)).reshape(-1, 2, 2)
        counts = counts[counts.sum(axis=(1, 2)) > 0]
        joint = counts / counts.sum(axis=(1, 2), keepdims=True)
        of_gap, of_measure = _entropy(joint.sum(axis=2)), _entropy(joint.sum(axis=1))
        information = of_gap + of_measure - _entropy(joint.reshape(-1, 4))
        ratios.append(information.mean() / of_gap.mean() if of_gap.mean() > 0 else 0.0)
    return 100 * float(min(ratios, default=0.0))


def _entropy(shares: Floats) -> Floats:
    """Bits, per row."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: Floats = -(shares * logs).sum(axis=1)
    return entropy
