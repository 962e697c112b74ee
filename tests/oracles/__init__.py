"""The plainest float64 code for each measure: one sample, one pair of classes, one layer, one refit at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn


def activation_at(model: nn.Module, tap: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """One sample's logits and, at `tap` (`input`, `name`, `name:in`, `name#1`), the tensor they were made from."""
    image = image[None].clone().requires_grad_()
    if tap == "input":
        return model(image)[0], image
    seen: list[Tensor] = []
    name, _, call = tap.removesuffix(":in").partition("#")
    module = model.get_submodule(name)
    if tap.endswith(":in"):
        handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    else:
        handle = module.register_forward_hook(
            lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    logits = model(image)[0]
    handle.remove()
    return logits, seen[int(call or 0)]


def distances(model: nn.Module, tap: str, images: Tensor, targets: Tensor) -> np.ndarray:
    """Signed distance of every sample to its nearest boundary in logits, to first order, at one layer."""
    found = []
    for image, target in zip(images, targets.tolist(), strict=True):
        logits, activation = activation_at(model, tap, image)
        values = logits.tolist()
        runner_up = max((c for c in range(len(values)) if c != target), key=lambda c: values[c])
        gap = logits[target] - logits[runner_up]
        (gradient,) = torch.autograd.grad(gap, activation)
        found.append(gap.item() / np.sqrt((gradient.numpy() ** 2).sum()))
    return np.array(found)


def total_variation(model: nn.Module, tap: str, images: Tensor) -> float:
    """Square root of the sum over features of the variance over samples."""
    rows = np.stack([activation_at(model, tap, image)[1].detach().double().numpy().ravel() for image in images])
    return float(np.sqrt(sum(np.mean((column - column.mean()) ** 2) for column in rows.T)))


def quantile(values: Sequence[float], level: float) -> float:
    """Linear interpolation between order statistics."""
    ordered = sorted(values)
    place = level * (len(ordered) - 1)
    below = int(np.floor(place))
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def tukey(values: Sequence[float]) -> dict[str, float]:
    """Quartiles and the extreme data within one and a half interquartile ranges of them."""
    q1, median, q3 = (quantile(values, level) for level in (0.25, 0.5, 0.75))
    reach = 1.5 * (q3 - q1)
    lower, upper = q1, q3
    for value in values:
        if q1 - reach <= value <= lower:
            lower = value
        if q3 + reach >= value >= upper:
            upper = value
    return {"lower_whisker": lower, "q1": q1, "median": median, "q3": q3, "upper_whisker": upper}


def matrix(operator: Callable[[Tensor], Tensor], input_shape: Sequence[int]) -> Tensor:
    """A linear map's matrix: its values on every basis vector as columns."""
    size = int(np.prod(input_shape))
    columns = []
    for i in range(size):
        basis = torch.zeros(size, dtype=torch.float64)
        basis[i] = 1
        columns.append(operator(basis.reshape(1, *input_shape)).flatten())
    return torch.stack(columns, dim=1)


def leave_one_out_ridge(features: np.ndarray, targets: np.ndarray, ridges: Sequence[float]) -> float:
    """The best accuracy over `ridges` of kernel ridge refitted without each sample in turn."""
    rows = features[:, features.std(axis=0) > 0]
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    gram = rows @ rows.T / rows.shape[1]
    return max(float(np.mean(refits(gram, targets, ridge).argmax(axis=1) == targets)) for ridge in ridges)


def refits(gram: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    """The scores of kernel ridge for each sample in turn, refitted without it; shape (examples, classes)."""
    signs, scores = signed(targets), []
    for i in range(len(targets)):
        rest = [j for j in range(len(targets)) if j != i]
        bordered = np.ones((len(rest) + 1, len(rest) + 1))  # the last row and column: a free mean
        bordered[:-1, :-1] = gram[np.ix_(rest, rest)] + ridge * np.eye(len(rest))
        bordered[-1, -1] = 0.0
        dual = np.linalg.solve(bordered, np.vstack([signs[rest], np.zeros(signs.shape[1])]))
        scores.append(gram[i, rest] @ dual[:-1] + dual[-1])
    return np.stack(scores)


def signed(targets: np.ndarray) -> np.ndarray:
    """1 for the own class and -1 for the others; shape (examples, classes)."""
    return np.where(targets[:, None] == np.arange(targets.max() + 1), 1.0, -1.0)


def accuracy_and_growth(
    score: Callable[[np.ndarray, np.ndarray], float], rows: np.ndarray, targets: np.ndarray
) -> tuple[float, float]:
    """The score of all samples, and that less the mean of both halves: every second sample, class by class."""
    order = [i for label in sorted(set(targets.tolist())) for i in range(len(targets)) if targets[i] == label]
    halves = [score(rows[half], targets[half]) for half in (order[::2], order[1::2])]
    accuracy = score(rows, targets)
    return accuracy, accuracy - float(np.mean(halves))


def leave_one_out_neighbours(inputs: np.ndarray, targets: np.ndarray, neighbours: int) -> float:
    """Majority among the nearest other samples; a tie goes to the tied class whose members stand first on the whole."""
    hits = 0
    for i in range(len(inputs)):
        others = sorted(
            (j for j in range(len(inputs)) if j != i), key=lambda j: float(((inputs[i] - inputs[j]) ** 2).sum())
        )
        labels = [int(targets[j]) for j in others[:neighbours]]
        standing = {label: sum(p for p, found in enumerate(labels) if found == label) for label in labels}
        chosen = max(sorted(standing), key=lambda label: (labels.count(label), -standing[label]))
        hits += int(chosen == targets[i])
    return hits / len(inputs)


def leave_one_out_class_means(inputs: np.ndarray, targets: np.ndarray) -> float:
    """Nearest mean of the other samples of each class."""
    hits = 0
    for i in range(len(inputs)):
        gap = {}
        for label in sorted(set(targets.tolist())):
            members = [j for j in range(len(inputs)) if j != i and targets[j] == label]
            if members:
                gap[label] = float(((inputs[i] - inputs[members].mean(axis=0)) ** 2).sum())
        hits += int(min(gap, key=lambda label: gap[label]) == targets[i])
    return hits / len(inputs)
