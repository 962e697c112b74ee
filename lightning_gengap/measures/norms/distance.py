"""How far the weights have moved from their initial values, and their own size, batch norm folded."""

from __future__ import annotations

from lightning_gengap.measures.norms.norm import spectral_norm
from lightning_gengap.network.folding_check import initial_weights, verified_weights
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import NotFoldableError


def distance(probe: Probe) -> dict[str, float]:
    """Distance from initialisation and parameter norm of the folded weights W_i of the layers, as in `norm`.

    Keys `distance/frobenius`, sum of |W_i - W0_i|_F^2; `distance/spectral`, sum of |W_i - W0_i|_2^2, a convolution's
    as the operator it applies at its input size; `distance/parameter_norm`, sum of |W_i|_F^2. Both models are folded
    before they are compared. Unit: squared weights, non-negative. Invariant to rescaling before batch norm only.
    The distances are absent, with one note, where the initial weights are unknown; all three where `norm` is. Cost: a
    few forwards of one example, and three of eight. Reference: rows 40 to 42 of Jiang et al. 2020 (arXiv 1912.02178).
    """
    try:
        weights, start = verified_weights(probe), initial_weights(probe)
    except NotFoldableError as reason:
        probe.notes.append(f"distance/* is absent: {reason}")
        return {}
    values = {"distance/parameter_norm": sum(float(weight.double().square().sum()) for weight in weights.values())}
    if start is None:
        probe.notes.append("distance/frobenius and distance/spectral are absent: the initial weights are unknown")
        return values
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    shapes = {met.module: met.input_shape for met in probe.layout.ran}
    frobenius = spectral = 0.0
    for name, weight in weights.items():
        moved = weight - start[name].to(weight)
        frobenius += float(moved.double().square().sum())
        spectral += spectral_norm(modules[name], moved, shapes.get(name, ()), f"distance/{name}", probe)[0] ** 2
    return values | {"distance/frobenius": frobenius, "distance/spectral": spectral}
