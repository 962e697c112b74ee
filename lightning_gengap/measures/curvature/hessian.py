"""The Hessian itself in place of the Gauss-Newton matrix: indefinite, hence clamped, and flagged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.fallback import LADDER, Fallback, unsupported_where_it_fails
from lightning_gengap.derivatives.gauss_newton import SAMPLES
from lightning_gengap.derivatives.jacobian import REBUILT, Weights, differentiable_attention, gradients, leaves_of
from lightning_gengap.derivatives.memory import FREE, require_room
from lightning_gengap.derivatives.weight_decay import Ridge, ridge_of
from lightning_gengap.derivatives.weights import logits_at, trained
from lightning_gengap.errors import Undefined
from lightning_gengap.linalg.lanczos import Product, Tridiagonal, lanczos
from lightning_gengap.measures.curvature.keys import CHANGING, CURVATURE_UNIT, sizes
from lightning_gengap.measures.key import NOTHING, Key
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.graph import topological_order
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import CHUNK, subsample

MOST_PRODUCTS = 60
TOLERANCE = 0.02  # of the two rules' half-distance, relative
MOST_NUMBERS = 2**25  # in the basis, but for two vectors: 256 MiB of float64
VECTORS = 8  # of the parameters' length in float64 that Lanczos holds at once, where the basis has two
_STREAM = 2  # its random signs are other than the soft rank's and TIC's
_PREFIX = "curvature/hessian"

KEYS = {
    f"{_PREFIX}/soft_rank_clamped": Key(
        "directions", 0, math.inf, "the same sum of the Hessian's positive eigenvalues", CHANGING
    ),
    f"{_PREFIX}/spread": Key("none", 0, math.inf, "half the distance of the two rules for that sum, relative", NOTHING),
    f"{_PREFIX}/trace": Key(CURVATURE_UNIT, -math.inf, math.inf, "the Hessian's trace, by the same start", CHANGING),
    f"{_PREFIX}/top_eigenvalue": Key(
        CURVATURE_UNIT, -math.inf, math.inf, "the Hessian's largest eigenvalue, from below", CHANGING
    ),
    f"{_PREFIX}/negative_mass": Key(
        "fraction", 0, 1, "share of the Hessian's absolute eigenvalues that is negative", NOTHING
    ),
    f"{_PREFIX}/smallest": Key(
        CURVATURE_UNIT, -math.inf, math.inf, "the Hessian's smallest eigenvalue, from above", NOTHING
    ),
    f"{_PREFIX}/flagged": Key(
        "0 or 1", 0, 1, "1: that is below minus the ridge, no minimum of the penalised loss", NOTHING
    ),
    f"{_PREFIX}/products": Key("products", 0, math.inf, "products with the Hessian that were needed", NOTHING),
    **sizes(_PREFIX),
}


def hessian(probe: Probe) -> Values:
    """Shape of the Hessian H of the mean cross-entropy, by Lanczos from random signs in the space of the parameters.

    Keys under `curvature/hessian/`:

    * `soft_rank_clamped`: the sum of x / (x + l) over x = max(h, 0), h the eigenvalues of H. It is not the soft rank: H
      adds to the Gauss-Newton matrix what the residuals make of second derivatives of the logits. Without the clamp the
      sum would have a pole at h = -l. It is the geometric mean of two rules, Gauss and Gauss-Radau with a node at 0.
    * `spread`: half their distance over it.
    * `negative_mass`: the share of sum |h| that is negative.
    * `smallest` and `top_eigenvalue`: the smallest and the largest Ritz value, bounds from above and from below. An
      eigenvalue with a larger absolute value may be negative.
    * `flagged`: 1 where the smallest is below -l, so that not even the penalised loss has a minimum here.
    * `trace`: u^T H u of the start u, exact but for rounding. As an estimate of Tr H it is unbiased, with a standard
      deviation of at most sqrt(2) |H|_F.
    * `products`: the Lanczos steps; `samples` and `parameters`: what H is of.

    There is one start, whose forms spread about the traces by about sqrt(2 / soft rank). The rules bound nothing, for
    the function has a kink at 0: a spread above 0.1 says that the value is of the right order only, and a smaller one
    is no proof. Samples (at most 512 of the probe) and ridge l are the soft rank's; where the ridge varies (R = l D),
    H stands for D^-1/2 H D^-1/2.

    Cost: at most 60 products of about 14 forwards over those samples, and a basis of at most 2^25 numbers or two
    vectors. Older vectors are dropped above 559 thousand trained parameters: eigenvalues then come back as copies,
    which takes more products for the same spread.

    Raises:
        Undefined: there are more than 33.5 million trained parameters, or the model cannot be differentiated twice.

    References: Ghorbani et al. 2019 (arXiv 1901.10159), Shoham et al. 2025 (arXiv 2506.17809).
    """
    weights = trained(probe)
    size = sum(weight.numel() for weight in weights.values())
    if size > MOST_NUMBERS:
        raise Undefined(f"vectors of {size} trained parameters are too large, at most {MOST_NUMBERS} are taken")
    require_room(VECTORS * 8 * size, f"vectors of {size} trained parameters", FREE)
    ridge = probe.cached(ridge_of)
    run = _run(probe, weights, ridge)
    gauss, radau = run.gauss(), run.gauss_radau()
    values = [max(rule.value(partial(clamped, ridge=ridge.value)), 0.0) for rule in (gauss, radau)]
    middle = math.sqrt(values[0] * values[1])
    smallest, total = float(gauss.nodes[0]), gauss.value(torch.abs)
    found: dict[str, Value] = {
        f"{_PREFIX}/soft_rank_clamped": middle,
        f"{_PREFIX}/trace": run.form,
        f"{_PREFIX}/top_eigenvalue": float(gauss.nodes[-1]),
        f"{_PREFIX}/smallest": smallest,
        f"{_PREFIX}/flagged": float(smallest < -ridge.value),
        f"{_PREFIX}/products": float(len(run)),
        f"{_PREFIX}/samples": float(min(len(probe.targets), SAMPLES)),
        f"{_PREFIX}/parameters": float(size),
    }
    if middle > 0:
        found[f"{_PREFIX}/spread"] = 0.5 * abs(values[0] - values[1]) / middle
    if total > 0:
        found[f"{_PREFIX}/negative_mass"] = gauss.value(lambda nodes: -nodes.clamp(max=0)) / total
    return found


def clamped(nodes: Tensor, ridge: float) -> Tensor:
    """Shrinkage x / (x + ridge) of x = max(h, 0)."""
    positive = nodes.clamp(min=0)
    return positive / (positive + ridge)


def _run(probe: Probe, weights: Mapping[str, Tensor], ridge: Ridge) -> Tridiagonal:
    """Lanczos on the Hessian, with smaller chunks where memory is short."""
    products = Fallback(
        lambda at, step: hessian_product(at, weights, ridge.metric, step.chunk),
        f"{_PREFIX}/*",
        min(len(probe.targets), SAMPLES),
        tuple(step for step in LADDER if step.method == REBUILT),
    )

    def run(product: Product) -> Tridiagonal:
        with unsupported_where_it_fails(REBUILT):
            return spectrum_of(product, tuple(weights.values()), MOST_PRODUCTS, ridge.value, probe.seed + _STREAM)

    return products.use(probe, run)


def hessian_product(
    probe: Probe, weights: Mapping[str, Tensor], metric: Weights | None = None, chunk: int = CHUNK
) -> Product:
    """The map from v to H v on the curvature samples, flat float64 on the CPU; with a metric D, of D^-1/2 H D^-1/2.

    Graphs are rebuilt for every product, `chunk` samples at once.
    """
    contents, targets, counts = subsample(probe, SAMPLES, chunk)
    losses = [
        partial(_loss_at, probe, list(weights), content, labels)
        for content, labels in zip(contents, targets.split(counts), strict=True)
    ]
    at = tuple(weights.values())
    if metric is None:
        return partial(_product, losses, at, len(targets))
    parts = [by.to("cpu", torch.float64).expand(weight.shape).flatten() for by, weight in zip(metric, at, strict=True)]
    root = torch.cat(parts).rsqrt()
    return lambda vector: root * _product(losses, at, len(targets), root * vector)


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
        gauss = run.gauss()
        lower, upper = sorted(rule.value(partial(clamped, ridge=ridge)) for rule in (gauss, run.gauss_radau()))
        smallest = float(gauss.nodes[0])
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
    logits = logits_at(probe, names, content, len(labels), weights)
    return cross_entropy(logits, labels.to(logits.device), reduction="sum")


def _product(losses: Sequence[Callable[[Weights], Tensor]], weights: Weights, samples: int, vector: Tensor) -> Tensor:
    pieces = vector.split([weight.numel() for weight in weights])
    direction = tuple(piece.reshape(weight.shape).to(weight) for piece, weight in zip(pieces, weights, strict=True))
    total = torch.zeros_like(vector)
    with differentiable_attention():
        for loss_at in losses:
            leaves = leaves_of(weights)
            slopes = torch.autograd.grad(loss_at(leaves), leaves, create_graph=True, allow_unused=True)
            _refuse_cut_graph(slopes)
            along = [(s, d) for s, d in zip(slopes, direction, strict=True) if s is not None and s.requires_grad]
            if along:  # else the loss is linear in the weights
                found = gradients([slope for slope, _ in along], leaves, [part for _, part in along])
                total += torch.cat([part.detach().flatten() for part in found]).cpu().double()
    return total / samples


def _refuse_cut_graph(slopes: Sequence[Tensor | None]) -> None:
    """Refuse gradients through an operation that is marked as differentiable once.

    Autograd ends the graph there by a node that raises. No product runs it: what lies behind would count as zero.
    """
    roots = (slope.grad_fn for slope in slopes if slope is not None and slope.grad_fn is not None)
    if any(node.name() == "torch::autograd::Error" for node in topological_order(*roots)):
        raise NotImplementedError("an operation can be differentiated once only")
