import math
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gengap.zoo.table import Table, parsed, text_of

SOURCES = ("cifar10", "cifar100", "fashion_mnist", "digits")
FAMILIES = ("cnn", "vgg", "resnet", "mlp", "vit")


def rows(tasks: int = 24, noise: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """Snapshots of a planted law: gap = 0.1 - 0.03 log loss - 0.02 log(n / 1000) + 0.15 (0.5 - ridge) + noise / 10."""
    rng = np.random.default_rng(seed)
    made = []
    for task in range(tasks):
        ridge, samples = rng.uniform(0.3, 0.7), float(rng.integers(300, 3000))
        classes = sorted(rng.choice(10, 2 + task % 3, replace=False).tolist())
        for run in range(8):
            for epoch in range(1, 5):
                loss = float(np.exp(rng.uniform(-3, 0)))
                law = 0.1 - 0.03 * math.log(loss) - 0.02 * math.log(samples / 1000) + 0.15 * (0.5 - ridge)
                gap = law + 0.1 * noise * rng.normal()
                accuracy = 0.96 + 0.04 * float(rng.random())
                margins = {
                    f"measure.margin/{layer}/{name}": float(np.exp(rng.normal()))
                    for layer in ("input", "h1", "h2", "h3")
                    for name in ("lower_whisker", "q1", "median", "q3", "upper_whisker")
                }
                made.append(
                    {
                        "run": f"{task:02}-{run}",
                        "task": f"task{task:02}",
                        "recipe.source": SOURCES[task % 4],
                        "recipe.classes": " ".join(map(str, classes)),
                        "recipe.noise": 0.2 * (task % 3),
                        "recipe.family": FAMILIES[run % 5],
                        "recipe.optimizer": "sgd",
                        "recipe.augment": False,
                        "epoch": epoch,
                        "measure.train_accuracy": accuracy,
                        "measure.train_loss": loss,
                        "measure.train_samples": samples,
                        "measure.classes": float(len(classes)),
                        "measure.progress": epoch / 4,
                        "measure.difficulty/ridge_accuracy": ridge,
                        "measure.difficulty/excess_accuracy": accuracy - ridge,
                        **margins,
                        "gap.accuracy": gap,
                        "gap.test_accuracy": accuracy - gap,
                        "gap.test_samples": 2000.0,
                    }
                )
    return made


def table_of(made: list[dict[str, Any]]) -> Table:
    return parsed(text_of(made), Path("made"))


def table(**arguments: Any) -> Table:
    return table_of(rows(**arguments))
