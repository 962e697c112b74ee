"""The exact diagonal of the Gauss-Newton matrix, and what replaces the soft rank and TIC when only it is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.fallback import undefined_where_it_fails
from lightning_gengap.derivatives.gauss_newton import SAMPLES
from lightning_gengap.derivatives.jacobian import differentiable_attention, gradients, leaves_of
from lightning_gengap.derivatives.per_sample import per_sample, require_room_for, zeros_for_sums
from lightning_gengap.derivatives.weight_decay import ridge_of
from lightning_gengap.derivatives.weights import require_gradients, trained
from lightning_gengap.errors import Undefined, one_line
from lightning_gengap.measures.curvature.keys import CHANGING, CURVATURE_UNIT, sizes
from lightning_gengap.measures.key import Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import subsample
from lightning_gengap.samples.nested import rows_of

MOST_CLASSES = 256  # each costs a backward per sample
Parts = dict[str, Tensor]
LogitsAt = Callable[[Any, Parts], Tensor]

KEYS = {
    "curvature/diagonal/soft_rank": Key(
        "directions", 0, math.inf, "approximation: the soft rank by the exact diagonal, from above", CHANGING
    ),
    "curvature/diagonal/tic": Key(
        "nats", 0, math.inf, "approximation: Takeuchi's criterion by the exact diagonal", CHANGING
    ),
    "curvature/diagonal/trace": Key(CURVATURE_UNIT, 0, math.inf, "trace of the Gauss-Newton matrix, exact", CHANGING),
    **sizes("curvature/diagonal"),
}


@dataclass(frozen=True)
class Diagonal:
    """Means over the samples, by parameter, in float64 where the device has it.

    Attributes:
        curvature: G_jj of the Gauss-Newton matrix G of the mean cross-entropy.
        noise: the squared entries of the samples' loss gradients.
        samples: how many they are.
    """

    curvature: Parts
    noise: Parts
    samples: int

    @property
    def trace(self) -> float:
        """Tr G, exact."""
        return sum(float(part.sum()) for part in self.curvature.values())

    def soft_rank(self, ridges: Parts) -> float:
        """Sum of G_jj / (G_jj + R_j)."""
        return sum(float((part / (part + ridges[name].to(part))).sum()) for name, part in self.curvature.items())

    def tic(self, ridges: Parts) -> float:
        """Sum of noise_j / (G_jj + R_j), over the samples."""
        terms = ((self.noise[name] / (part + ridges[name].to(part))).sum() for name, part in self.curvature.items())
        return sum(map(float, terms)) / self.samples


def diagonal_curvature(probe: Probe) -> Values:
    """Stand-ins for the soft rank and TIC by the diagonal of the Gauss-Newton matrix G alone: approximations.

    The diagonal is exact over the labels, not sampled. Samples (at most 512 of the probe) and ridge R are the soft
    rank's. Keys under `curvature/diagonal/`:

    * `soft_rank`: sum_j G_jj / (G_jj + R_j), at most the number of parameters. It is never below the soft rank itself,
      nor below that of G's diagonal blocks, and up to nine times above it at confident networks.
    * `tic`: (1/n) sum_j mean_i g_ij^2 / (G_jj + R_j).
    * `trace`: Tr G. It is exact, where `curvature/trace` and `gradient_noise/curvature` are estimates.
    * `samples`, n, and `parameters`, how many are trained.

    Cost: two forwards and classes + 1 backwards of every sample, some 50 forwards' worth over those samples at ten
    classes. Where `vmap` fails, samples are taken one at a time, and a remark says so.

    Raises:
        Undefined: per-sample derivatives fail, no gradient reaches a parameter, there are more than 256 classes, or
            memory does not suffice.

    References: Becker and LeCun 1988; Thomas et al. 2020 (arXiv 1906.07774).
    """
    weights = trained(probe)
    found = diagonal_of(probe, list(weights), "curvature/diagonal/*")
    ridges = ridges_of(probe)
    return {
        "curvature/diagonal/soft_rank": found.soft_rank(ridges),
        "curvature/diagonal/tic": found.tic(ridges),
        "curvature/diagonal/trace": found.trace,
        "curvature/diagonal/samples": float(found.samples),
        "curvature/diagonal/parameters": float(sum(weight.numel() for weight in weights.values())),
    }


def ridges_of(probe: Probe) -> Parts:
    """The soft rank's ridge by trained parameter, 0-d or of its shape."""
    names, ridge = list(trained(probe)), probe.cached(ridge_of)
    metric = ridge.metric if ridge.metric is not None else (torch.ones((), dtype=torch.float64),) * len(names)
    return {name: part * ridge.value for name, part in zip(names, metric, strict=True)}


def refuse_many_classes(classes: int) -> None:
    """Raise `Undefined` where a backward for every class would take too long."""
    if classes > MOST_CLASSES:
        raise Undefined(f"it takes a backward for each of {classes} classes")


