"""What setting m of n samples aside costs in accuracy, and how certain the accuracy on them is.

    python studies/hold_out.py [--repeats 20]

The first table is measured: a small network is trained on n digits, and on those that `hold_out` leaves, with the same
test samples. The second comes from the committed tables of the zoo: how much accuracy rises with the logarithm of n,
within groups of equal data, noise and family. The cost of m samples is that slope times log(n / (n - m)). Prints
Markdown, in accuracy points.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset, TensorDataset

from lightning_gengap import hold_out

FOLDER = Path("pretrained_predictors")
SIZES, HELD = (200, 500, 1200), (50, 100, 200, 400)
TEST, EPOCHS, BATCH = 500, 30, 32
BOOTSTRAPS = 1000
EXAMPLES = ((500, 50), (500, 100), (1000, 100), (2000, 100), (2000, 200), (5000, 200), (20_000, 500), (50_000, 500))
ALIKE = [f"recipe.{name}" for name in ("source", "classes", "side", "grey", "noise", "groups", "imbalance", "family")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="trainings of each size")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(measured_page(options.repeats) + "\n")
    slopes = {kind: slope_of(rows) for kind, rows in kinds().items()}
    print(slope_page(slopes))


def measured_page(repeats: int) -> str:
    """The mean loss of accuracy on digits, with two standard errors."""
    features, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.from_numpy(features).float() / 16, torch.from_numpy(labels))
    lines = ["| n | accuracy | " + " | ".join(f"m = {m}" for m in HELD) + " |", "|---|---|" + "---|" * len(HELD)]
    for size in SIZES:
        found = np.array([list(accuracies(data, size, seed)) for seed in range(repeats)])
        lost = 100 * (found[:, :1] - found[:, 1:])
        cells = [
            f"{column.mean():.1f} +- {2 * column.std(ddof=1) / repeats**0.5:.1f}" if m <= size // 2 else ""
            for m, column in zip(HELD, lost.T, strict=True)
        ]
        lines.append(f"| {size} | {100 * found[:, 0].mean():.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracies(data: TensorDataset, size: int, seed: int) -> Iterator[float]:
    """Test accuracies after trainings on `size` samples and on what each hold-out leaves of them."""
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    test, pool = order[:TEST], Subset(data, order[TEST : TEST + size])
    yield accuracy(pool, data, test, seed)
    for m in HELD:
        rest = hold_out(pool, m, seed)[0] if m <= size // 2 else pool
        yield accuracy(rest, data, test, seed)


def accuracy(trained: Subset, data: TensorDataset, test: list[int], seed: int) -> float:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    inputs, labels = (torch.stack(part) for part in zip(*trained, strict=True))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return float((model(data.tensors[0][test]).argmax(1) == data.tensors[1][test]).float().mean())


def kinds() -> dict[str, pd.DataFrame]:
    """The last rows of the runs in the tables, by kind of data."""
    small, third = (pd.read_csv(FOLDER / name) for name in ("small_zoo_v3.csv.gz", "third_zoo_v1.csv.gz"))
    small, third = (table.sort_values("epoch").groupby("run").last() for table in (small, third))
    images = small[small["recipe.side"].gt(1) & small["recipe.grid"].isna() & small["recipe.noise"].lt(1)]
    return {"images": images, **{plan: third[third["recipe.plan"] == plan] for plan in ("tables", "texts")}}


def slope_of(rows: pd.DataFrame) -> tuple[float, float, float, int]:
    """Accuracy per logarithm of n within groups, with a 95 % interval by resampling groups, and how many there are."""
    frame = pd.DataFrame({"x": np.log(rows["recipe.train_samples"]), "y": rows["gap.test_accuracy"]})
    frame["group"] = rows[ALIKE].fillna("").astype(str).agg("|".join, axis=1)
    centred = frame[["x", "y"]] - frame.groupby("group")[["x", "y"]].transform("mean")
    sums = pd.DataFrame({"xy": centred.x * centred.y, "xx": centred.x**2}).groupby(frame.group).sum()
    sums = sums[sums.xx > 1e-6].to_numpy()
    draws = np.random.default_rng(0).integers(len(sums), size=(BOOTSTRAPS, len(sums)))
    drawn = sums[draws].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    total = sums.sum(axis=0)
    return float(total[0] / total[1]), float(low), float(high), len(sums)


def slope_page(slopes: dict[str, tuple[float, float, float, int]]) -> str:
    head = [f"{m} of {n}" for n, m in EXAMPLES]
    lines = ["| data | slope | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for kind, (slope, low, high, groups) in slopes.items():
        costs = [f"{100 * slope * np.log(n / (n - m)):.1f}" for n, m in EXAMPLES]
        interval = f"{100 * slope:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"| {kind}, {groups} groups | {interval} | {' | '.join(costs)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
