"""How the monitor warns: as Lightning does, but so that no warning of ours ends a training."""

from __future__ import annotations

import logging

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities import rank_zero_warn as warn_of_lightning

_log = logging.getLogger(__name__)


def rank_zero_warn(message: str) -> None:
    """Warn on rank 0. Where the user turns warnings into errors, the message goes to the log instead."""
    try:
        warn_of_lightning(message)
    except Warning:
        rank_zero_only(_log.warning)(message)
