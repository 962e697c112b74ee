"""Groups of measures of one kind that are there together, on the rows where they were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from contests import finite

from lightning_gengap.measures import MEASURED
from lightning_gengap.predictors.specification import Term
from lightning_gengap.zoo.evaluate.comparable import measures_of, term_of
from lightning_gengap.zoo.table import Mask, Table

GROUPS = {
    "margins": ("margin", "bartlett"),
    "norms": ("norm", "norm_product", "path_norm", "complexity", "distance"),
    "sharpness": ("sharpness", "adaptive_sharpness", "pac_bayes", "worst_case"),
    "curvature": (
        *("soft_rank", "full_soft_rank", "diagonal_curvature", "kronecker_curvature", "hessian"),
        *("tic", "gradient_noise"),
    ),
    "leave-one-out": ("leave_one_out", "network_leave_one_out"),
    "perturbation": ("perturbation", "perturbed_margin", "augmentation"),
    "class structure": ("k_variance", "separability", "representation"),
    "difficulty": ("difficulty", "input_difficulty", "kernel_difficulty"),
    "train metrics": ("fit", "calibration", ""),
}
MOST_PARTS = 3


@dataclass(frozen=True)
class Group:
    """Measures of one kind that are there together.

    Attributes:
        terms: the measures, with their transforms.
        dropped: measures of this kind that are there on other rows, and in no group.
        rows: where all of them are there.
        scarce: on less than half of the rows.
    """

    terms: tuple[Term, ...]
    dropped: tuple[str, ...]
    rows: Mask
    scarce: bool


def groups_of(table: Table, among: Mask) -> dict[str, Group]:
    """By name, the groups with a varying measure; those that are not there together are numbered, scarce ones apart."""
    named = {measure: group for group, measures in GROUPS.items() for measure in measures}
    there = {key: among & finite(table, (term_of(key),)) for key in measures_of(table, among)}
    found = {}
    for group in (*GROUPS, "other"):
        own = [key for key in there if named.get(MEASURED[key].measure, "other") == group]
        frequent = [key for key in own if not scarce(there[key], among)]
        rare = [key for key in own if key not in frequent]
        for name, keys in ((group, frequent), (f"{group}, scarce ones" if frequent else group, rare)):
            for number, part in enumerate(_together({key: there[key] for key in keys}, keys is rare), start=1):
                found[name if number == 1 else f"{name} ({number})"] = part
    return found


def scarce(there: Mask, among: Mask) -> bool:
    """Whether a measure is there on less than half of the rows."""
    return bool(2 * (there & among).sum() < among.sum())


def _together(there: Mapping[str, Mask], is_scarce: bool) -> Iterator[Group]:
    """The most frequent measure with those that cost it, all together, a tenth of its rows at most; then the others."""
    left = sorted(there, key=lambda key: -int(there[key].sum()))
    for number in range(MOST_PARTS):
        if not left:
            return
        rows = there[left[0]]
        fewest, kept = 0.9 * rows.sum(), []
        for key in left:
            if (rows & there[key]).sum() >= fewest:
                rows = rows & there[key]
                kept.append(key)
        left = [key for key in left if key not in kept]
        dropped = tuple(left) if number == MOST_PARTS - 1 else ()
        yield Group(tuple(term_of(key) for key in there if key in kept), dropped, rows, is_scarce)
