"""How hard the training set is, whatever network learns it: leave-one-out scores of closed-form classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from lightning_gengap.network.probe import Probe, State

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
FEWEST_PER_CLASS = 5


def difficulty(probe: Probe) -> dict[str, float]:
    """Leave-one-out accuracy of ridge on the untrained network's features, and of neighbours on the inputs.

    Keys `difficulty/ridge_accuracy` (the network at its initial weights, features of h1 to h3, eval mode; the
    largest over four ridge strengths), `difficulty/neighbour_1_accuracy`, `difficulty/neighbour_10_accuracy`
    (Euclidean, on flattened inputs) and `difficulty/class_mean_accuracy` (nearest class mean, own mean without the
    point). For ridge and ten neighbours also `..._growth` and `..._extrapolated` to the train size, see
    `learning_curve`. Fractions; higher is easier. Absent with fewer than five samples per class present; ridge without
    initial weights or hidden layers; what is extrapolated where the train size is unknown. Measured once per training.
    Cost: one forward pass and an eigendecomposition of an (examples x examples) matrix.
    """
    if not enough_samples(probe, "difficulty/*"):
        return {}
    values: dict[str, float] = {}
    if probe.initial_state is None or not probe.layout.taps:
        missing = "hidden layers" if probe.initial_state is not None else "initial weights"
        probe.notes.append(f"difficulty/ridge_accuracy is absent: there are no {missing}")
    else:
        curve = learning_curve(leave_one_out_ridge, initial_features(probe), probe)
        values |= {f"difficulty/ridge_{kind}": value for kind, value in curve.items()}
    if probe.inputs is not None:
        flat = probe.inputs.flatten(1).double().cpu()
        values["difficulty/neighbour_1_accuracy"] = leave_one_out_neighbours(flat, probe.targets, 1)
        curve = learning_curve(partial(leave_one_out_neighbours, neighbours=10), flat, probe)
        values |= {f"difficulty/neighbour_10_{kind}": value for kind, value in curve.items()}
        values["difficulty/class_mean_accuracy"] = leave_one_out_class_means(flat, probe.targets)
    return values


def enough_samples(probe: Probe, keys: str) -> bool:
    """Whether there are five samples per class present; a note that `keys` are absent if not."""
    present = int(probe.targets.unique().numel())
    if len(probe.targets) >= FEWEST_PER_CLASS * present:
        return True
    probe.notes.append(f"{keys} is absent: {len(probe.targets)} samples of {present} classes are too few")
    return False


def initial_features(probe: Probe) -> Tensor:
    """Hidden representations at the initial weights, pooled to 4 x 4 (tokens: averaged) and concatenated.

    Shape (examples, features), float64, on the CPU.
    """
    return torch.cat(list(pooled_features(probe, probe.initial_state).values()), dim=1)


def pooled_features(probe: Probe, state: State | None = None) -> dict[str, Tensor]:
    """Pooled hidden representations by layer, optionally at other weights; (examples, features), float64, CPU."""
    rows: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for batch in probe.batches:
            with probe.tapped() as caught:
                probe.logits_on(batch.content, len(batch.targets), state)
            for tap in probe.layout.taps:
                if tap.layer in caught:
                    rows.setdefault(tap.layer, []).append(_pooled(caught[tap.layer]).double().cpu())
    return {layer: torch.cat(parts) for layer, parts in rows.items()}


def learning_curve(scored: Callable[[Tensor, Tensor], float], rows: Tensor, probe: Probe) -> dict[str, float]:
    """`accuracy` of a leave-one-out score with all samples, its `growth` from half of them, and both `extrapolated`.

    The growth is from the mean over both halves of the m samples, with every class halved; what is extrapolated to the
    train size n lies on the line through both over the log of the number of samples: accuracy + growth log2(n / m), in
    [0, 1]. Absent where n is unknown.
    """
    accuracy = scored(rows, probe.targets)
    by_class = probe.targets.argsort(stable=True)
    halves = [scored(rows[by_class[part::2]], probe.targets[by_class[part::2]]) for part in (0, 1)]
    growth = accuracy - sum(halves) / 2
    if probe.train_samples is None:
        return {"accuracy": accuracy, "growth": growth}
    doublings = math.log2(max(probe.train_samples / len(rows), 1.0))
    extrapolated = min(max(accuracy + growth * doublings, 0.0), 1.0)
    return {"accuracy": accuracy, "growth": growth, "extrapolated": extrapolated}


def leave_one_out_ridge(features: Tensor, targets: Tensor) -> float:
    """Leave-one-out accuracy of kernel ridge on standardised features, the best over four strengths.

    Args:
        features: shape (examples, features).
        targets: class indices, shape (examples,).
    """
    return leave_one_out_accuracy(left_out_scores(standardised_gram(features), targets), targets)


def standardised_gram(features: Tensor) -> Tensor:
    """G = H H^T / D over the D features that vary, standardised; centred, its diagonal one on average."""
    deviation = features.std(dim=0, correction=0)
    varying = deviation > 0
    standard = (features[:, varying] - features[:, varying].mean(dim=0)) / deviation[varying]
    return standard @ standard.T / max(standard.shape[1], 1)


def left_out_scores(gram: Tensor, targets: Tensor) -> list[Tensor]:
    """Scores of kernel ridge for every point, fitted without it, for each of four strengths; shape (examples, classes).

    With S = G (G + l I)^-1 + 1 1^T / n (the mean is not penalised), the prediction for a left-out point is
    (S Y - S_ii Y) / (1 - S_ii), exactly that of a refit without it; Y is +-1 one against the rest. Without the free
    mean, centred features would give the left-out label away: in balanced classes the others' labels sum to its
    complement.

    Args:
        gram: G, centred, shape (examples, examples).
        targets: class indices, shape (examples,).
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


def leave_one_out_neighbours(inputs: Tensor, targets: Tensor, neighbours: int) -> float:
    """Leave-one-out accuracy of a k-nearest-neighbour vote; ties go to the class of the nearer neighbours."""
    distance = torch.cdist(inputs, inputs)
    distance.fill_diagonal_(torch.inf)
    neighbours = min(neighbours, len(targets) - 1)
    nearest = distance.topk(neighbours, largest=False).indices
    # Earlier neighbours weigh slightly more, by less than one vote in all.
    weight = 1 + torch.linspace(1, 0, neighbours, dtype=torch.float64) / (2 * neighbours)
    votes = (one_hot(targets)[nearest].double() * weight[:, None]).sum(dim=1)
    return float((votes.argmax(1) == targets).double().mean())


def leave_one_out_class_means(inputs: Tensor, targets: Tensor) -> float:
    """Leave-one-out accuracy of the nearest class mean; a point's own class mean is taken without it."""
    members = one_hot(targets).to(inputs)
    counts = members.sum(dim=0)
    sums = members.T @ inputs
    distance = torch.cdist(inputs, sums / counts[:, None]).nan_to_num(torch.inf)
    own = counts[targets] - 1
    own_mean = (sums[targets] - inputs) / own[:, None]
    own_distance = (inputs - own_mean).norm(dim=1).nan_to_num(torch.inf)
    distance.scatter_(1, targets[:, None], own_distance[:, None])
    return float((distance.argmin(1) == targets).double().mean())


def _pooled(activation: Tensor) -> Tensor:
    if activation.ndim == 4:
        height, width = activation.shape[2:]
        activation = adaptive_avg_pool2d(activation, (min(4, height), min(4, width)))
    elif activation.ndim == 3:
        activation = activation.mean(dim=1)
    return activation.flatten(1)
