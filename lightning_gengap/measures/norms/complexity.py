"""The norm-based complexity measures of Jiang et al. 2020 that are not in `norm`, `distance` and `path_norm`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_gengap.measures.norms.layer_norms import VARIANTS, LayerNorms, layer_norms, log_margin
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.weight_layers import NotFoldableError


def complexity(probe: Probe) -> dict[str, float]:
    """Ratios and products of norms, over the margin, and with two other spectral norms of convolutions.

    W_i are the d folded weight tensors of linear, convolutional and embedding layers (see `norm`), W0_i the folded
    initial ones, |.|_F and |.|_2 their Frobenius and spectral norms, g the 10 % quantile of the output margin.

    Keys `complexity/<name>`: `parameters`, the number of weights (row 20); `inverse_margin`, 1 / g^2 (22);
    `log_product_frobenius_over_margin`, sum log |W_i|_F^2 - 2 log g (36); `log_sum_frobenius_over_margin`, log d + the
    same over d (38); the same of spectral norms (31, 34); `frobenius_over_spectral`, sum |W_i|_F^2 / |W_i|_2^2 (33);
    `log_spectral_origin`, row 31 + log of row 33 (30); `log_spectral_initial`, row 31 + log sum |W_i - W0_i|_F^2 /
    |W_i|_2^2 (29). Rows with a spectral norm take that of the operator that a convolution applies at its input size;
    keys that end in `_reshaped` or `_fft` take another in every place (see `LayerNorms`), to compare with published
    numbers, and exist for rows 32, 35 and 41 too (`log_product_spectral`, `log_sum_spectral`, `distance_spectral`).

    Values are the measures themselves, v. Published tables give sqrt(v / n) for plain rows and (v - log n) / 2 for
    log rows, n the training samples; in a log-linear predictor with `train_samples` these add nothing, so that they
    have no keys.

    Log rows are unbounded, others non-negative; `inverse_margin` is in 1 / logits^2, `distance_spectral` in squared
    weights, the others have no unit. All but rows 29 and 41 are invariant to ReLU rescaling; rows 30, 33 and those over
    the margin also to a scaling of the last layer; all, folded, to rescaling before batch norm. Absent with a note:
    all where `norm` is (layer norm, group norm, recurrence, attention, a batch norm elsewhere), those with g unless
    g > 0, those with W0 where it is unknown. Cost: a few forwards of one example, three of eight, and the singular
    values of every kernel and of its Fourier transform; the margins' forward is shared.
    Reference: Jiang et al. 2020 (arXiv 1912.02178), rows as in Dziugaite et al. 2020 (arXiv 2010.11924).
    """
    try:
        layers = probe.cached(layer_norms)
    except NotFoldableError as reason:
        probe.notes.append(f"complexity/* is absent: {reason}")
        return {}
    margin = log_margin(probe)
    values = {"complexity/parameters": float(sum(layer.weights for layer in layers))}
    product = math.fsum(math.log(layer.frobenius) for layer in layers)
    if margin is None:
        probe.notes.append(
            "complexity/inverse_margin, log_spectral_origin, log_spectral_initial and all with over_margin are "
            "absent: the 10 % quantile of the margin is not positive"
        )
    else:
        values["complexity/inverse_margin"] = math.exp(-2 * margin)
        values |= _over_margin("frobenius_over_margin", product - 2 * margin, len(layers))
    if layers[0].moved_frobenius is None:
        probe.notes.append("complexity/log_spectral_initial and distance_spectral are absent: no initial weights")
    for variant in VARIANTS:
        values |= spectral_rows(layers, variant, margin)
    return values


def spectral_rows(layers: Sequence[LayerNorms], variant: str, margin: float | None) -> dict[str, float]:
    """The rows with spectral norms of one variant; those of the operator that other measures give are left out."""
    suffix = "" if variant == "operator" else f"_{variant}"
    product = math.fsum(math.log(layer.spectral[variant]) for layer in layers)
    ratio = math.fsum(layer.frobenius / layer.spectral[variant] for layer in layers)
    values = {f"complexity/frobenius_over_spectral{suffix}": ratio}
    if suffix:
        values |= _over_margin(f"spectral{suffix}", product, len(layers))
    if margin is not None:
        over = product - 2 * margin
        values |= _over_margin(f"spectral_over_margin{suffix}", over, len(layers))
        values[f"complexity/log_spectral_origin{suffix}"] = over + math.log(ratio)
    moved = [layer.moved_frobenius / layer.spectral[variant] for layer in layers if layer.moved_frobenius is not None]
    if margin is not None and math.fsum(moved) > 0:
        values[f"complexity/log_spectral_initial{suffix}"] = product - 2 * margin + math.log(math.fsum(moved))
    changes = [layer.moved_spectral[variant] for layer in layers if layer.moved_spectral is not None]
    if suffix and changes:
        values[f"complexity/distance_spectral{suffix}"] = math.fsum(changes)
    return values


def _over_margin(name: str, product: float, count: int) -> dict[str, float]:
    """A log product, and the log of `count` times its geometric mean."""
    return {
        f"complexity/log_product_{name}": product,
        f"complexity/log_sum_{name}": math.log(count) + product / count,
    }
