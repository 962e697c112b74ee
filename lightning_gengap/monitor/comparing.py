"""Which of several trainings, or checkpoints of one, generalises best, and with what probability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.contenders import check_pair, contender
from lightning_gengap.predictors.comparison import Comparison, Contender, compared, in_order
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.observations import HELD_OUT, Kin
from lightning_gengap.predictors.predictor import Predictor


def compare(first: Any, second: Any, same: Kin = "task", predictor: str | Path | Predictor = "default") -> Comparison:
    """Which of two trainings has the higher test accuracy, and with what probability.

    Of each, the last measured weights are compared, by their predictions and by the held-out samples and validations
    that their monitors saw. Where both had the same held-out samples in the same order, the answers on them are
    compared one by one, which is far sharper than to compare two accuracies. Other evidence that a monitor was given
    moves both alike, and takes no part.

    Args:
        first: a `GapMonitor` after or in `fit`, the path of a Lightning checkpoint that holds its state, or the values
            that `measure` gives.
        second: the same.
        same: what both have in common: `run` for two checkpoints of one training, `recipe` for network, augmentation
            and optimizer on one data set, `task` for the data set alone.
        predictor: predicts from values; monitors and checkpoints hold what theirs predicted.

    Raises:
        ConfigurationError, DataError, PredictorError: there is nothing to compare.

    Example:
        >>> from lightning_gengap import compare
        >>> values = {"train_accuracy": 0.99, "train_loss": 0.05, "classes": 10.0, "train_samples": 2000.0}
        >>> values |= {"difficulty/ridge_extrapolated": 0.8, "difficulty/neighbour_1_accuracy": 0.7}
        >>> found = compare(values, {**values, "train_accuracy": 0.9}, predictor="default_v3")
        >>> found.probability > 0.5, found.lower < found.difference < found.upper
        (True, True)
    """
    kin = checked_same(same)
    chosen = predictor if isinstance(predictor, Predictor) else load_predictor(predictor)
    one, other = contender(first, chosen), contender(second, chosen)
    check_pair(one, other, kin)
    return compared(one, other, kin)


def ranking(checkpoints: Sequence[Path], same: str) -> str:
    """A table of checkpoints, the best first, each compared with it: Markdown, accuracies in points.

    Their order is by how probably each is better than the others, which knows more than the order of their estimates.
    """
    kin, chosen = checked_same(same), load_predictor("default")
    found = [contender(path, chosen) for path in checkpoints]
    for place, one in enumerate(found):
        for other in found[:place]:
            check_pair(one, other, kin)
    order = in_order(found, kin)
    best = found[order[0]]
    rows = [
        "| checkpoint | epochs | predicted | held out | estimated | better than the first |",
        "|---|---|---|---|---|---|",
    ]
    for place in order:
        path, one = checkpoints[place], found[place]
        accuracy, deviation = one.estimated()
        against = "" if one is best else f"{compared(one, best, kin).probability:.2f}"
        said = "abstains" if one.standing.abstained else f"{100 * one.standing.predicted:.1f}"
        rows.append(
            f"| {path} | {one.standing.epoch:g} | {said} | {_held_out(one)} "
            f"| {100 * accuracy:.1f} ± {100 * deviation:.1f} | {against} |"
        )
    return "\n".join(rows)


def checked_same(same: str) -> Kin:
    """What two trainings have in common.

    Raises:
        ConfigurationError: it is none of the three.
    """
    for kin in ("run", "recipe", "task"):
        if same == kin:
            return kin
    raise ConfigurationError(
        "compare(same=)",
        got=repr(same),
        expected="'run', 'recipe' or 'task'",
        remedy="Say what both trainings have in common.",
    )


def _held_out(one: Contender) -> str:
    """How many held-out samples the weights have right."""
    seen = [each for each in one.observations if (each.source, each.epoch) == (HELD_OUT, one.standing.epoch)]
    return f"{round(seen[-1].accuracy * seen[-1].samples)} of {seen[-1].samples}" if seen else ""
