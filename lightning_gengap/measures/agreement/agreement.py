"""Whether the network predicts as a classifier that has not seen the label: it generalises; or as the label says."""

from __future__ import annotations

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.out_of_fold import REFERENCES, WORDS, out_of_fold
from lightning_gengap.measures.difficulty.compared_samples import compared
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.margins.fit import clean_logits
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe

KEYS = {
    key: declared
    for name in REFERENCES
    for key, declared in {
        f"agreement/{name}": Key(
            "fraction", 0, 1, f"share of the samples predicted as by {WORDS[name]}", INVARIANT, better="higher"
        ),
        f"agreement/{name}_against_label": Key(
            "fraction", 0, 1, f"the same among the samples whose label {WORDS[name]} gets wrong", INVARIANT
        ),
    }.items()
}


def agreement(probe: Probe) -> Values:
    """The share of the samples for which the network predicts what a classifier says that has not seen their label.

    A network that learns what carries over to new samples moves towards those predictions. One that memorises moves
    away from them, towards the given labels. Keys `agreement/<reference>`, for every reference of the measure
    `reference`; `agreement/<reference>_against_label`, the same share among the samples whose label the reference does
    not predict: it falls as the network memorises them.

    Cost: the forward pass of `fit`, which is shared; and once per training what `reference` costs, where that measure
    was not taken before. Reference: none that is known; nearest are confident learning (Northcutt et al. 2021, arXiv
    1911.00068) and leave-one-out interpolation in feature space.

    Raises:
        Undefined: there are fewer than five samples per class that is present. What a reference is needed for is absent
            where it is, and what is counted against the label where a reference predicts every label.
    """
    compared(probe)
    predicted = probe.cached(clean_logits).argmax(1)
    values: dict[str, Value] = {}
    for name in REFERENCES:
        try:
            found = out_of_fold(probe, name)
        except Undefined as undefined:
            values[f"agreement/{name}*"] = undefined
            continue
        agrees = (predicted[found.rows] == found.predicted).double()
        against = found.predicted != probe.targets[found.rows]
        nothing = Undefined("the reference predicts every label")
        values[f"agreement/{name}"] = float(agrees.mean())
        values[f"agreement/{name}_against_label"] = float(agrees[against].mean()) if bool(against.any()) else nothing
    return values
