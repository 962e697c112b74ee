"""Leave-one-out scores in closed form: of kernel ridge, of nearest neighbours, and of nearest class means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import of_eigenvalues, require_time
from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.values import Value

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
COLUMNS = 2**12  # of float64 features that are worked on at once
VOTES = 2**24  # numbers of the neighbours' votes that are held at once
WIDE = 256  # numbers a sample from which products are taken in float32: there they take most of the time
MOST_TIMES_LONGER = 100.0  # the longest row, squared, than the median one


def accuracy_key(words: str) -> Key:
    """The key of a leave-one-out accuracy, in words."""
    return Key("fraction", 0, 1, f"leave-one-out {words}", INVARIANT)


def curve_keys(name: str, words: str) -> dict[str, Key]:
    """The keys of a `learning_curve` under `name`, in words."""
    return {
        f"{name}_accuracy": accuracy_key(words),
        f"{name}_growth": Key(
            "fraction", -1, 1, f"leave-one-out {words}, less that with half of the samples", INVARIANT
        ),
        f"{name}_extrapolated": accuracy_key(f"{words}, extrapolated to the train size"),
    }


def learning_curve(
    name: str,
    score: Callable[[Tensor, Tensor], float],
    rows: Tensor,
    targets: Tensor,
    train_samples: int | None,
    square: bool = False,
) -> dict[str, Value]:
    """A leave-one-out accuracy, how it grows with the number of samples, and where that leads.

    `<name>_accuracy` is that with all m samples. `<name>_growth` is what it exceeds the mean over both halves of the
    samples by, every class being halved. `<name>_extrapolated` lies on the line through both over the log of the number
    of samples, at the train size n: accuracy + growth log2(n / m), in [0, 1]. It is absent where n is unknown; all are
    where memory or time do not suffice. Where `rows` are those of a `square` matrix over pairs, its columns are halved
    too.
    """
    try:
        accuracy = score(rows, targets)
        halves = []
        for half in (targets.argsort(stable=True)[part::2] for part in (0, 1)):
            halves.append(score(rows[half][:, half] if square else rows[half], targets[half]))
    except Undefined as undefined:
        return {f"{name}_*": frameless(undefined)}
    growth = accuracy - sum(halves) / 2
    extrapolated: Value = Undefined("the number of training samples is unknown")
    if train_samples is not None:
        doublings = math.log2(max(train_samples / len(rows), 1.0))
        extrapolated = min(max(accuracy + growth * doublings, 0.0), 1.0)
    return {f"{name}_accuracy": accuracy, f"{name}_growth": growth, f"{name}_extrapolated": extrapolated}


def defined(score: Callable[..., float], *arguments: Any) -> Value:
    """What the score gives, or why it is undefined."""
    try:
        return score(*arguments)
    except Undefined as undefined:
        return frameless(undefined)


def require_comparison(samples: int, features: int, eigenvectors: bool = True) -> None:
    """Raise `Undefined` where comparing so many samples by so many numbers each takes more than memory, or a minute.

    With eigenvectors it is a kernel that is decomposed, without them distances alone.
    """
    held, what = (6, "the kernel") if eigenvectors else (3, "the distances")
    whose = f"{what} of {samples} samples, by {features} numbers each,"
    require_room(8 * samples * (held * samples + 3 * min(features, COLUMNS)), whose)
    require_time(samples**2 * features + eigenvectors * of_eigenvalues(samples), whose)


def leave_one_out_ridge(features: Tensor, targets: Tensor) -> float:
    """Leave-one-out accuracy of kernel ridge on standardised features, the best over four strengths."""
    require_comparison(len(features), features.shape[1])
    return leave_one_out_accuracy(left_out_scores(standardised_gram(features), targets), targets)


def standardised_gram(features: Tensor) -> Tensor:
    """G = H H^T / D over the D features that vary, standardised; centred, its diagonal one on average."""
    gram, count = torch.zeros(len(features), len(features), dtype=torch.float64), 0
    for columns in _columns(features):
        deviation = columns.std(dim=0, correction=0)
        varying = deviation > 0
        standard = (columns[:, varying] - columns[:, varying].mean(dim=0)) / deviation[varying]
        if features.shape[1] >= WIDE:
            standard = standard.float()
        gram += standard @ standard.T
        count += standard.shape[1]
    return gram / max(count, 1)


def left_out_scores(gram: Tensor, targets: Tensor) -> list[Tensor]:
    """Scores of kernel ridge for every point, fitted without it, for each of four strengths; shape (examples, classes).

    G is centred. With S = G (G + l I)^-1 + 1 1^T / n (the mean is not penalised) the prediction for a left-out point is
    (S Y - S_ii Y) / (1 - S_ii): exactly that of a refit without it. Y is +1 for the own class and -1 for the others.
    Without the free mean, centred features would give the left-out label away: in balanced classes the others' labels
    sum to its complement.
    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    signs = signed_labels(targets, gram)
    projected = vectors.T @ signs
    scores = []
    for ridge in RIDGES:
        shrink = (eigenvalues / (eigenvalues + ridge)).clamp(min=0)[:, None]
        fitted = vectors @ (shrink * projected) + signs.mean(dim=0)
        leverage = vectors.square() @ shrink + 1 / len(targets)
        scores.append((fitted - leverage * signs) / (1 - leverage))
    return scores


