"""How hard the training set is for the network's tangent kernel at its initial weights: leave-one-out ridge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import pad

from lightning_gengap.derivatives.per_sample import defined_where_it_succeeds, per_sample, require_room_for
from lightning_gengap.derivatives.weights import refuse_complex
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.difficulty.compared_samples import compared
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    accuracy_key,
    leave_one_out_accuracy,
    left_out_scores,
    require_comparison,
)
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe, State

WIDTH = 4096
ROUNDING = 1e-12  # of squared float32 gradients

KEYS = {"kernel_difficulty/ridge_accuracy": accuracy_key("ridge accuracy with the untrained network's tangent kernel")}


def kernel_difficulty(probe: Probe) -> Values:
    """Leave-one-out accuracy of ridge with the empirical tangent kernel of the untrained network.

    The kernel of two samples is sum_k J_k(x) . J_k(x'), where J_k is the gradient of logit k by all trainable
    parameters at the initial weights, in eval mode. It is centred, and its diagonal is one on average. One random sign
    combination of the logits estimates the sum over them; adding up the gradient's entries with random signs in 4,096
    sums estimates the product. Both estimates are unbiased, seeded, and the same for all samples.

    Key `kernel_difficulty/ridge_accuracy`, higher for easier data: the classifier of `difficulty/ridge_accuracy` with
    this kernel. Of more than 4,096 samples, 4,096 are compared.

    Taken once per training. Cost: a forward and a full backward per sample, each gradient written out: on a CPU 10 to
    30 forwards' worth for convolutional networks, 100 for dense ones; and an eigendecomposition of an
    (examples x examples) matrix. References: Jacot et al. 2018 (arXiv 1806.07572); the sum over logits: Mohamadi et
    al. 2023 (arXiv 2206.12543).

    Raises:
        Undefined: there are no initial weights, fewer than five samples per class that is present, no gradients that
            vary, too little memory, or per-sample derivatives fail.
    """
    if probe.initial_state is None:
        raise Undefined("there are no initial weights")
    samples = compared(probe)
    require_comparison(len(samples.rows), WIDTH)
    with defined_where_it_succeeds():
        features = samples.of(sketched_gradients(probe, probe.initial_state))
    centred = features - features.mean(dim=0)
    gram = centred @ centred.T
    scale = gram.diagonal().mean()
    if not scale > ROUNDING * features.square().sum(dim=1).mean():
        raise Undefined("the gradients do not vary")
    scores = left_out_scores(gram / scale, samples.targets)
    return {"kernel_difficulty/ridge_accuracy": leave_one_out_accuracy(scores, samples.targets)}


def sketched_gradients(probe: Probe, state: State) -> Tensor:
    """Random projections of every sample's gradient; shape (examples, 4096), float64, on the CPU.

    Products of rows are unbiased estimates of the kernel: entry i of a gradient is added to sum i mod 4096 with a
    random sign, so that the cross terms vanish in the mean.
    """
    names = [name for name, value in probe.model.named_parameters() if value.requires_grad and name in state]
    if not names:
        raise Undefined("no parameter is trainable")
    device = next(probe.model.parameters()).device
    weights = {name: state[name].detach().to(device) for name in names}
    refuse_complex(weights)
    generator = torch.Generator().manual_seed(probe.seed)
    signs = {name: random_signs(weight.numel(), generator).to(weight) for name, weight in weights.items()}
    with torch.no_grad():
        _, logits = next(probe.forwards(state))
    combination = random_signs(logits.shape[1], generator).to(logits)

    def gradients(sample: Any) -> dict[str, Tensor]:
        """Of one sample's combined logits, by the weights."""
        return grad(lambda moved: combination @ probe.logits_on(sample, 1, {**state, **moved})[0])(weights)

    numbers = sum(weight.numel() for weight in weights.values())
    require_room_for(weights, numbers, max(probe.sizes), sums=1)
    return torch.cat(
        [
            sketch(found, signs)
            for batch in probe.batches
            for found in per_sample(gradients, batch.content, len(batch.targets), numbers)
        ]
    )


def sketch(gradients: dict[str, Tensor], signs: dict[str, Tensor]) -> Tensor:
    """Signed entries added up in `WIDTH` sums; shape (examples, WIDTH), float64, on the CPU."""
    total = torch.zeros(len(next(iter(gradients.values()))), WIDTH, dtype=torch.float64)
    for name, gradient in gradients.items():
        signed = gradient.flatten(1) * signs[name]
        padded = pad(signed, (0, -signed.shape[1] % WIDTH))
        total += padded.unflatten(1, (-1, WIDTH)).sum(dim=1).cpu().double()
    return total


def random_signs(count: int, generator: torch.Generator) -> Tensor:
    """Values +1 and -1, float32."""
    return torch.randint(0, 2, (count,), generator=generator).float() * 2 - 1