def diagonal_of(probe: Probe, names: Sequence[str], keys: str) -> Diagonal:
    """The diagonal for the named parameters, on the curvature samples; `keys` says what it is for, in a remark.

    G_jj = (1/n) sum_i sum_c p_ic (J_i^T (e_c - p_i))_j^2, for sqrt(p_c) (e_c - p) is column c of the factor B of
    diag(p) - p p^T. The column of the label, without the root, is the loss gradient.

    Raises:
        Undefined: see `diagonal_curvature`.
    """
    require_gradients(probe)
    held = {name: parameter.detach() for name, parameter in probe.model.named_parameters()}
    weights = {name: held.pop(name) for name in names}
    contents, targets, counts = subsample(probe, SAMPLES)
    with undefined_where_it_fails(), torch.no_grad():
        classes = probe.logits_on(contents[0], counts[0]).shape[1]
    refuse_many_classes(classes)
    require_room_for(weights, _numbers(weights), max(counts), sums=2)
    labels = one_hot(targets, classes).split(counts)
    failures = []
    for name, method in {"samples together": _together, "one sample at a time": _one_by_one}.items():
        try:
            curvature, noise = zeros_for_sums(weights), zeros_for_sums(weights)
            with differentiable_attention():
                for content, label in zip(contents, labels, strict=True):
                    method(partial(_logits_at, probe, held), weights, content, label, (curvature, noise))
        except Exception as error:
            failures.append(f"{name}: {one_line(error)}")
            continue
        if failures:
            probe.notes.append(f"{keys} takes longer by {name}, a faster way is absent: {'; '.join(failures)}")
        for part in (*curvature.values(), *noise.values()):
            part /= len(targets)
        return Diagonal(curvature, noise, len(targets))
    raise Undefined(f"per-sample derivatives fail ({'; '.join(failures)})")


def _squares(logits: Tensor, label: Tensor, pull: Callable[[Tensor], Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Per parameter, one sample's squared columns summed with the weights p (curvature), and the label's (noise).

    Time goes into passes over as many numbers as there are weights. Hence columns are scaled before they are squared,
    squared as they are added, and the label's takes a backward of its own. `label` is one-hot; `pull` multiplies by
    J^T.
    """
    probabilities = logits.detach().softmax(0)
    curvature: list[Tensor] = []
    for axis, p in zip(torch.eye(len(label)).to(probabilities), probabilities, strict=True):
        column = pull(p.sqrt() * (axis - probabilities))
        if curvature:
            curvature = [total.addcmul_(part, part) for total, part in zip(curvature, column, strict=True)]
        else:
            curvature = [part.square() for part in column]
    noise = [part.square() for part in pull(label - probabilities)]
    return list(zip(curvature, noise, strict=True))


def _logits_at(probe: Probe, held: Parts, content: Any, weights: Parts) -> Tensor:
    """The logits of one sample; what is held does not require gradients, or graphs would pile up."""
    return probe.logits_on(content, 1, held | weights)


def _together(logits_at: LogitsAt, weights: Parts, content: Any, labels: Tensor, sums: tuple[Parts, Parts]) -> None:
    """Add a batch content's squares, many samples in one pass."""

    def squares_of(alone: Any, label: Tensor) -> list[tuple[Tensor, Tensor]]:
        logits, pull = vjp(lambda parts: logits_at(alone, parts)[0], weights)[:2]
        return _squares(logits, label, lambda cotangent: list(pull(cotangent)[0].values()))

    own = labels.to(next(iter(weights.values())).device)
    for found in per_sample(squares_of, content, len(labels), _numbers(weights), (own,)):
        _add(sums, weights, [(curvature.sum(0), noise.sum(0)) for curvature, noise in found])


def _numbers(weights: Parts) -> int:
    """That one sample's result has, on the way to it too."""
    return 4 * sum(weight.numel() for weight in weights.values())


def _one_by_one(logits_at: LogitsAt, weights: Parts, content: Any, labels: Tensor, sums: tuple[Parts, Parts]) -> None:
    """The same by one graph per sample: slower, but for whatever has a backward."""
    for sample, label in enumerate(labels):
        alone = rows_of(content, torch.tensor([sample]), len(labels))
        leaves = leaves_of(tuple(weights.values()))
        logits = logits_at(alone, dict(zip(weights, leaves, strict=True)))

        def pull(cotangent: Tensor, logits: Tensor = logits, leaves: tuple[Tensor, ...] = leaves) -> Sequence[Tensor]:
            return gradients(logits, leaves, cotangent[None], retain_graph=True)

        _add(sums, weights, _squares(logits[0], label.to(logits.device), pull))


def _add(sums: tuple[Parts, Parts], weights: Parts, found: Sequence[tuple[Tensor, Tensor]]) -> None:
    for name, (curvature, noise) in zip(weights, found, strict=True):
        sums[0][name] += curvature.to(sums[0][name].dtype)
        sums[1][name] += noise.to(sums[1][name].dtype)