def signed_labels(targets: Tensor, like: Tensor) -> Tensor:
    """+1 for the own class and -1 for the others; shape (examples, classes), of the type of `like`."""
    return 2.0 * one_hot(targets).to(like) - 1.0


def leave_one_out_accuracy(scores: list[Tensor], targets: Tensor) -> float:
    """The largest accuracy over the strengths."""
    return max(float((left_out.argmax(1) == targets).double().mean()) for left_out in scores)


def leave_one_out_error(scores: list[Tensor], targets: Tensor) -> float:
    """The smallest over the strengths of the left-out scores' squared error, over the variance of the labels."""
    signs = signed_labels(targets, scores[0])
    variance = float((signs - signs.mean(dim=0)).square().mean())
    return min(float((left_out - signs).square().mean()) for left_out in scores) / variance


def leave_one_out_neighbours(inputs: Tensor, targets: Tensor, neighbours: int) -> float:
    """Leave-one-out accuracy of a k-nearest-neighbour vote; ties go to the class of the nearer neighbours."""
    return vote_of_neighbours(distances_to_others(inputs), targets, neighbours)


def distances_to_others(inputs: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of rows, infinite to the row itself; shape (rows, rows).

    Wide rows are taken less their mean in float32, unless some are so long that what is not would be lost.

    Raises:
        Undefined: they take too much memory or time.
    """
    require_comparison(len(inputs), inputs.shape[1], eigenvectors=False)
    distance = _float32_distances(inputs) if inputs.shape[1] >= WIDE else None
    distance = squared_distances(inputs, inputs) if distance is None else distance
    return distance.fill_diagonal_(torch.inf)


def _float32_distances(inputs: Tensor) -> Tensor | None:
    """As `squared_distances`, in float32; None where rows differ so much in length that these are too few digits."""
    centred = torch.cat([(columns - columns.mean(dim=0)).float() for columns in _columns(inputs)], dim=1)
    lengths = centred.square().sum(dim=1)
    if not bool(lengths.max() < MOST_TIMES_LONGER * lengths.median()):
        return None
    return torch.addmm(lengths[:, None] + lengths, centred, centred.T, alpha=-2).clamp_(min=0)


def vote_of_neighbours(distance: Tensor, targets: Tensor, neighbours: int) -> float:
    """The accuracy of that vote by the `distances_to_others`."""
    neighbours = min(neighbours, len(targets) - 1)
    nearest = distance.topk(neighbours, largest=False).indices
    # Earlier neighbours weigh slightly more, by less than one vote in all.
    weight = 1 + torch.linspace(1, 0, neighbours, dtype=torch.float64) / (2 * neighbours)
    labels = one_hot(targets)
    step = max(VOTES // (neighbours * labels.shape[1]), 1)
    votes = torch.cat([(labels[some].double() * weight[:, None]).sum(dim=1) for some in nearest.split(step)])
    return float((votes.argmax(1) == targets).double().mean())


def leave_one_out_class_means(inputs: Tensor, targets: Tensor) -> float:
    """Leave-one-out accuracy of the nearest class mean; a point's own class mean is taken without it."""
    members = one_hot(targets).double()
    counts = members.sum(dim=0)
    own = (counts[targets] - 1)[:, None]
    distance = torch.zeros(len(inputs), len(counts), dtype=torch.float64)
    own_distance = torch.zeros(len(inputs), dtype=torch.float64)
    for columns in _columns(inputs):
        sums = members.T @ columns
        distance += squared_distances(columns, sums / counts[:, None])
        own_distance += (columns - (sums[targets] - columns) / own).square().sum(dim=1)
    distance.scatter_(1, targets[:, None], own_distance[:, None])
    return float((distance.nan_to_num(torch.inf).argmin(1) == targets).double().mean())


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of rows; shape (first, second), float64."""
    distance = torch.zeros(len(first), len(second), dtype=torch.float64)
    for one, other in zip(_columns(first), _columns(second), strict=True):
        distance.addmm_(one, other.T, alpha=-2)
        distance += one.square().sum(dim=1)[:, None]
        distance += other.square().sum(dim=1)
    return distance.clamp_(min=0)


def _columns(rows: Tensor) -> Iterator[Tensor]:
    """The features, some columns at a time, in float64: all of them are more than memory may hold."""
    return (columns.double() for columns in rows.split(COLUMNS, dim=1))
