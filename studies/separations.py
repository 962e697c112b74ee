"""What pairs of networks, fitted to true and to random labels, say of measures and predictors."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lightning_gengap.measures import MEASURED

Row = dict[str, Any]


def say_levels(seed: int, levels: Sequence[float], rows: Sequence[Row], predictors: Sequence[str]) -> None:
    """Print whether the predicted gap rises with the share of random labels."""
    for name in predictors:
        gaps = [row[name]["gap"] for row in rows]
        rising = all(a < b for a, b in pairwise(gaps))
        shown = ", ".join(f"{gap:.3f}" for gap in gaps)
        print(f"{name}, levels {levels}, seed {seed}: {shown}; {'rising' if rising else 'not rising'}")


def say_pairs(every: Sequence[tuple[Row, Row]], fitted: float, predictors: Sequence[str]) -> None:
    """Print the predicted gaps, and the table of all keys, over the pairs that are fitted well enough."""
    pairs = [pair for pair in every if min(row["fitted"] for row in pair) >= fitted]
    print(f"\n{len(every)} pairs, {len(every) - len(pairs)} of them left out: not fitted to {fitted}")
    if not pairs:
        return
    for name in predictors:
        differences = [b[name]["gap"] - a[name]["gap"] for a, b in pairs]
        abstained = sum(row[name]["abstained"] for pair in pairs for row in pair)
        print(
            f"{name}: larger for random labels in {sum(d > 0 for d in differences)} of {len(pairs)} pairs, by "
            f"{min(differences):.3f} to {max(differences):.3f}; {abstained} of {2 * len(pairs)} abstentions"
        )
    print("\n| key | larger | smaller | pairs | true labels | random labels | all one way |\n" + "|---" * 7 + "|")
    print("\n".join(line for _, line in sorted(separations(pairs))))


def separations(pairs: Sequence[tuple[Row, Row]]) -> Iterator[tuple[Any, str]]:
    """Table rows by key; those that order all their pairs one way come first, and absent keys last."""
    for key in sorted({key for pair in pairs for row in pair for key in row["values"]} | set(MEASURED)):
        both = [(a["values"][key], b["values"][key]) for a, b in pairs if key in a["values"] and key in b["values"]]
        if not both:
            yield (1, 0, key), f"| `{key}` | | | 0 | | | absent |"
            continue
        larger, smaller = sum(b > a for a, b in both), sum(b < a for a, b in both)
        most, count = max(larger, smaller), len(both)
        medians = " | ".join(f"{float(np.median(side)):.4g}" for side in zip(*both, strict=True))
        verdict = ("larger" if larger else "smaller") if most == count else "equal" if most == 0 else "no"
        yield (-most / count, -count, key), f"| `{key}` | {larger} | {smaller} | {count} | {medians} | {verdict} |"
