"""Held-out predictions of a specification and of its baselines, on the same rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np

from lightning_gengap.errors import TableError
from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.evaluate.bootstrap import Resampling
from lightning_gengap.zoo.fit.fit import fit, predict_rows, usable
from lightning_gengap.zoo.fit.specifications import BASELINES, TRIVIAL
from lightning_gengap.zoo.hold_out import Held, anything
from lightning_gengap.zoo.hold_out import hold_out as predictions_of
from lightning_gengap.zoo.splits import Split, development
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table

FEWEST_SHARE = 0.8  # a baseline that would cost more rows than this leaves is left out instead
KINDS = 4  # gap, lower, upper, abstained


@dataclass(frozen=True)
class HeldOut:
    """Predictions for held-out rows, in the table's order. Abstentions carry the prior mean."""

    rows: Rows
    gap: Floats
    lower: Floats
    upper: Floats
    abstained: Mask

    @staticmethod
    def of(held: Held, contender: int = 0) -> HeldOut:
        """The predictions of one of several contenders that were held out together."""
        gap, lower, upper, abstained = held.values[KINDS * contender : KINDS * (contender + 1)]
        return HeldOut(held.rows, gap, lower, upper, abstained.astype(bool))


@dataclass(frozen=True)
class Setting:
    """What is compared with what, on which rows.

    Attributes:
        contenders: the specification first, then the baselines.
        among: the rows that take part, the same for all contenders.
        left_out: baselines that are missing in too many rows.
    """

    table: Table
    contenders: tuple[Specification, ...]
    among: Mask
    left_out: tuple[str, ...]
    resampling: Resampling

    @staticmethod
    def of(table: Table, specification: Specification, locked: bool) -> Setting:
        """Rows with all features of all contenders, and only the development part unless `locked`."""
        among = offered(table, specification, locked)
        if not among.any():
            raise TableError(
                "table",
                got=f"no row with all features of {specification.name} and of the trivial baseline",
                expected="measured rows of the development part",
                remedy="Train more with `gengap zoo run`.",
            )
        present = {baseline: among & usable(table, baseline) for baseline in BASELINES}
        kept = [baseline for baseline, rows in present.items() if rows.sum() >= FEWEST_SHARE * among.sum()]
        left_out = tuple(baseline.name for baseline in BASELINES if baseline not in kept)
        among = np.logical_and.reduce([present[baseline] for baseline in kept])
        contenders = (specification, *(fitted_alike(baseline, specification) for baseline in kept))
        return Setting(table, contenders, among, left_out, Resampling.of(table))

    @property
    def specification(self) -> Specification:
        """The one that is evaluated."""
        return self.contenders[0]


def offered(table: Table, specification: Specification, locked: bool) -> Mask:
    """Rows with the features of the specification and of the trivial baseline; unlocked, of the development part."""
    part = np.ones(len(table), bool) if locked else development(table)
    return part & usable(table, specification) & usable(table, TRIVIAL)


def fitted_alike(baseline: Specification, specification: Specification) -> Specification:
    """The baseline, balanced and on a grid where the specification is; a constant is the plain mean always."""
    return replace(baseline, balanced=specification.balanced and bool(baseline.features), grid=specification.grid)


def part_of(held: HeldOut, chosen: Mask) -> HeldOut:
    """Some of the held-out rows."""
    return HeldOut(*(getattr(held, column.name)[chosen] for column in fields(held)))


def hold_out(table: Table, specification: Specification, split: Iterable[Split], among: Mask) -> HeldOut:
    """Fit on each split's rows and predict its held-out rows, both within `among`."""

    def method(fitted: Mask, held: Mask) -> Floats:
        return _fitted_and_asked(table, specification, fitted, held)

    return HeldOut.of(predictions_of(split, among, method, anything, KINDS))


def hold_out_all(setting: Setting, split: Iterable[Split]) -> tuple[dict[str, HeldOut], dict[str, str]]:
    """All contenders on the same rows: a split that one of them cannot fit is skipped by all, with the reason."""

    def method(fitted: Mask, held: Mask) -> Floats:
        every = [_fitted_and_asked(setting.table, contender, fitted, held) for contender in setting.contenders]
        return np.concatenate(every)

    held = predictions_of(split, setting.among, method, anything, KINDS * len(setting.contenders), skip=True)
    return {one.name: HeldOut.of(held, place) for place, one in enumerate(setting.contenders)}, held.skipped


def _fitted_and_asked(table: Table, specification: Specification, fitted: Mask, held: Mask) -> Floats:
    """Gap, lower and upper end and abstention, shape (4, held rows)."""
    if not specification.features:
        gap = np.full(int(held.sum()), table.numbers("gap.accuracy")[fitted].mean())
        return np.stack([gap, gap, gap, np.zeros(len(gap))])
    said = predict_rows(fit(table, specification, fitted), table, held)
    return np.stack([said.gap, said.lower, said.upper, said.abstained.astype(float)])
