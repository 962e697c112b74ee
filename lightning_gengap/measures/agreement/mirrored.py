"""Whether mirror images have the class of their originals: asked of a reference, as it depends on the data."""

from __future__ import annotations

from lightning_gengap.errors import Later, Undefined
from lightning_gengap.measures.agreement.out_of_fold import out_of_fold
from lightning_gengap.network.probe import Probe

LEAST_KEPT = 0.8  # of a reference's accuracy; digits keep a third, photographs almost all


def mirrored_alike(probe: Probe) -> bool:
    """Whether ridge on patches, without the sample, does as well on its mirror image; also where there is none.

    Raises:
        Later: it was not asked yet.
    """
    try:
        out_of_fold(probe, "patch")
    except Later:
        raise  # what is decided without it might have to be taken back
    except Undefined:
        return True
    predicted, flipped, labels = (probe.memory.get(f"out_of_fold/patch/{part}") for part in _PARTS)
    if predicted is None or flipped is None or labels is None:
        return True
    return int((flipped == labels).sum()) >= LEAST_KEPT * int((predicted == labels).sum())


_PARTS = ("predicted", "flipped", "labels")
