"""The exact diagonal of the Gauss-Newton matrix, and what replaces the soft rank and TIC when only it is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor
from torch.func import vjp, vmap
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.gauss_newton import SAMPLES, trained, without_gradients
from lightning_gengap.derivatives.jacobian import differentiable_attention, gradients, leaves_of
from lightning_gengap.derivatives.weight_decay import ridge_of
from lightning_gengap.errors import one_line
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import subsample
from lightning_gengap.samples.nested import exchange, rows_of

MOST_CLASSES = 256  # each costs a backward per sample
MOST_NUMBERS = 2**26  # in the gradients of the samples that go together
Parts = dict[str, Tensor]
LogitsAt = Callable[[Any, Parts], Tensor]


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


def diagonal_curvature(probe: Probe) -> dict[str, float]:
    """Stand-ins for the soft rank and TIC by the diagonal of the Gauss-Newton matrix G alone: approximations.

    Keys `curvature/diagonal/soft_rank`, sum_j G_jj / (G_jj + R_j) in directions, never below the soft rank itself (nor
    below that of G's diagonal blocks) and up to nine times above it at confident networks;
    `curvature/diagonal/tic`, (1/n) sum_j mean_i g_ij^2 / (G_jj + R_j) in nats; `curvature/diagonal/trace`, Tr G in
    nats per squared parameter, exact where `curvature/trace` and `gradient_noise/curvature` are estimates;
    `curvature/diagonal/samples`, n, and `curvature/diagonal/parameters`, how many are trained. The diagonal is exact
    over the labels, not sampled, on the samples of the soft rank (at most 512 of the probe), with its ridge R. All
    non-negative; the first at most the number of parameters; the first three not invariant to a scaling of the logits
    or to ReLU rescaling.

    Cost: two forwards and classes + 1 backwards of every sample, some 50 forwards' worth over those samples at ten
    classes; one sample at a time, with a note, where `vmap` fails. Absent, with a note, where per-sample derivatives
    fail, no gradient reaches a parameter or there are more than 256 classes. References: Becker and LeCun 1988; Thomas
    et al. 2020 (arXiv 1906.07774).
    """
    names, weights = trained(probe)
    found = diagonal_of(probe, names, "curvature/diagonal/*")
    if found is None:
        return {}
    ridges = ridges_of(probe)
    return {
        "curvature/diagonal/soft_rank": found.soft_rank(ridges),
        "curvature/diagonal/tic": found.tic(ridges),
        "curvature/diagonal/trace": found.trace,
        "curvature/diagonal/samples": float(found.samples),
        "curvature/diagonal/parameters": float(sum(weight.numel() for weight in weights)),
    }


def ridges_of(probe: Probe) -> Parts:
    """The soft rank's ridge by trained parameter, 0-d or of its shape."""
    names, _ = trained(probe)
    ridge = probe.cached(ridge_of)
    metric = ridge.metric if ridge.metric is not None else (torch.ones((), dtype=torch.float64),) * len(names)
    return {name: part * ridge.value for name, part in zip(names, metric, strict=True)}


def diagonal_of(probe: Probe, names: Sequence[str], keys: str) -> Diagonal | None:
    """The diagonal for the parameters `names`, on the curvature samples; None, with a note about `keys`, if it fails.

    G_jj = (1/n) sum_i sum_c p_ic (J_i^T (e_c - p_i))_j^2, for sqrt(p_c) (e_c - p) is column c of the factor B of
    diag(p) - p p^T; the column of the label, without the root, is the loss gradient.
    """
    held = {name: parameter.detach() for name, parameter in probe.model.named_parameters()}
    weights = {name: held.pop(name) for name in names}
    if not weights:
        probe.notes.append(f"{keys} is absent: no parameter requires a gradient")
        return None
    if without_gradients(probe, keys):
        return None
    contents, targets, sizes = subsample(probe, SAMPLES)
    try:
        with torch.no_grad():
            classes = probe.logits_on(contents[0], sizes[0]).shape[1]
        if classes > MOST_CLASSES:
            probe.notes.append(f"{keys} is absent: it takes a backward for each of {classes} classes")
            return None
    except Exception as error:
        probe.notes.append(f"{keys} is absent: {one_line(error)}")
        return None
    labels = one_hot(targets, classes)
    failures = []
    for name, way in {"samples together": _together, "one sample at a time": _one_by_one}.items():
        try:
            with differentiable_attention():
                sums = _zeros(weights)
                for content, size, label in zip(contents, sizes, labels.split(sizes), strict=True):
                    way(partial(_logits_at, probe, held), weights, content, size, label, sums)
        except Exception as error:
            failures.append(f"{name}: {one_line(error)}")
            continue
        if failures:
            probe.notes.append(f"{keys} takes longer by {name}, a faster way is absent: {'; '.join(failures)}")
        means = [{name: total / len(targets) for name, total in part.items()} for part in sums]
        return Diagonal(means[0], means[1], len(targets))
    probe.notes.append(f"{keys} is absent: per-sample derivatives fail ({'; '.join(failures)})")
    return None


def _zeros(weights: Parts) -> tuple[Parts, Parts]:
    curvature, noise = (
        {
            name: torch.zeros_like(weight, dtype=torch.float32 if weight.device.type == "mps" else torch.float64)
            for name, weight in weights.items()
        }
        for _ in range(2)
    )
    return curvature, noise


def _squares(logits: Tensor, label: Tensor, pull: Callable[[Tensor], Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Per parameter, one sample's squared columns summed with the weights p (curvature), and the label's (noise).

    Time goes into passes over numbers as many as there are weights, hence scaled columns, squared as they are added,
    and a backward more for the label's.

    Args:
        logits: shape (classes,).
        label: one-hot, shape (classes,).
        pull: the product with J^T.
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


def _together(
    logits_at: LogitsAt, weights: Parts, content: Any, examples: int, labels: Tensor, sums: tuple[Parts, Parts]
) -> None:
    """Add a batch content's squares, as many samples in one pass as memory allows."""
    pieces: list[Tensor] = []
    apply_to_collection(content, Tensor, pieces.append)
    pieces = [piece for piece in pieces if piece.ndim > 0 and len(piece) == examples]

    def squares_of(at: Parts, label: Tensor, rows: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        alone = content
        for piece, row in zip(pieces, rows, strict=True):
            alone = exchange(alone, piece, row[None])
        logits, pull = vjp(lambda parts: logits_at(alone, parts)[0], at)[:2]
        return _squares(logits, label, lambda cotangent: list(pull(cotangent)[0].values()))

    mapped = vmap(squares_of, in_dims=(None, 0, 0), randomness="error")
    device = next(iter(weights.values())).device
    size = max(1, MOST_NUMBERS // (4 * sum(weight.numel() for weight in weights.values())))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # layers without a batching rule
        for start in range(0, examples, size):
            rows = slice(start, start + size)
            found = mapped(weights, labels[rows].to(device), [piece[rows] for piece in pieces])
            _add(sums, weights, [(curvature.sum(0), noise.sum(0)) for curvature, noise in found])


def _one_by_one(
    logits_at: LogitsAt, weights: Parts, content: Any, examples: int, labels: Tensor, sums: tuple[Parts, Parts]
) -> None:
    """The same by one graph per sample: slower, but for whatever has a backward."""
    for sample in range(examples):
        alone = rows_of(content, torch.tensor([sample]), examples)
        leaves = leaves_of(tuple(weights.values()))
        logits = logits_at(alone, dict(zip(weights, leaves, strict=True)))

        def pull(cotangent: Tensor, logits: Tensor = logits, leaves: tuple[Tensor, ...] = leaves) -> Sequence[Tensor]:
            return gradients(logits, leaves, cotangent[None], retain_graph=True)

        _add(sums, weights, _squares(logits[0], labels[sample].to(logits.device), pull))


def _add(sums: tuple[Parts, Parts], weights: Parts, found: Sequence[tuple[Tensor, Tensor]]) -> None:
    for name, (curvature, noise) in zip(weights, found, strict=True):
        sums[0][name] += curvature.to(sums[0][name].dtype)
        sums[1][name] += noise.to(sums[1][name].dtype)
