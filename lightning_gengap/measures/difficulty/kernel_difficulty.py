"""How hard the training set is for the network's tangent kernel at its initial weights: leave-one-out ridge."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import pad

from lightning_gengap.derivatives.weights import refuse_complex
from lightning_gengap.measures.difficulty.difficulty import enough_samples, leave_one_out_accuracy, left_out_scores
from lightning_gengap.measures.sharpness.gradient_noise import MOST_NUMBERS, Parameters, chunks, one_sample, pieces_of
from lightning_gengap.network.probe import Probe, State
from lightning_gengap.samples.batches import ProbeBatch

WIDTH = 4096
ROUNDING = 1e-12  # of squared float32 gradients


def kernel_difficulty(probe: Probe) -> dict[str, float]:
    """Leave-one-out accuracy of ridge with the empirical tangent kernel of the untrained network.

    The kernel of two samples is sum_k J_k(x) . J_k(x'), J_k the gradient of logit k by all trainable parameters at the
    initial weights, eval mode; centred, with a diagonal of one on average. The sum over logits is estimated by one
    random sign combination of them, the product by adding up the gradient's entries with random signs in 4,096 sums:
    both unbiased, seeded, the same for all samples. Key `kernel_difficulty/ridge_accuracy`, a fraction, higher is
    easier: the classifier of `difficulty/ridge_accuracy` with this kernel. Invariant to a scaling of the logits.
    Absent, with a note, without initial weights, with fewer than five samples per class present, and where per-sample
    derivatives fail. Measured once per training. Cost: a forward and a full backward per sample, each gradient written
    out: on a CPU 10 to 30 forwards' worth for convolutional networks, 100 for dense ones; and an eigendecomposition of
    an (examples x examples) matrix. References: Jacot et al. 2018 (arXiv 1806.07572); the sum over logits: Mohamadi et
    al. 2023 (arXiv 2206.12543).
    """
    if probe.initial_state is None:
        probe.notes.append("kernel_difficulty/* is absent: there are no initial weights")
        return {}
    if not enough_samples(probe, "kernel_difficulty/*"):
        return {}
    try:
        features = sketched_gradients(probe, probe.initial_state)
    except (RuntimeError, NotImplementedError) as reason:
        first_line = str(reason).partition("\n")[0]
        probe.notes.append(f"kernel_difficulty/* is absent: per-sample derivatives fail ({first_line})")
        return {}
    centred = features - features.mean(dim=0)
    gram = centred @ centred.T
    scale = gram.diagonal().mean()
    if not scale > ROUNDING * features.square().sum(dim=1).mean():
        probe.notes.append("kernel_difficulty/* is absent: the gradients do not vary")
        return {}
    return {
        "kernel_difficulty/ridge_accuracy": leave_one_out_accuracy(
            left_out_scores(gram / scale, probe.targets), probe.targets
        )
    }


def sketched_gradients(probe: Probe, state: State) -> Tensor:
    """Random projections of every sample's gradient; shape (examples, 4096), float64, on the CPU.

    Products of rows are unbiased estimates of the kernel: with signs s, entry i of a gradient is added to sum i mod
    4096 as s_i g_i, and the cross terms vanish in the mean.
    """
    names = [name for name, value in probe.model.named_parameters() if value.requires_grad and name in state]
    if not names:
        raise RuntimeError("no parameter is trainable")
    device = next(probe.model.parameters()).device
    weights = {name: state[name].detach().to(device) for name in names}
    refuse_complex(weights)
    rest = {name: value for name, value in state.items() if name not in weights}
    generator = torch.Generator().manual_seed(probe.seed)
    signs = {name: random_signs(weight.numel(), generator).to(weight) for name, weight in weights.items()}
    size = max(1, MOST_NUMBERS // sum(weight.numel() for weight in weights.values()))
    with torch.no_grad():
        first = probe.batches[0]
        logits = probe.logits_on(first.content, len(first.targets), state)
    combination = random_signs(logits.shape[1], generator).to(logits)
    rows = []
    for batch in probe.batches:
        pieces = pieces_of(batch)
        mapped = vmap(_gradient(probe, batch, pieces, rest, combination), in_dims=(None, 0), randomness="error")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # layers without a batching rule
            for part in chunks(len(batch.targets), size):
                rows.append(sketch(mapped(weights, [piece[part] for piece in pieces]), signs))
    return torch.cat(rows)


def _gradient(
    probe: Probe, batch: ProbeBatch, pieces: list[Tensor], rest: State, combination: Tensor
) -> Callable[[Parameters, list[Tensor]], Parameters]:
    """The gradient of one sample's combined logits by the weights, given its rows."""

    def combined(weights: Parameters, rows: list[Tensor]) -> Tensor:
        logits = probe.logits_on(one_sample(batch, pieces, rows), 1, {**rest, **weights})
        return combination @ logits[0]

    return grad(combined)


def sketch(gradients: Parameters, signs: Parameters) -> Tensor:
    """Signed entries added up in `WIDTH` sums; shape (examples, WIDTH), float64, on the CPU."""
    total: Tensor | None = None
    for name, gradient in gradients.items():
        signed = gradient.flatten(1) * signs[name]
        padded = pad(signed, (0, -signed.shape[1] % WIDTH))
        part = padded.unflatten(1, (-1, WIDTH)).sum(dim=1).cpu().double()
        total = part if total is None else total + part
    if total is None:
        raise RuntimeError("no parameter is trainable")
    return total


def random_signs(count: int, generator: torch.Generator) -> Tensor:
    """Values +1 and -1, float32."""
    return torch.randint(0, 2, (count,), generator=generator).float() * 2 - 1
