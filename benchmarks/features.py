"""Which features and which form carry over and rank: held-out scores in the development part, never the locked one.

    python benchmarks/features.py [pretrained_predictors/small_zoo_v3.csv.gz]

Mean absolute error in accuracy points, without abstention, all candidates on the same rows; Kendall's tau of predicted
and actual test accuracy within held-out tasks, over all snapshots and over last ones; regret in test points of the
snapshot that a candidate prefers within a run of ten snapshots. *Test*: the test accuracy is fitted, so that train
accuracy enters the gap with coefficient one. *Balanced*: tasks count alike and late snapshots more.
"""

import sys
from pathlib import Path

import numpy as np

from lightning_gengap.zoo.abilities import ranking, turn
from lightning_gengap.zoo.fit import usable
from lightning_gengap.zoo.protocol import development, splits
from lightning_gengap.zoo.regressors import hold_out_points
from lightning_gengap.zoo.specifications import DEFAULT, IMAGES, TRIVIAL, Specification, Term
from lightning_gengap.zoo.table import read

TABLE = Path(__file__).resolve().parent.parent / "pretrained_predictors" / "small_zoo_v3.csv.gz"
ACCURACY, LOSS, SIZE, CLASSES = TRIVIAL
RIDGE = Term("difficulty/ridge_accuracy", "identity")
EXCESS = Term("difficulty/excess_accuracy", "log", 0.02)
MARGIN = Term("margin/input/median", "log")
AUGMENTED = Term("perturbation/augment_accuracy", "identity")
MIXED = Term("perturbation/mix_accuracy", "identity")
NOISED = Term("perturbation/noise_0.3_accuracy", "identity")
PATCHES = Term("input_difficulty/patch_accuracy", "identity")
CONVOLUTIONS = Term("input_difficulty/convolution_accuracy", "identity")
INPUTS = Term("input_difficulty/ridge_accuracy", "identity")
NEIGHBOURS = Term("difficulty/neighbour_10_accuracy", "identity")
SPEED = Term("speed/train_loss_mean", "log")
DISCOUNTED = Term("perturbation/discounted_accuracy", "identity")
EXCESS_BY_SIZE = Term("perturbation/excess_by_size", "identity")
OF_GAP = {
    "trivial": TRIVIAL,
    "trivial, ridge": (*TRIVIAL, RIDGE),
    "default": DEFAULT.features,
    "default without input margin": tuple(term for term in DEFAULT.features if term != MARGIN),
    "default without excess": tuple(term for term in DEFAULT.features if term != EXCESS),
    "default, speed": (*DEFAULT.features, SPEED),
    "images_v1": IMAGES.features,
}
OF_TEST = {
    "augmented": (AUGMENTED,),
    "augmented, size, ridge on the untrained network": (AUGMENTED, SIZE, RIDGE),
    "augmented, size, neighbours": (AUGMENTED, SIZE, NEIGHBOURS),
    "augmented, size, patches": (AUGMENTED, SIZE, PATCHES),
    "augmented, size, neighbours, patches (images_v2)": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES),
    "augmented, size, neighbours, convolutions": (AUGMENTED, SIZE, NEIGHBOURS, CONVOLUTIONS),
    "augmented, size, inputs, convolutions, patches, neighbours": (
        AUGMENTED,
        SIZE,
        INPUTS,
        CONVOLUTIONS,
        PATCHES,
        NEIGHBOURS,
    ),
    "images_v2, train accuracy": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES, ACCURACY),
    "images_v2, loss": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES, LOSS),
    "images_v2, speed": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES, SPEED),
    "images_v2, input margin": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES, MARGIN),
    "images_v2, mixes": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES, MIXED),
    "images_v2, noise": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES, NOISED),
    "images_v2, classes": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES, CLASSES),
    "images_v2 without size": (AUGMENTED, NEIGHBOURS, PATCHES),
}
BALANCED = {
    "images_v2": (AUGMENTED, SIZE, NEIGHBOURS, PATCHES),
    "images_v2, discounted": (DISCOUNTED, SIZE, NEIGHBOURS, PATCHES),
    "images_v2, discounted, convolutions": (DISCOUNTED, SIZE, NEIGHBOURS, PATCHES, CONVOLUTIONS),
    "images_v2, discounted, convolutions, excess by size (images_v3)": (
        DISCOUNTED,
        SIZE,
        NEIGHBOURS,
        PATCHES,
        CONVOLUTIONS,
        EXCESS_BY_SIZE,
    ),
    "images_v3, loss": (DISCOUNTED, SIZE, NEIGHBOURS, PATCHES, CONVOLUTIONS, EXCESS_BY_SIZE, LOSS),
    "images_v3, speed": (DISCOUNTED, SIZE, NEIGHBOURS, PATCHES, CONVOLUTIONS, EXCESS_BY_SIZE, SPEED),
    "images_v3, classes": (DISCOUNTED, SIZE, NEIGHBOURS, PATCHES, CONVOLUTIONS, EXCESS_BY_SIZE, CLASSES),
}
SPLITS = (
    "by task",
    "leave one family out",
    "leave one data set out",
    "leave one source out",
    "leave one noise level out",
)


def main() -> None:
    table = read(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
    candidates = {("gap", name): Specification(name, terms, "additive") for name, terms in OF_GAP.items()}
    candidates |= {
        ("log gap", name): Specification(name, terms)
        for name, terms in OF_GAP.items()
        if name in ("trivial", "default")
    }
    candidates |= {
        ("test", name): Specification(name, (ACCURACY, *terms), "additive", test_accuracy=True)
        for name, terms in OF_TEST.items()
    }
    candidates |= {
        ("gap, balanced", name): Specification(name, OF_GAP[name], "additive", balanced=True)
        for name in ("trivial", "default")
    }
    candidates |= {
        ("test, balanced", name): Specification(name, (ACCURACY, *terms), "additive", test_accuracy=True, balanced=True)
        for name, terms in BALANCED.items()
    }
    among = np.logical_and.reduce([development(table), *(usable(table, one) for one in candidates.values())])
    actual, split_of = table.numbers("gap.accuracy"), splits(table)
    runs, tasks = (len(set(table.words(column)[among])) for column in ("run", "task"))
    print(f"development part: {among.sum()} rows of {runs} runs in {tasks} tasks; the constant errs by", end=" ")
    print(f"{100 * np.abs(actual[among] - actual[among].mean()).mean():.1f}\n")
    print("| fitted | features | " + " | ".join(SPLITS) + " | tau, along training | tau, last | regret |")
    print("|---" * (len(SPLITS) + 5) + "|")
    trivial = hold_out_points(table, candidates["log gap", "trivial"], split_of["by task"], among)
    for (target, name), specification in candidates.items():
        held = {split: hold_out_points(table, specification, split_of[split], among) for split in SPLITS}
        errors = [f"{100 * np.abs(one.gap - actual[one.rows]).mean():.1f}" for one in held.values()]
        points = held["by task"]
        assert np.array_equal(points.rows, trivial.rows)
        gaps = {"trivial": trivial.gap, name: points.gap}
        ranked, turned = ranking(table, points.rows, gaps), turn(table, points.rows, gaps)
        taus = [f"{ranked[kind]['tau'][name][0]:.2f}" for kind in ("along training", "final")]
        regret = f"{turned['regret'][name][0]:.2f}"
        print(f"| {target} | {name} | " + " | ".join([*errors, *taus, regret]) + " |", flush=True)


if __name__ == "__main__":
    main()
