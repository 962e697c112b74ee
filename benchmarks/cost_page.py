"""Write the tables of docs/costs.md from the timings in docs/costs.csv and the costs that the registry declares.

    python benchmarks/cost_page.py

Only what stands between the page's markers is written; the text around them is edited by hand.
"""

import csv
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_gengap.measures import BY_DEFAULT, MEASURES

DOCS = Path(__file__).parents[1] / "docs"
TIMINGS, PAGE = DOCS / "costs.csv", DOCS / "costs.md"
TOGETHER = "default measures together"
CASES = {name: [name] for name in MEASURES} | {
    TOGETHER: [name for name in BY_DEFAULT if not MEASURES[name].per_training]
}
TABLE = re.compile(r"(<!-- timings of (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Timing(NamedTuple):
    """What one measure, or one peer, took on one network: median, least and most over the rounds.

    Steps and forwards are the time over that of a training step and of a plain forward, over the same samples.
    """

    network: str
    measure: str
    rounds: str
    steps: str
    steps_low: str
    steps_high: str
    forwards: str
    forwards_low: str
    forwards_high: str


def timing(network: str, case: str, taken: Sequence[Sequence[float]]) -> Timing:
    """The timing of a case, from the seconds of the case, of a plain forward and of a training step in each round."""
    steps = _spread([spent / step for spent, _, step in taken], 2)
    forwards = _spread([spent / forward for spent, forward, _ in taken], 1)
    return Timing(network, case, str(len(taken)), *steps, *forwards)


def _spread(ratios: Sequence[float], digits: int) -> tuple[str, str, str]:
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(ratios), min(ratios), max(ratios)))
    return middle, low, high


def read() -> list[Timing]:
    """All timings, in the order of the file."""
    with TIMINGS.open(newline="", encoding="utf-8") as file:
        return [Timing(**row) for row in csv.DictReader(file)]


def add(timings: Iterable[Timing]) -> None:
    """Put timings into the file, in place of those of the same network and measure, and write the page."""
    found = {(row.network, row.measure): row for row in (*read(), *timings)}
    with TIMINGS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Timing._fields)
        writer.writerows(found.values())
    write_page()


def declared(names: Iterable[str]) -> tuple[float, float]:
    """The forwards that measures declare, and at most."""
    rows = [MEASURES[name] for name in names]
    return sum(row.forwards for row in rows), sum(row.at_most or row.forwards for row in rows)


def page(text: str, timings: Sequence[Timing]) -> str:
    """The page with its tables written anew."""
    return TABLE.sub(lambda found: f"{found[1]}\n{_table(found[2], timings)}\n\n{found[3]}", text)


def _table(network: str, timings: Sequence[Timing]) -> str:
    rows = [row for row in timings if row.network == network]
    timed = {row.measure for row in rows}
    lines = ["| measure | declared | rounds | training steps | plain forwards |", "|---|---|---|---|---|"]
    for row in rows:
        steps = f"{row.steps} [{row.steps_low}, {row.steps_high}]"
        forwards = f"{row.forwards} [{row.forwards_low}, {row.forwards_high}]"
        lines.append(f"| {row.measure} | {_declared(row.measure)} | {row.rounds} | {steps} | {forwards} |")
    lines += [f"| {name} | {_declared(name)} | - | not timed | not timed |" for name in MEASURES if name not in timed]
    return "\n".join(lines)


def _declared(case: str) -> str:
    if case not in CASES:
        return "-"
    least, most = declared(CASES[case])
    return f"{least:g} to {most:g}" if most > least else f"{least:g}"


def write_page() -> None:
    """Write the tables of the committed page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    write_page()
