"""Which features and which form carry over and rank: held-out scores in the development part, never the locked one.

    python benchmarks/features.py [pretrained_predictors/small_zoo_v3.csv.gz]

Mean absolute error in accuracy points, without abstention, all candidates on the same rows, and what it saves of the
error of the trivial features (the first row: the additive fit, which errs least by task), paired; 95 % intervals
by resampling tasks, then their runs. A source left out is resampled over its tasks too: there are only two of them.
Kendall's tau of predicted and actual test accuracy within held-out tasks, over all snapshots and over last ones; regret
in test points of the snapshot that a candidate prefers within a run of ten snapshots. *Test*: the test accuracy is
fitted, so that train accuracy enters the gap with coefficient one. *Balanced*: tasks count alike and late snapshots
more. *Memoriser*: the predicted test accuracy hardly falls below the nearest neighbour's.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_gengap.zoo.evaluate.ablation import union
from lightning_gengap.zoo.evaluate.regressors import Codes, Points, hold_out_points
from lightning_gengap.zoo.evaluate.splits import Mask, development, splits

from lightning_gengap.zoo.evaluate.abilities import ranking, turn
from lightning_gengap.zoo.evaluate.bootstrap import Resampling, Score
from lightning_gengap.zoo.fit.fit import usable
from lightning_gengap.zoo.fit.specifications import (
    DEFAULT,
    DEFAULT_3,
    IMAGES,
    IMAGES_2,
    IMAGES_3,
    TRIVIAL,
    Specification,
    Term,
)
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as written
from lightning_gengap.zoo.table import Table, read

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
ADDED = {
    "ridge": RIDGE,
    "excess": EXCESS,
    "input margin": MARGIN,
    "speed": SPEED,
    "augmented": AUGMENTED,
    "discounted": DISCOUNTED,
    "mixes": MIXED,
    "noise": NOISED,
    "inputs": INPUTS,
    "patches": PATCHES,
    "convolutions": CONVOLUTIONS,
    "neighbours": NEIGHBOURS,
}
OF_GAP = {
    "trivial": TRIVIAL,
    **{f"trivial, {name}": (*TRIVIAL, term) for name, term in ADDED.items()},
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
    "images_v3": IMAGES_3.features[1:],
    "images_v3, loss": union(IMAGES_3.features[1:], (LOSS,)),
    "images_v3, speed": union(IMAGES_3.features[1:], (SPEED,)),
    "images_v3, classes": union(IMAGES_3.features[1:], (CLASSES,)),
    "images_v3, size": union(IMAGES_3.features[1:], (SIZE,)),
}
MEMORISER = {
    ("test, balanced, memoriser", "images_v2"): replace(IMAGES_3, features=IMAGES_2.features, bounds=()),
    ("test, balanced, memoriser", "images_v3"): IMAGES_3,
    ("test, balanced, memoriser", "images_v3, loss"): replace(IMAGES_3, features=(*IMAGES_3.features, LOSS)),
    ("test, balanced, memoriser", "images_v3, size"): replace(IMAGES_3, features=(*IMAGES_3.features, SIZE)),
    ("test, balanced, memoriser", "images_v3, plain copies"): replace(
        IMAGES_3, features=tuple(AUGMENTED if term == DISCOUNTED else term for term in IMAGES_3.features)
    ),
    ("test, balanced, memoriser", "images_v3 without excess by size"): replace(
        IMAGES_3, features=tuple(term for term in IMAGES_3.features if "excess" not in term.name)
    ),
    ("gap, balanced, memoriser", "default"): replace(DEFAULT_3, features=DEFAULT.features, bounds=()),
    ("gap, balanced, memoriser", "default_v3"): DEFAULT_3,
}
SPLITS = (
    "by task",
    "leave one family out",
    "leave one data set out",
    "leave one source out",
    "leave one noise level out",
)


SAVED = ("by task", "leave one data set out")
REFERENCE = ("gap", "trivial")
Candidate = tuple[str, str]  # what is fitted, features


def candidates(table: Table) -> dict[Candidate, Specification]:
    """All that is compared, the reference first; what the table lacks a measure of is left out, each set once."""
    listed = {("gap", name): Specification(name, terms, "additive") for name, terms in OF_GAP.items()}
    listed |= {("log gap", name): Specification(name, OF_GAP[name]) for name in ("trivial", "default")}
    listed |= {
        ("test", name): Specification(name, (ACCURACY, *terms), "additive", test_accuracy=True)
        for name, terms in OF_TEST.items()
    }
    listed |= {
        ("gap, balanced", name): Specification(name, OF_GAP[name], "additive", balanced=True)
        for name in ("trivial", "default")
    }
    listed |= {
        ("test, balanced", name): Specification(name, (ACCURACY, *terms), "additive", test_accuracy=True, balanced=True)
        for name, terms in BALANCED.items()
    }
    listed |= MEMORISER
    there = [name for name, one in listed.items() if all(f"measure.{t.name}" in table.columns for t in one.features)]
    same = {
        (name[0], tuple(sorted(map(str, listed[name].features)))): name for name in reversed(there)
    }  # the first name of a set
    return {name: listed[name] for name in there if name in same.values()}


def held_out(table: Table, compared: dict[Candidate, Specification], among: Mask) -> dict[str, dict[Candidate, Points]]:
    """Held-out predictions by split and candidate, on the same rows."""
    split_of, codes = splits(table), Codes.of(table)
    held = {
        split: {
            name: hold_out_points(table, specification, split_of[split], among, codes=codes)
            for name, specification in compared.items()
        }
        for split in SPLITS
    }
    assert all(np.array_equal(one.rows, of[REFERENCE].rows) for of in held.values() for one in of.values())
    return held


def main() -> None:
    table = read(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
    compared = candidates(table)
    among = np.logical_and.reduce([development(table), *(usable(table, one) for one in compared.values())])
    actual, draws = table.numbers("gap.accuracy"), Resampling.of(table)
    runs, tasks = (len(set(table.words(column)[among])) for column in ("run", "task"))
    print(f"development part: {among.sum()} rows of {runs} runs in {tasks} tasks; the constant errs by", end=" ")
    print(f"{100 * np.abs(actual[among] - actual[among].mean()).mean():.1f}\n")
    held = held_out(table, compared, among)
    errors: dict[str, dict[Candidate, Score]] = {
        split: {name: draws.mean(100 * np.abs(one.gap - actual[one.rows]), one.rows) for name, one in of.items()}
        for split, of in held.items()
    }
    rows = held["by task"][REFERENCE].rows
    gaps = {"trivial": held["by task"][REFERENCE].gap}  # the name that `ranking` compares with
    gaps |= {", ".join(name): one.gap for name, one in held["by task"].items() if name != REFERENCE}
    ranked, turned = ranking(table, rows, gaps), turn(table, rows, gaps)
    saved = [f"saved of trivial's, {split}" for split in SAVED]
    header = ["fitted", "features", *SPLITS, *saved, "tau, along training", "tau, last", "regret"]
    lines = []
    for name in compared:
        key = "trivial" if name == REFERENCE else ", ".join(name)
        cells = [ranged(errors[split][name].listed(), 1) for split in SPLITS]
        differences = [errors[split][REFERENCE].minus(errors[split][name]) for split in SAVED]
        cells += ["" if name == REFERENCE else ranged(difference.listed(), 1) for difference in differences]
        cells += [f"{ranked[kind]['tau'][key][0]:.2f}" for kind in ("along training", "final")]
        lines.append([*name, *cells, f"{turned['regret'][key][0]:.2f}"])
    print(written(header, lines))


if __name__ == "__main__":
    main()
