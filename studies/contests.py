"""What the studies of features share: their command line, and errors of many specifications on common rows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gengap import load_predictor
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.held_out import Setting, offered
from lightning_gengap.zoo.evaluate.quick import hold_out_points
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import Split, splits
from lightning_gengap.zoo.table import Mask, Table, read

TABLE = Path(__file__).resolve().parent.parent / "pretrained_predictors" / "small_zoo_v3.csv.gz"
COMPARED = ("by task", "leave one family out", "leave one source out")
Splits = Mapping[str, Sequence[Split]]


@dataclass(frozen=True)
class Study:
    """What a study compares, and on which rows.

    Attributes:
        allowed: the rows with all features of the specification and of the trivial baseline.
    """

    setting: Setting
    split_of: Splits
    allowed: Mask

    @staticmethod
    def of(table: Table, specification: Specification, locked: bool) -> Study:
        """On the development part alone, unless `locked`."""
        allowed = offered(table, specification, locked)
        return Study(Setting.of(table, specification, locked), splits(table), allowed)


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all studies of features have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--predictor", default="images_v3", help="name or path of a predictor (default: images_v3)")
    parser.add_argument("--locked", action="store_true", help="use the locked part too")
    return parser


def study_of(options: argparse.Namespace) -> Study:
    """The study that the parsed options ask for."""
    return Study.of(read(options.table), load_predictor(options.predictor).specification, options.locked)


def contest(study: Study, among: Mask, contenders: Mapping[str, Specification], reference: str) -> dict[str, Any]:
    """Mean absolute error of each contender on the compared splits, and what it gains over the reference, in points."""
    table, draws = study.setting.table, study.setting.resampling
    actual = table.numbers("gap.accuracy")
    listed: dict[str, Any] = {"rows": int(among.sum()), "runs": table.count("run", among), "splits": {}}
    for split in COMPARED:
        maes: dict[str, Score] = {}
        for name, specification in contenders.items():
            rows, gap = hold_out_points(table, specification, study.split_of[split], among)
            maes[name] = draws.mean(100 * np.abs(gap - actual[rows]), rows)
        listed["splits"][split] = {
            name: {"mae": mae.listed(), "gain": maes[reference].minus(mae).listed()} for name, mae in maes.items()
        }
    return listed


def contest_table(result: Mapping[str, Any]) -> str:
    """Error of each contender by split, and what it gains over the first."""
    splits = result["splits"]
    contenders = list(dict.fromkeys(name for split in splits.values() for name in split))
    rows = [
        [name, *(f"{ranged(split[name]['mae'], 1)}; {ranged(split[name]['gain'], 1)}" for split in splits.values())]
        for name in contenders
    ]
    header = [contenders[0], *splits] if len(contenders) == 1 else ["contender", *splits]
    return f"{result['rows']} rows of {result['runs']} runs. Error; points gained over the reference.\n\n" + (
        markdown_table(header, rows)
    )


def finite(table: Table, terms: Sequence[Term]) -> Mask:
    """The rows that have all of the measures."""
    return np.asarray(np.isfinite([table.numbers(f"measure.{term.name}") for term in terms]).all(axis=0))


def union(*parts: Sequence[Term]) -> tuple[Term, ...]:
    """Terms in order, each measured key once."""
    found: dict[str, Term] = {}
    for term in (term for part in parts for term in part):
        found.setdefault(term.name, term)
    return tuple(found.values())


def without(terms: Sequence[Term], gone: Sequence[Term]) -> tuple[Term, ...]:
    """Terms in order, but for those of the measured keys that are gone."""
    names = {term.name for term in gone}
    return tuple(term for term in terms if term.name not in names)
