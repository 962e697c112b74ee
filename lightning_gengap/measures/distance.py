"""How far the weights have moved from their initial values, and their own size, batch norm folded."""

from __future__ import annotations

from lightning_gengap.measures.folding import folded_weights_of, read_at
from lightning_gengap.measures.norm import NotFoldableError, spectral_norm
from lightning_gengap.probe import Probe
from lightning_gengap.trace import clean_name


def distance(probe: Probe) -> dict[str, float]:
    """Distance from initialisation and parameter norm of the folded weights W_i of linear and convolutional layers.

    Keys `distance/frobenius`, sum of |W_i - W0_i|_F^2; `distance/spectral`, sum of |W_i - W0_i|_2^2, a convolution's
    as the operator it applies at its input size; `distance/parameter_norm`, sum of |W_i|_F^2. Both models are folded
    before they are compared. Unit: squared weights, non-negative. Invariant to rescaling before batch norm only.
    The distances are absent, with one note, where the initial weights are unknown; all three where a layer is neither
    linear, convolutional nor a batch norm right behind one. Cost: a few forwards of one example. Reference: rows 40
    to 42 of Jiang et al. 2020 (arXiv 1912.02178).
    """
    ran, initial = probe.layout.ran, probe.initial_state
    try:
        weights = folded_weights_of(probe.model, ran)
        start = {} if initial is None else read_at(probe.model, initial, lambda model: folded_weights_of(model, ran))
    except NotFoldableError as reason:
        probe.notes.append(f"distance/* is absent: {reason}")
        return {}
    values = {"distance/parameter_norm": sum(float(weight.double().square().sum()) for weight in weights.values())}
    if initial is None:
        probe.notes.append("distance/frobenius and distance/spectral are absent: the initial weights are unknown")
        return values
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    shapes = {met.module: met.input_shape for met in ran}
    frobenius = spectral = 0.0
    for name, weight in weights.items():
        moved = weight - start[name].to(weight)
        frobenius += float(moved.double().square().sum())
        spectral += spectral_norm(modules[name], moved, shapes[name], f"distance/{name}", probe)[0] ** 2
    return values | {"distance/frobenius": frobenius, "distance/spectral": spectral}
