"""How well simple classifiers do on samples whose label they have not seen."""

from __future__ import annotations

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.out_of_fold import REFERENCES, WORDS, out_of_fold
from lightning_gengap.measures.difficulty.compared_samples import compared
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe

KEYS = {
    f"reference/{name}_accuracy": Key("fraction", 0, 1, f"accuracy of {WORDS[name]}", INVARIANT) for name in REFERENCES
}


def reference(probe: Probe) -> Values:
    """Accuracy of simple classifiers on samples whose label they have not seen.

    Keys, higher for easier data: `reference/patch_accuracy` of leave-one-out ridge on the images' own patches, as
    `input_difficulty/patch_accuracy`; `reference/forest_accuracy` of 100 extremely randomised trees on the flattened
    inputs, each tree asked about the samples outside its bootstrap alone; `reference/features_accuracy` of
    leave-one-out ridge on the untrained network's features, as `difficulty/ridge_accuracy`. What each of them says of
    every sample is kept for `agreement`. Of more than 4,096 samples, 4,096 are compared; images of more than 64 pixels
    a side are averaged down to 64.

    Taken once per training. Cost: a forward pass, two eigendecompositions of an (examples x examples) matrix, and the
    trees. References: Geurts, Ernst and Wehenkel 2006 (doi 10.1007/s10994-006-6226-1) for the trees; Breiman 1996 for
    estimates out of the bag.

    Raises:
        Undefined: there are fewer than five samples per class that is present. A single reference is absent where its
            inputs are: images of at least 6 x 6, at most 16,384 floats a sample, initial weights and hidden layers; and
            where it takes more memory than there is, or more than a minute.
    """
    compared(probe)
    values: dict[str, Value] = {}
    for name in REFERENCES:
        try:
            found = out_of_fold(probe, name)
            right = found.predicted == probe.targets[found.rows]
            values[f"reference/{name}_accuracy"] = float(right.double().mean())
        except Undefined as undefined:
            values[f"reference/{name}_accuracy"] = undefined
    return values
