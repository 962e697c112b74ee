"""How predictors fitted on small training sets do on whole data sets, network by network.

    python benchmarks/sizes.py [pretrained_predictors/small_zoo_v3.csv.gz] [--most 3200 10000 16000]

Each specification is fitted anew on the tasks of at most so many training images, and asked about those of 50,000 and
more; errors in accuracy points (predicted minus actual), abstentions counted.
"""

import argparse
from pathlib import Path

import numpy as np

from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE
from lightning_gengap.zoo.fit.fit import fit, predicted, usable
from lightning_gengap.zoo.fit.specifications import DEFAULT_2, DEFAULT_3, IMAGES_2, IMAGES_3
from lightning_gengap.zoo.table import read

TABLE = Path(__file__).resolve().parent.parent / "pretrained_predictors" / "small_zoo_v3.csv.gz"
WHOLE = 50_000
COLUMNS = ("recipe.source", "recipe.family", "recipe.augment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--most", type=int, nargs="*", default=[3200, 10_000, 16_000])
    options = parser.parse_args()
    table = read(options.table)
    sizes, actual = table.numbers("recipe.train_samples"), table.numbers("gap.accuracy")
    specifications = (TRIVIAL_BASELINE, DEFAULT_2, IMAGES_2, DEFAULT_3, IMAGES_3)
    asked = np.logical_and.reduce([sizes >= WHOLE, *(usable(table, one) for one in specifications)])
    groups = sorted({tuple(table.columns[name][row] for name in COLUMNS) for row in np.flatnonzero(asked)})
    titles = [f"{source}, {family}{', augmented' * (augmented == 'True')}" for source, family, augmented in groups]
    print(f"{asked.sum()} snapshots; mean absolute error (mean error) in accuracy points; actual gaps below the titles")
    print("| fitted on at most | predictor | all | " + " | ".join(titles) + " |")
    print("|---" * (3 + len(groups)) + "|")
    members = [
        np.logical_and.reduce([table.words(name)[asked] == value for name, value in zip(COLUMNS, group, strict=True)])
        for group in groups
    ]
    gaps = 100 * actual[asked]
    print("| | actual | | " + " | ".join(f"{gaps[own].min():.1f} to {gaps[own].max():.1f}" for own in members) + " |")
    for most in options.most:
        for specification in specifications:
            predictor = fit(table, specification, usable(table, specification) & (sizes <= most))
            gap, _, _, abstained = predicted(predictor, table, asked)
            error = 100 * (gap - actual[asked])
            cells = [f"{np.abs(error[own]).mean():.1f} ({error[own].mean():+.1f})" for own in members]
            note = f", {abstained.mean():.0%} abstained" if abstained.any() else ""
            print(
                f"| {most} | {specification.name} | {np.abs(error).mean():.1f}{note} | " + " | ".join(cells) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
