"""The plainest float64 code for norms, distances, calibration and noise: every path, sample and parameter in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def path_norm(layers: Sequence[nn.Linear], power: float = 2) -> float:
    """Sum over all paths through dense layers of the product of |weight|^power; biases start paths of their own."""
    total = 0.0
    for start in range(len(layers) + 1):  # at the inputs, or at the bias of layer `start` - 1
        rest = layers[start:]
        if start == 0:
            widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
        else:
            widths = [layer.out_features for layer in layers[start - 1 :]]
        for path in itertools.product(*map(range, widths)):
            product = 1.0 if start == 0 else abs(layers[start - 1].bias[path[0]].item()) ** power
            for layer, (inner, outer) in zip(rest, itertools.pairwise(path), strict=True):
                product *= abs(layer.weight[outer, inner].item()) ** power
            total += product
    return total


def affine(layers: Sequence[nn.Module], input_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset of a chain of affine layers, from its values on zero and on every basis vector."""
    chain = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        offset = chain(torch.zeros(1, *input_shape, dtype=torch.float64)).flatten().numpy()
        size = int(np.prod(input_shape))
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *input_shape)
        return (chain(basis).flatten(1).numpy() - offset).T, offset


def folded_kernels(model: nn.Module) -> list[np.ndarray]:
    """The weights of `networks.cnn_with_batch_norm`, convolutions times the scales of the batch norms behind them."""
    kernels = []
    for i in (0, 3, 6):
        norm = model[i + 1]
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        kernels.append((model[i].weight.detach() * scale[:, None, None, None]).numpy())
    return [*kernels, model[-1].weight.detach().numpy()]


def expected_calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int) -> float:
    """Bins of the largest probability, open below: share times distance of accuracy and confidence."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(len(targets)) if b / bins < confidence[i] <= (b + 1) / bins]
        if inside:
            gap = abs(np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside]))
            total += len(inside) / len(targets) * gap
    return float(total)


def cheapest_matching(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of the best of all matchings of two small point sets."""
    matchings = itertools.permutations(range(len(second)))
    return min(
        float(np.mean([np.linalg.norm(first[i] - second[j]) for i, j in enumerate(matching)])) for matching in matchings
    )


def davies_bouldin(features: np.ndarray, targets: np.ndarray) -> float:
    """Mean over classes of the worst ratio of summed spreads to the distance of means."""
    labels = sorted(set(targets.tolist()))
    means = {c: features[targets == c].mean(axis=0) for c in labels}
    spread = {c: np.mean([np.linalg.norm(x - means[c]) for x in features[targets == c]]) for c in labels}
    worst = [
        max((spread[a] + spread[b]) / np.linalg.norm(means[a] - means[b]) for b in labels if b != a) for a in labels
    ]
    return float(np.mean(worst))


def sample_gradients(model: nn.Module, images: Tensor, targets: Tensor) -> np.ndarray:
    """Gradient of every sample's cross-entropy by all parameters; shape (examples, parameters)."""
    rows = []
    for image, target in zip(images, targets, strict=True):
        loss = nn.functional.cross_entropy(model(image[None]), target[None])
        parts = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]).numpy())
    return np.stack(rows)


def gauss_newton_trace(model: nn.Module, images: Tensor) -> float:
    """Mean over samples of the trace of J^T (diag(p) - p p^T) J."""
    traces = []
    for image in images:
        logits = model(image[None])[0]
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()), retain_graph=True)])
            for value in logits
        ]
        jacobian, p = torch.stack(rows).numpy(), logits.softmax(0).detach().numpy()
        traces.append(np.trace(jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian))
    return float(np.mean(traces))


def scale_last_layer(layer: nn.Module, factor: float) -> None:
    """Logits times `factor`."""
    with torch.no_grad():
        layer.weight *= factor
        layer.bias *= factor


def rescale_batch_norm(layer: nn.Module, norm: nn.Module, factor: float) -> None:
    """Weights in front of a batch norm times `factor`, its statistics with them: the same function."""
    with torch.no_grad():
        layer.weight *= factor
        layer.bias *= factor
        norm.running_mean *= factor
        norm.running_var.copy_(factor**2 * (norm.running_var + norm.eps) - norm.eps)


def circular(weight: Tensor, groups: int, dilation: tuple[int, ...], inputs: Tensor) -> Tensor:
    """Circular convolution with stride one, one tap after another; inputs have shape (examples, channels, ...)."""
    axes = tuple(range(2, inputs.ndim))
    per_group = inputs.shape[1] // groups
    parts = []
    for group, kernels in enumerate(weight.chunk(groups)):
        own = inputs[:, group * per_group : (group + 1) * per_group]
        total = torch.zeros(len(inputs), len(kernels), *inputs.shape[2:], dtype=inputs.dtype)
        for tap in itertools.product(*map(range, weight.shape[2:])):
            shifts = tuple(-t * d for t, d in zip(tap, dilation, strict=True))
            total += torch.einsum("oi,ni...->no...", kernels[(..., *tap)], torch.roll(own, shifts, axes))
        parts.append(total)
    return torch.cat(parts, dim=1)
