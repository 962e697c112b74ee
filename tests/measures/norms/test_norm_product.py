from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gengap.measures.norms.norm_product import log_products
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import Measured, measured, probing, taken

SAMPLES = 500
COUNT = 12


def products_of(model: nn.Module, start: nn.Module | None, wrong: bool = False, **more: object) -> Measured:
    images = networks.images(COUNT).double()
    with torch.no_grad():
        logits = model.double().eval()(images)
    initial = None if start is None else copy_state(start)
    targets = logits.argmin(1) if wrong else logits.argmax(1)
    more = {"initial_state": initial, "train_samples": SAMPLES, **more}
    return measured("norm_product", model, images, targets, **more)


def group(matrix: np.ndarray, p: float, q: float) -> float:
    """The q-norm over rows of the p-norms of their entries."""
    rows = [sum(abs(entry) ** p for entry in row) ** (1 / p) for row in matrix]
    return max(rows) if q == math.inf else sum(row**q for row in rows) ** (1 / q)


def operator(matrix: np.ndarray, p: float) -> float:
    values = np.sqrt(np.abs(np.linalg.eigvalsh(matrix @ matrix.T)))
    return float(values.max() if p == math.inf else (values**p).sum() ** (1 / p))


def kernels(model: nn.Module) -> list[np.ndarray]:
    """Convolutions as they are folded, as matrices, and the dense layer."""
    return [kernel.reshape(len(kernel), -1) for kernel in measure_oracles.folded_kernels(model)]


def test_products_and_bounds_are_their_formulas() -> None:
    model, start = (networks.made(networks.cnn_with_batch_norm, seed).double() for seed in (0, 1))
    values, absent, *_ = products_of(model, start)
    now, then = kernels(model), kernels(start)
    ranked = model(networks.images(COUNT).double()).detach().sort(dim=1).values
    margin = np.quantile(ranked[:, -1] - ranked[:, -2], 0.1)
    products = {
        "1_infinity": math.prod(group(w, 1, math.inf) for w in now),
        "3_1.5": math.prod(group(w, 3, 1.5) for w in now),
        "operator_1.5": math.prod(operator(w, 1.5) for w in now),
        "trace": math.prod(operator(w, 1) for w in now),
    }
    frobenius = math.prod(np.linalg.norm(w) for w in now)
    spectral = math.prod(operator(w, math.inf) for w in now)
    n, d, depth = SAMPLES, 4, math.sqrt(4 + math.log(3 * 8 * 8))
    pairs = list(zip(now, then, strict=True))
    by_groups = sum((group(w - v, 2, 1) / operator(w, math.inf)) ** (2 / 3) for w, v in pairs) ** 1.5
    by_units = math.sqrt(sum(len(w) * (group(w - v, 2, 2) / operator(w, math.inf)) ** 2 for w, v in pairs))
    bounds = {
        "1_infinity": depth * products["1_infinity"] / margin / math.sqrt(n),
        "frobenius": depth * frobenius / margin / math.sqrt(n),
        "3_1.5": depth * products["3_1.5"] / margin / n ** (1 / 3),
        "spectral_2_1": math.log(n) * math.log(sum(w.size for w in now)) * spectral / margin * by_groups / math.sqrt(n),
        "spectral_frobenius": d * spectral / margin * by_units / math.sqrt(n),
    }
    expected = {f"norm_product/log_{name}": math.log(product) for name, product in products.items()}
    expected |= {f"norm_product/log_{name}_over_margin": math.log(p / margin) for name, p in products.items()}
    expected |= {f"norm_product/log_bound_{name}": math.log(bound) for name, bound in bounds.items()}
    assert absent == {}
    assert values == pytest.approx(expected, rel=1e-7)


def test_the_products_that_are_not_logged_are_halves_of_other_keys() -> None:
    model, images = networks.made(networks.cnn_with_batch_norm).double().eval(), networks.images(COUNT).double()
    logs = log_products([torch.from_numpy(kernel) for kernel in kernels(model)])
    with probing(model, images, model(images).argmax(1)) as probe:
        others = taken("norm", probe).values | taken("complexity", probe).values
    assert logs["frobenius"] == pytest.approx(others["norm/log_product_frobenius"] / 2, rel=1e-9)
    assert logs["spectral"] == pytest.approx(others["complexity/log_product_spectral_reshaped"] / 2, rel=1e-9)


PRODUCTS = {f"norm_product/log_{name}" for name in ("1_infinity", "3_1.5", "operator_1.5", "trace")}
OVER_MARGIN = {f"{key}_over_margin" for key in PRODUCTS}
PLAIN_BOUNDS = {f"norm_product/log_bound_{name}" for name in ("1_infinity", "frobenius", "3_1.5")}
NO_NUMBER = "the number of training samples is unknown or one"


@pytest.mark.parametrize(
    ("start", "more", "keys", "reason"),
    [
        (1, {"wrong": True}, PRODUCTS, "the 10 % quantile of the margin is not positive"),
        (1, {"train_samples": None}, PRODUCTS | OVER_MARGIN, NO_NUMBER),
        (1, {"train_samples": 1}, PRODUCTS | OVER_MARGIN, NO_NUMBER),
        (None, {}, PRODUCTS | OVER_MARGIN | PLAIN_BOUNDS, "the initial weights are unknown"),
        (0, {}, PRODUCTS | OVER_MARGIN | PLAIN_BOUNDS, "nothing has moved"),
    ],
)
def test_what_is_undefined_has_a_reason(start: int | None, more: dict[str, Any], keys: set[str], reason: str) -> None:
    initial = None if start is None else networks.made(networks.mlp, start).double()
    values, absent, *_ = products_of(networks.made(networks.mlp).double(), initial, **more)
    assert set(values) == keys
    assert set(absent.values()) == {reason}


def test_a_zero_layer_leaves_nothing() -> None:
    zero = networks.made(networks.mlp)
    nn.init.zeros_(zero[1].weight)
    values, absent, *_ = products_of(zero, None)
    assert (values, absent) == ({}, {"norm_product/log_*": "a weight layer is zero or not finite"})


def test_integer_inputs_leave_the_bounds_that_count_input_values_out() -> None:
    model, start = (networks.made(networks.Tokens, seed).double().eval() for seed in (0, 1))
    ids = networks.token_ids(COUNT)
    more = {"initial_state": copy_state(start), "train_samples": SAMPLES}
    values, absent, *_ = measured("norm_product", model, ids, model(ids).argmax(1), **more)
    assert absent == dict.fromkeys(PLAIN_BOUNDS, "the inputs are not floats")
    assert {key.split("bound_")[1] for key in values if "bound" in key} == {"spectral_2_1", "spectral_frobenius"}
