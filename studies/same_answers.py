"""How alike networks answer: the correlation of being right on one held-out sample, between networks and epochs.

    python studies/same_answers.py

Small networks are fitted to scikit-learn's digits, whose labels are redrawn with some probability. Prints Markdown.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from lightning_gengap.zoo.report.markdown import table as markdown_table

SETTINGS = ((150, 0.0), (150, 0.3), (600, 0.4))  # train samples, and the share of labels that are redrawn
HEADER = ("train samples", "noise", "accuracy", "correlation between networks", "between epochs")


def fitted_answers(train: int, noise: float, rng: torch.Generator) -> list[list[NDArray[np.bool_]]]:
    """Answers of small networks on 1,000 digits, by network and epoch; all labels are redrawn with this probability."""
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    redrawn = torch.rand(len(labels), generator=rng) < noise
    labels = torch.where(redrawn, torch.randint(10, (len(labels),), generator=rng), labels)
    order = torch.randperm(len(labels), generator=rng)
    fitted, tested = order[:train], order[-1000:]
    networks = []
    for width, depth, rate, seed in ((8, 1, 0.01, 0), (64, 1, 0.01, 0), (64, 1, 0.01, 1), (256, 2, 0.003, 0)):
        torch.manual_seed(seed)
        widths = [64, *[width] * depth]
        hidden = [part for size in pairwise(widths) for part in (nn.Linear(*size), nn.ReLU())]
        network = nn.Sequential(*hidden, nn.Linear(width, 10))
        optimizer = torch.optim.Adam(network.parameters(), rate)
        answers = []
        for epoch in range(1, 61):
            for some in fitted[torch.randperm(train, generator=rng)].split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[some]), labels[some]).backward()
                optimizer.step()
            if epoch in (10, 20, 40, 60):
                answers.append((network(images[tested]).argmax(1) == labels[tested]).numpy())
        networks.append(answers)
    return networks


def of_real_networks() -> list[list[str]]:
    """How the correctness of one held-out sample is correlated between real networks, and between their epochs."""
    made = []
    for train, noise in SETTINGS:
        networks = fitted_answers(train, noise, torch.Generator().manual_seed(0))
        between = [_alike(one[-1], other[-1]) for one, other in combinations(networks, 2)]
        epochs = [_alike(*pair) for answers in networks for pair in combinations(answers, 2)]
        accuracies = [answers[-1].mean() for answers in networks]
        cells = [f"{np.mean(some):.2f} ({min(some):.2f} to {max(some):.2f})" for some in (accuracies, between, epochs)]
        made.append([str(train), f"{noise:.1f}", *cells])
    return made


def _alike(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def main() -> None:
    print(markdown_table(HEADER, of_real_networks()))


if __name__ == "__main__":
    main()
