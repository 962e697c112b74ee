"""The model card of a predictor of one family on one data set."""

from __future__ import annotations

from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.evaluate.abilities import CONVERGED
from lightning_gengap.zoo.evaluate.bootstrap import DRAWS
from lightning_gengap.zoo.evaluate.one_family import FEWEST_CONVERGED, KINDS
from lightning_gengap.zoo.report.markdown import render


def one_family_card(predictor: Predictor, figure: str = "") -> str:
    """The Markdown page: held-out errors beside the baselines, what the predictor goes by, where it fails.

    Args:
        predictor: with the scores of `one_family.scored_by_run`.
        figure: path, relative to the card, of the figure of `one_family_figure.draw`; empty if there is none.
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
