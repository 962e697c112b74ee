"""Classifiers that predict the class of a sample without having seen its label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.derivatives.time import of_eigenvalues
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.answers import Said, best_of, calibrated
from lightning_gengap.measures.agreement.fitting import USUAL, Fit, Judged, Price
from lightning_gengap.measures.agreement.forest import Forest
from lightning_gengap.measures.agreement.landmarks import LandmarkRidge
from lightning_gengap.measures.agreement.patches import PatchRidge
from lightning_gengap.measures.agreement.tokens import TokenBayes
from lightning_gengap.measures.difficulty.difficulty import initial_features
from lightning_gengap.measures.difficulty.known_task import knows
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    left_out_scores,
    require_comparison,
    standardised_gram,
)
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.reader import FEWEST

FEATURES = 1024  # that an untrained network is expected to give


@dataclass(frozen=True)
class Reference:
    """A reference classifier.

    Attributes:
        fit: from a probe, the judged samples and what was kept of an earlier fit to the fit. It raises `Undefined`
            where there is none.
        words: what it is, for the description of keys.
        called: what it is, in a sentence for the user.
    """

    fit: Callable[[Probe, Judged, Mapping[str, Tensor]], Fit]
    words: str
    called: str


@dataclass
class FeatureRidge:
    """Leave-one-out ridge on the features of the network at its initial weights, of the judged samples alone."""

    probe: Probe
    judged: Judged
    price: Price
    most: int = 0
    keeps: bool = True

    @classmethod
    def of(cls, probe: Probe, judged: Judged, kept: Mapping[str, Tensor]) -> FeatureRidge:
        """The fit, which takes in nothing.

        Raises:
            Undefined: there are no initial weights or hidden layers, or these weights know the labels.
        """
        if probe.initial_state is None:
            raise Undefined("there are no initial weights")
        if not probe.layout.taps:
            raise Undefined("there are no hidden layers")
        _require_unknown_labels(probe)
        count = len(judged.rows)
        return cls(probe, judged, Price(0.0, 0.0, (count**2 * FEATURES + of_eigenvalues(count)) / USUAL))

    def read(self, batch: ProbeBatch) -> Tensor | None:
        """Nothing."""
        return None

    def add(self, rows: Tensor, ranks: Tensor) -> None:
        """Never called, as there are no others."""

    def said(self) -> Said:
        """The scores at the best strength, calibrated."""
        found, ranks = self.probe.cached(initial_features), self.judged.ranks
        rows = found if len(found) == len(ranks) else found[self.judged.rows]
        require_comparison(len(rows), rows.shape[1])
        return Said(calibrated(best_of(left_out_scores(standardised_gram(rows), ranks), ranks), ranks))

    def kept(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


def _require_unknown_labels(probe: Probe) -> None:
    """Raise `Undefined` where the initial weights know the labels: their features show those of left-out samples."""
    chance = float(torch.bincount(probe.targets).max() / len(probe.targets))
    right, samples = list[Tensor](), 0
    with torch.no_grad():
        for batch, logits in probe.forwards(probe.initial_state):
            right.append(logits.argmax(1) == batch.targets)
            samples += len(batch.targets)
            if samples >= FEWEST:
                break
    if knows(int(torch.cat(right).sum()) / samples, chance, samples):
        raise Undefined("the initial weights know the labels already")


REFERENCES: dict[str, Reference] = {
    "patch": Reference(
        PatchRidge.of, "leave-one-out ridge on the images' own patches", "ridge on patches of the images"
    ),
    "forest": Reference(Forest.of, "out-of-bag extremely randomised trees on the inputs", "a random forest"),
    "landmarks": Reference(
        LandmarkRidge.of, "leave-one-out ridge on nearness to other samples", "ridge on nearness to other samples"
    ),
    "tokens": Reference(TokenBayes.of, "leave-one-out naive Bayes on the tokens", "naive Bayes on the tokens"),
    "features": Reference(
        FeatureRidge.of,
        "leave-one-out ridge on the untrained network's features",
        "ridge on the untrained network's features",
    ),
}
