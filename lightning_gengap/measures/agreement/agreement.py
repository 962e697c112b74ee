"""Whether the network predicts as a classifier that has not seen the label: it generalises; or as the label says."""

from __future__ import annotations

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.mislabelled import remember
from lightning_gengap.measures.agreement.order import order
from lightning_gengap.measures.agreement.out_of_fold import OutOfFold, most_telling, out_of_fold
from lightning_gengap.measures.agreement.references import REFERENCES
from lightning_gengap.measures.difficulty.compared_samples import compared
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.margins.fit import clean_logits
from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe

KEYS = {
    key: declared
    for name, row in REFERENCES.items()
    for key, declared in {
        f"agreement/{name}": Key(
            "fraction", 0, 1, f"share of the samples predicted as by {row.words}", INVARIANT, better="higher"
        ),
        f"agreement/{name}_against_label": Key(
            "fraction", 0, 1, f"share of the samples predicted as by {row.words}, against their label", INVARIANT
        ),
    }.items()
} | {
    "agreement/best": Key(
        "fraction", 0, 1, "share of the samples predicted as by the most accurate reference", INVARIANT, better="higher"
    ),
    "agreement/order": Key(
        "fraction",
        0,
        1,
        "how often a sample that this reference gets right has a larger margin than another",
        INVARIANT,
    ),
}


def agreement(probe: Probe) -> Values:
    """The share of the samples for which the network predicts what a classifier says that has not seen their label.

    A network that learns what carries over to new samples moves towards those predictions. One that memorises moves
    away from them, towards the given labels. Keys `agreement/<reference>`, for every reference of the measure
    `reference`; `agreement/<reference>_against_label`, the part of that share in which both contradict the label: it
    falls as the network memorises. `agreement/best` is that with the reference of `reference/best_accuracy`. Products
    of its accuracy with the agreement, `agreement/by_reference`, and with the train accuracy,
    `agreement/reference_by_accuracy`, are for predictors, which are linear.

    `agreement/order` is how often a sample that this reference gets right has a larger margin (logit of the label minus
    the largest other one) than one that it gets wrong. It tells where every label is fitted, and `agreement/best` says
    no more than the reference's accuracy. It is 0.5 where fewer than five samples are right or wrong.

    Cost: the forward pass of `fit`, which is shared; and once per training what `reference` costs, where that measure
    was not taken before. Reference: none that is known; nearest are confident learning (Northcutt et al. 2021, arXiv
    1911.00068) and leave-one-out interpolation in feature space.

    Raises:
        Undefined: there are fewer than five samples per class that is present. What a reference is needed for is absent
            where that is.
    """
    compared(probe)
    logits = probe.cached(clean_logits)
    predicted = logits.argmax(1)
    values: dict[str, Value] = {}
    best: tuple[str, OutOfFold] | None = None
    why = list[Undefined]()
    for name in REFERENCES:
        try:
            found = out_of_fold(probe, name)
        except Undefined as undefined:
            values[f"agreement/{name}*"] = undefined
            why.append(undefined)
            continue
        own = predicted[found.rows]
        agrees = own == found.predicted
        against = agrees & (found.predicted != probe.targets[found.rows])
        if best is None or found.accuracy > best[1].accuracy:
            best = name, found
        share = float(agrees.double().mean())
        values[f"agreement/{name}"] = share
        if probe.places is None:
            remember(probe.memory, name, own, share)
        values[f"agreement/{name}_against_label"] = float(against.double().mean())
    if best is None:
        return values | dict.fromkeys(("agreement/best", "agreement/order"), most_telling(why))
    name, found = best
    right = found.predicted == probe.targets[found.rows]
    margins = logit_gap(logits, probe.targets)[found.rows]
    return values | {"agreement/best": values[f"agreement/{name}"], "agreement/order": order(margins, right)}
