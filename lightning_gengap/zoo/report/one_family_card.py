"""The model card of a predictor of one family on one data set."""

from __future__ import annotations

from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.evaluate.abilities import CONVERGED
from lightning_gengap.zoo.evaluate.bootstrap import DRAWS
from lightning_gengap.zoo.evaluate.one_family import FEWEST_CONVERGED, KINDS
from lightning_gengap.zoo.report.markdown import render


def one_family_card(predictor: Predictor, figure: str = "") -> str:
    """The Markdown page of a predictor with the scores of `one_family.scored_by_run`: errors, features, failures.

    The figure is a path relative to the card, or empty.
    """
    fewest, most = (f"{count:,}" for count in predictor.scores["train samples"])
    moved = predictor.scores["contributions"]
    return render(
        "one_family_card.md.j2",
        predictor=predictor,
        features=sorted(predictor.features, key=lambda feature: -moved[feature.name]),
        samples=fewest if fewest == most else f"{fewest} to {most}",
        figure=figure,
        draws=DRAWS,
        converged=CONVERGED,
        fewest=FEWEST_CONVERGED,
        kinds=KINDS,
    )
