"""How well simple classifiers do on samples whose label they have not seen."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.asking import GROWING, ask
from lightning_gengap.measures.agreement.out_of_fold import OutOfFold, most_telling, out_of_fold
from lightning_gengap.measures.agreement.references import REFERENCES
from lightning_gengap.measures.key import INVARIANT, NOTHING, Key
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe

KEYS = {
    key: declared
    for name, row in REFERENCES.items()
    for key, declared in {
        f"reference/{name}_accuracy": Key("fraction", 0, 1, f"accuracy of {row.words}", INVARIANT),
        f"reference/{name}_samples": Key("samples", 1, float("inf"), f"samples that fitted {row.words}", NOTHING),
    }.items()
} | {
    "reference/patch_flipped_accuracy": Key(
        "fraction", 0, 1, "accuracy of leave-one-out ridge on patches, on the mirror images", INVARIANT
    ),
    "reference/share": Key(
        "fraction", 0, 1, "share of the training samples that fitted the most accurate reference", NOTHING
    ),
    "reference/best_accuracy": Key("fraction", 0, 1, "the highest accuracy of a reference", INVARIANT),
}


def reference(probe: Probe) -> Values:
    """Accuracy of simple classifiers on samples whose label they have not seen.

    Keys, higher for easier data: `reference/patch_accuracy` of leave-one-out ridge on the answers of 400 whitened 6 x 6
    patches in four regions of the images; `reference/forest_accuracy` of 100 extremely randomised trees on the
    flattened inputs, each tree asked about the samples outside its bootstrap alone; `reference/landmarks_accuracy` of
    leave-one-out ridge on Gaussian bells around 512 samples, where the inputs are vectors; `reference/tokens_accuracy`
    of leave-one-out naive Bayes on which tokens a text has; `reference/features_accuracy` of leave-one-out ridge on the
    untrained network's features, as `difficulty/ridge_accuracy`. `reference/best_accuracy` is the highest of them.
    `reference/<name>_samples` says on how many samples each was fitted: all that are trained on and finite, or as many
    as 20 seconds of one core are enough for by the multiplications that it takes. The others are read anew from the
    data set for it, and not kept; of streams, of `probe_data` and of several processes there are none, and the last
    reference takes none. All are judged on the monitored samples, of more than 4,096 on 4,096. Two samples of one
    content are two samples: where the data are full of copies, a reference has seen the label that it is asked about.

    `reference/patch_flipped_accuracy` is what the ridge has on the mirror images of the samples, each by the ridge
    without the sample: where it is far below `reference/patch_accuracy`, mirroring changes what an image shows, as it
    does of digits. Images of more than 64 pixels a side are averaged down to 64.

    What each of them says of every sample is kept for `agreement`.

    Taken once per training; where that has a budget, in slices. The cheapest reference is asked at the start, the
    others as soon as there is time: first on the monitored samples alone, then each time that the samples have doubled,
    until all are in. `reference/share` is the number of samples that fitted the best of them over the train size.
    Values, and what is kept for `agreement`, are those of the samples that are in.

    Cost: a forward pass, an eigendecomposition of an (examples x examples) matrix, ridge and
    trees on the training samples. References: Geurts, Ernst and Wehenkel 2006 (doi 10.1007/s10994-006-6226-1) for the
    trees; Breiman 1996 for estimates out of the bag; Coates and Ng 2012 for the patches.

    Raises:
        Undefined: there are fewer than five samples per class that is present. A single reference is absent where its
            inputs are: images of at least 6 x 6; at most 16,384 floats a sample; vectors, all of these finite; integers
            of shape (examples, length) that go into an embedding; initial weights that do not know the labels yet, and
            hidden layers. So it is where it takes more memory than there is, or more than a minute.
    """
    why_not = ask(probe, REFERENCES) if probe.places is None else {}
    values: dict[str, Value] = {}
    accuracies: dict[str, float] = {}
    fitted: dict[str, int] = {}
    why: list[Undefined] = []
    for name in REFERENCES:
        try:
            found = _of(probe, name, why_not)
        except Undefined as undefined:
            values[f"reference/{name}_*"] = undefined
            why.append(undefined)
            continue
        labels = probe.targets[found.rows]
        accuracies[name] = float((found.predicted == labels).double().mean())
        values[f"reference/{name}_accuracy"] = accuracies[name]
        fitted[name] = found.fitted
        values[f"reference/{name}_samples"] = float(found.fitted)
        if found.flipped is not None:
            values[f"reference/{name}_flipped_accuracy"] = float((found.flipped == labels).double().mean())
    if not accuracies:
        return values | {"reference/best_accuracy": most_telling(why)}
    best = max(accuracies, key=lambda name: accuracies[name])
    if probe.train_samples:
        values["reference/share"] = min(fitted[best] / probe.train_samples, 1.0)
    if {"reference", "agreement"} & probe.named and not any(key.startswith(GROWING) for key in probe.memory):
        said = f"{REFERENCES[best].called} has {accuracies[best]:.2f} on these samples, fitted on {fitted[best]:,}"
        probe.notes.append(f"reference: {said}")
    return values | {"reference/best_accuracy": accuracies[best]}


def _of(probe: Probe, name: str, why_not: Mapping[str, Undefined]) -> OutOfFold:
    if name in why_not:
        raise why_not[name]
    return out_of_fold(probe, name)
