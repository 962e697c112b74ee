"""What the keys of several curvature measures share."""

from __future__ import annotations

import math

from lightning_gengap.measures.key import INVARIANT, NO, Invariances, Key

CURVATURE_UNIT = "nats per squared parameter"
CHANGING = Invariances(NO, NO, NO)  # at a fixed ridge every change of the weights' scale changes the curvature


def sizes(prefix: str) -> dict[str, Key]:
    """Of how many samples and parameters a curvature is: every value of it has to be read with them."""
    return {
        f"{prefix}/samples": Key("samples", 1, math.inf, "samples that the curvature is of", INVARIANT),
        f"{prefix}/parameters": Key("parameters", 1, math.inf, "trained parameters", INVARIANT),
    }
