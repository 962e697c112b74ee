"""Which features and which form carry over: held-out error in the development part of a table, never the locked part.

    python benchmarks/features.py [pretrained_predictors/small_zoo_v1.csv.gz]

Mean absolute error in accuracy points, abstentions counted with the prior mean, all candidates on the same rows. `size`
fits on tasks with fewer than 700 training images and holds out those with more than 2,000.
"""

import sys
from pathlib import Path

import numpy as np

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.evaluation import hold_out
from lightning_gengap.zoo.fit import usable
from lightning_gengap.zoo.protocol import Split, development, splits
from lightning_gengap.zoo.specifications import DEFAULT, TRIVIAL, Specification, Term
from lightning_gengap.zoo.table import Table, read

TABLE = Path(__file__).resolve().parent.parent / "pretrained_predictors" / "small_zoo_v1.csv.gz"
RIDGE = Term("difficulty/ridge_accuracy", "identity")
EXCESS = Term("difficulty/excess_accuracy", "log", 0.02)
INPUT, LAST = Term("margin/input/median", "log"), Term("margin/h3/median", "log")
ACCURACY, LOSS, SIZE, CLASSES = TRIVIAL
CORE = (ACCURACY, LOSS, SIZE, RIDGE, EXCESS)
CANDIDATES = {
    "trivial": TRIVIAL,
    "trivial, ridge": (*TRIVIAL, RIDGE),
    "trivial, ridge, excess": (*TRIVIAL, RIDGE, EXCESS),
    "without classes (core)": CORE,
    "core, input margin (default_v1)": DEFAULT.features,
    "core, last-layer margin": (*CORE, LAST),
    "core, both margins": (*CORE, INPUT, LAST),
    "core, four margins": (*CORE, *(Term(f"margin/{layer}/median", "log") for layer in ("input", "h1", "h2", "h3"))),
    "core, speed": (*CORE, Term("speed/train_loss_mean", "log")),
    "core, input margin, augmented accuracy": (
        *DEFAULT.features,
        Term("perturbation/augment_accuracy", "identity"),
    ),
    "core, input margin, mixes": (*DEFAULT.features, Term("perturbation/mix_accuracy", "identity")),
    "default_v1 without excess": tuple(term for term in DEFAULT.features if term != EXCESS),
    "default_v1 without ridge": tuple(term for term in DEFAULT.features if term != RIDGE),
    "default_v1 without size": tuple(term for term in DEFAULT.features if term != SIZE),
}


def sizes(table: Table) -> list[Split]:
    samples = table.numbers("measure.train_samples")
    return [("size", samples < 700, samples > 2000)]


def main() -> None:
    table = read(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
    every = [usable(table, Specification("candidate", terms)) for terms in CANDIDATES.values()]
    among = np.logical_and.reduce([development(table), *every])
    actual = table.numbers("gap.accuracy")
    asked = {name: list(split) for name, split in splits(table).items() if name not in ("by run",)} | {
        "size": sizes(table)
    }
    tasks = len(set(table.words("task")[among]))
    print(f"development part: {among.sum()} rows in {tasks} tasks; the constant errs by", end=" ")
    print(f"{100 * np.abs(actual[among] - actual[among].mean()).mean():.1f}")
    print("| features | form | " + " | ".join(asked) + " |")
    print("|---" * (len(asked) + 2) + "|")
    for name, terms in CANDIDATES.items():
        for form in ("additive", "product_of_powers"):
            errors = []
            for split in asked.values():
                try:
                    held = hold_out(table, Specification(name, terms, form), split, among)
                except TableError:  # too few tasks are left to fit on
                    errors.append("-")
                else:
                    errors.append(f"{100 * np.abs(held.gap - actual[held.rows]).mean():.1f}")
            print(f"| {name} | {form} | " + " | ".join(errors) + " |", flush=True)


if __name__ == "__main__":
    main()
