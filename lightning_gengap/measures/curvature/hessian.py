"""The Hessian itself in place of the Gauss-Newton matrix: indefinite, hence clamped, and flagged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.fallback import fits
from lightning_gengap.derivatives.gauss_newton import SAMPLES, trained
from lightning_gengap.derivatives.jacobian import Weights, differentiable_attention, gradients, leaves_of
from lightning_gengap.derivatives.memory import room_for
from lightning_gengap.derivatives.weight_decay import Ridge, ridge_of
from lightning_gengap.errors import one_line, out_of_memory
from lightning_gengap.linalg.lanczos import Product, Tridiagonal, lanczos
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import CHUNK, subsample

MOST_PRODUCTS = 60
TOLERANCE = 0.02  # of the two rules' half-distance, relative
MOST_NUMBERS = 2**25  # in the basis, but for two vectors: 256 MiB of float64
VECTORS = 8  # of the parameters' length in float64 that Lanczos holds at once, where the basis has two
CHUNKS = (CHUNK, 32, 1)  # samples whose graph is held at once
_STREAM = 2  # its random signs are other than the soft rank's and TIC's


class Rule(NamedTuple):
    """A quadrature rule for forms of the random start: nodes in ascending order, of either sign, and weights."""

    nodes: Tensor
    weights: Tensor

    def value(self, function: Callable[[Tensor], Tensor]) -> float:
        """The form of `function`."""
        return float(self.weights @ function(self.nodes))


def hessian(probe: Probe) -> dict[str, float]:
    """Shape of the Hessian H of the mean cross-entropy, by Lanczos from random signs in the space of the parameters.

    Keys `curvature/hessian/soft_rank_clamped`, sum of x / (x + l) over x = max(h, 0), h the eigenvalues of H, in
    directions: not the soft rank, for H adds to the Gauss-Newton matrix what the residuals make of second derivatives
    of the logits, and without the clamp the sum has a pole at h = -l; `curvature/hessian/spread`, half the distance
    of the two rules of which that is the geometric mean, Gauss and Gauss-Radau with a node at 0, over it;
    `curvature/hessian/negative_mass`, the share of sum |h| that is negative; `curvature/hessian/smallest`, the
    smallest Ritz value, in nats per squared parameter, an upper bound of the smallest eigenvalue;
    `curvature/hessian/flagged`, 1 where it is below -l: no minimum even of the penalised loss;
    `curvature/hessian/top_eigenvalue`, the largest Ritz value, a lower bound of the largest eigenvalue (not of the
    largest by absolute value); `curvature/hessian/trace`, u^T H u of the start u, signed, exact but for rounding: as an
    estimate of Tr H unbiased, with a standard deviation of at most sqrt(2) |H|_F; `curvature/hessian/products`, the
    Lanczos steps; `curvature/hessian/samples` and `curvature/hessian/parameters`, what H is of.

    Approximations: one start, whose forms spread about the traces by about sqrt(2 / soft rank), and rules for
    functions with a kink at 0, which bound nothing: a spread below 0.1 is no proof, one above says that the value is
    of the right order only. Samples (at most 512 of the probe) and ridge l are the soft rank's; where the ridge varies
    (R = l D), H stands for D^-1/2 H D^-1/2. Not invariant to a scaling of the logits.

    Cost: at most 60 products of about 14 forwards over those samples, and a basis of at most 2^25 numbers or two
    vectors, of which older vectors are dropped above 559 thousand trained parameters: eigenvalues then come back as
    copies, which takes more products for the same spread. Absent, with a note, above 33.5 million and where the model
    cannot be differentiated twice. References: Ghorbani et al. 2019 (arXiv 1901.10159), Shoham et al. 2025 (arXiv
    2506.17809).
    """
    names, weights = trained(probe)
    size = sum(weight.numel() for weight in weights)
    if not size:
        probe.notes.append("curvature/hessian/* is absent: no parameter requires a gradient")
        return {}
    if size > MOST_NUMBERS or not room_for(VECTORS * 8 * size):
        probe.notes.append(f"curvature/hessian/* is absent: vectors of {size} trained parameters are too large")
        return {}
    ridge = probe.cached(ridge_of)
    run = _run(probe, names, weights, ridge)
    if run is None:
        return {}
    gauss, radau = rules(run)
    values = [max(rule.value(partial(clamped, ridge=ridge.value)), 0.0) for rule in (gauss, radau)]
    middle = math.sqrt(values[0] * values[1])
    smallest, total = float(gauss.nodes[0]), gauss.value(torch.abs)
    found = {
        "curvature/hessian/soft_rank_clamped": middle,
        "curvature/hessian/trace": run.form,
        "curvature/hessian/top_eigenvalue": float(gauss.nodes[-1]),
        "curvature/hessian/smallest": smallest,
        "curvature/hessian/flagged": float(smallest < -ridge.value),
        "curvature/hessian/products": float(len(run)),
        "curvature/hessian/samples": float(min(len(probe.targets), SAMPLES)),
        "curvature/hessian/parameters": float(size),
    }
    if middle > 0:
        found["curvature/hessian/spread"] = 0.5 * abs(values[0] - values[1]) / middle
    if total > 0:
        found["curvature/hessian/negative_mass"] = gauss.value(lambda nodes: -nodes.clamp(max=0)) / total
    return found


def clamped(nodes: Tensor, ridge: float) -> Tensor:
    """Shrinkage x / (x + ridge) of x = max(h, 0)."""
    positive = nodes.clamp(min=0)
    return positive / (positive + ridge)


def rules(run: Tridiagonal) -> tuple[Rule, Rule]:
    """Gauss's rule, and Gauss-Radau's with a node at 0: for most eigenvalues of a Hessian are next to it.

    Both are Gauss's where the Krylov space is invariant or Gauss has a node at 0 already. The added row may have a
    node outside of the spectrum, with next to no weight.
    """
    below = run.coupling[:-1]
    nodes, vectors = torch.linalg.eigh(run.diagonal.diag() + below.diag(1) + below.diag(-1))
    gauss = Rule(nodes, run.mass * vectors[0].square())
    corner = run.coupling[-1].square() * (vectors[-1].square() / nodes).sum()  # makes the extended matrix singular
    if float(run.coupling[-1]) == 0 or not bool(corner.isfinite()):
        return gauss, gauss
    extended = torch.cat([run.diagonal, corner[None]]).diag() + run.coupling.diag(1) + run.coupling.diag(-1)
    nodes, vectors = torch.linalg.eigh(extended)
    nodes[nodes.abs().argmin()] = 0  # but for round-off
    return gauss, Rule(nodes, run.mass * vectors[0].square())


def _run(probe: Probe, names: Sequence[str], weights: Weights, ridge: Ridge) -> Tridiagonal | None:
    """Lanczos on the Hessian, in smaller chunks where memory is short; None, with a note, where it fails."""
    cause = "a graph of one sample would not fit into memory"
    for chunk in CHUNKS:
        if not fits(probe, min(chunk, SAMPLES, len(probe.targets))):
            continue
        try:
            product = hessian_product(probe, names, weights, ridge.metric, chunk)
            return spectrum_of(product, weights, MOST_PRODUCTS, ridge.value, probe.seed + _STREAM)
        except Exception as error:
            cause = one_line(error)
            if not out_of_memory(error):
                break
    probe.notes.append(f"curvature/hessian/* is absent: no second derivative ({cause})")
    return None


def hessian_product(
    probe: Probe, names: Sequence[str], weights: Weights, metric: Weights | None = None, chunk: int = CHUNK
) -> Product:
    """The map from v to H v on the curvature samples, flat float64 on the CPU; graphs are rebuilt chunk by chunk."""
    contents, targets, sizes = subsample(probe, SAMPLES, chunk)
    losses = [
        partial(_loss_at, probe, names, content, labels)
        for content, labels in zip(contents, targets.split(sizes), strict=True)
    ]
    if metric is None:
        return partial(_product, losses, weights, len(targets))
    parts = [by.to("cpu", torch.float64).expand(at.shape).flatten() for by, at in zip(metric, weights, strict=True)]
    root = torch.cat(parts).rsqrt()
    return lambda vector: root * _product(losses, weights, len(targets), root * vector)


def spectrum_of(product: Product, weights: Weights, most: int, ridge: float, seed: int) -> Tridiagonal:
    """Lanczos from random signs, until the rules agree and the smallest node rests, twice, or for `most` products.

    Raises:
        ArithmeticError: the product is not finite or not symmetric: a wrong second derivative, or dropout that eval
            mode left on.
    """
    met: list[tuple[Tensor, Tensor]] = []
    agreed, least = [False], [math.inf]

    def watched(vector: Tensor) -> Tensor:
        image = product(vector)
        if not bool(image.isfinite().all()):
            raise ArithmeticError("a product with the Hessian is not finite")
        if len(met) < 2:
            met.append((vector, image))
        return image

    def enough(run: Tridiagonal) -> bool:
        pair = rules(run)
        lower, upper = sorted(rule.value(partial(clamped, ridge=ridge)) for rule in pair)
        smallest = float(pair[0].nodes[0])
        moved, least[0] = least[0] - smallest, smallest
        settled = moved <= TOLERANCE * max(ridge, abs(smallest))
        agreed.append(settled and upper - lower <= 2 * TOLERANCE * lower)  # once may be chance: Gauss's rule swings
        return agreed[-1] and agreed[-2]

    size = sum(weight.numel() for weight in weights)
    start = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    run = lanczos(watched, start, most, enough, kept=max(MOST_NUMBERS // size, 2))
    if len(met) == 2:
        (first, first_image), (second, second_image) = met
        there, back = float(first @ second_image), float(second @ first_image)
        reach = max(float(first_image.norm()), float(second_image.norm()))
        if not abs(there - back) <= 10 * torch.finfo(weights[0].dtype).eps ** 0.5 * reach:
            raise ArithmeticError(f"the products are not symmetric ({there:.6g} and {back:.6g})")
    return run


def _loss_at(probe: Probe, names: Sequence[str], content: Any, labels: Tensor, weights: Weights) -> Tensor:
    logits = probe.logits_on(content, len(labels), dict(zip(names, weights, strict=True)))
    return cross_entropy(logits, labels.to(logits.device), reduction="sum")


def _product(losses: Sequence[Callable[[Weights], Tensor]], weights: Weights, samples: int, vector: Tensor) -> Tensor:
    pieces = vector.split([weight.numel() for weight in weights])
    direction = tuple(piece.reshape(weight.shape).to(weight) for piece, weight in zip(pieces, weights, strict=True))
    total = torch.zeros_like(vector)
    with differentiable_attention():
        for loss_at in losses:
            leaves = leaves_of(weights)
            slopes = torch.autograd.grad(loss_at(leaves), leaves, create_graph=True, allow_unused=True)
            along = [(s, d) for s, d in zip(slopes, direction, strict=True) if s is not None and s.requires_grad]
            if along:  # else the loss is linear in the weights
                found = gradients([slope for slope, _ in along], leaves, [part for _, part in along])
                total += torch.cat([part.detach().flatten() for part in found]).cpu().double()
    return total / samples
