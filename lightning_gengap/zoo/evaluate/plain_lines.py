"""What stands beside every claim: gaps that follow from measured values without a fit."""

from __future__ import annotations

import numpy as np

from lightning_gengap.zoo.table import Floats, Mask, Table

FROZEN = ("train_accuracy", "difficulty/ridge_extrapolated", "difficulty/neighbour_1_accuracy")


def frozen_line(table: Table, rows: Mask) -> Floats:
    """L0: train accuracy less the better of two closed-form classifiers; NaN where one was not measured.

    gap = a - max(ridge on the untrained network's features, extrapolated to the train size; min(1-NN, a)), with the
    train accuracy a. It is frozen, so that predictors of all versions stand beside the same line.
    """
    accuracy, ridge, neighbour = (table.numbers(f"measure.{key}")[rows] for key in FROZEN)
    gap: Floats = accuracy - np.maximum(ridge, np.minimum(neighbour, accuracy))
    return gap


def anchor_line(table: Table, rows: Mask) -> Floats:
    """L1: train accuracy less the best reference's, or nothing where that is higher; NaN where there is none."""
    accuracy, reference = (
        table.numbers(f"measure.{key}")[rows] for key in ("train_accuracy", "reference/best_accuracy")
    )
    gap: Floats = np.maximum(accuracy - reference, 0.0)
    return gap
