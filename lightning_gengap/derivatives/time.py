"""How long a measure may compute on the CPU: what would take minutes is refused before it begins."""

from __future__ import annotations

import math

from lightning_gengap.derivatives.memory import FEWER
from lightning_gengap.errors import Undefined

A_SECOND = 1e10  # multiplications of float64 on one core, in products of matrices; a third of what is usual
MOST_SECONDS = 60
LEAVE = "leave the measure out"


def require_time(multiplications: float, what: str, remedy: str = FEWER) -> None:
    """Raise `Undefined` where so many multiplications would take more than a minute of one core; `what` takes them."""
    seconds = multiplications / A_SECOND
    if seconds > MOST_SECONDS:
        raise Undefined(f"{what} would take {math.ceil(seconds / 60)} minutes of one core; {remedy}")


def of_eigenvalues(side: float) -> float:
    """As many multiplications take as long as the eigenvalues and vectors of a symmetric matrix of this side."""
    return 4.0 * side**3


def of_singular_values(rows: float, columns: float) -> float:
    """The same of the singular values of a matrix."""
    return 5.0 * min(rows, columns) ** 2 * max(rows, columns)
