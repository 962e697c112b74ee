from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.norms.layer_norms import LayerNorms, layer_norms
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.probes import probing, taken

COUNT = 12


def rows_of(
    model: nn.Module, start: nn.Module | None = None, pick: Callable[[Tensor], Tensor] = lambda logits: logits.argmax(1)
) -> tuple[dict[str, float], tuple[LayerNorms, ...], dict[str, str]]:
    images = networks.images(COUNT).double()
    initial = None if start is None else copy_state(start)
    with torch.no_grad():
        targets = pick(model.double().eval()(images))
    with probing(model, images, targets, initial_state=initial) as probe:
        values, absent, *_ = taken("complexity", probe)
        return values, probe.cached(layer_norms), absent


def table(layers: tuple[LayerNorms, ...], kind: str, margin: float) -> Mapping[str, float]:
    """The rows as they stand in the papers, from products and sums that are taken one after another."""
    frobenius = [layer.frobenius for layer in layers]
    spectral = [layer.spectral[kind] for layer in layers]
    changes = [layer.change for layer in layers if layer.change is not None]
    d = len(layers)
    product, of_frobenius = math.prod(spectral), math.prod(frobenius)
    end = "" if kind == "operator" else f"_{kind}"
    rows = {
        f"frobenius_over_spectral{end}": sum(f / s for f, s in zip(frobenius, spectral, strict=True)),
        f"log_product_spectral_over_margin{end}": math.log(product / margin**2),
        f"log_sum_spectral_over_margin{end}": math.log(d * (product / margin**2) ** (1 / d)),
        f"log_spectral_origin{end}": math.log(
            product / margin**2 * sum(f / s for f, s in zip(frobenius, spectral, strict=True))
        ),
        f"log_spectral_initial{end}": math.log(
            product / margin**2 * sum(m.frobenius / s for m, s in zip(changes, spectral, strict=True))
        ),
    }
    if end:
        rows[f"log_product_spectral{end}"] = math.log(product)
        rows[f"log_sum_spectral{end}"] = math.log(d * product ** (1 / d))
        rows[f"distance_spectral{end}"] = sum(change.spectral[kind] for change in changes)
    else:
        rows["parameters"] = sum(layer.weights for layer in layers)
        rows["inverse_margin"] = margin**-2
        rows["log_product_frobenius_over_margin"] = math.log(of_frobenius / margin**2)
        rows["log_sum_frobenius_over_margin"] = math.log(d * (of_frobenius / margin**2) ** (1 / d))
    return {f"complexity/{name}": value for name, value in rows.items()}


def test_all_rows_are_their_formulas() -> None:
    model, start = (networks.made(networks.cnn_with_batch_norm, seed).double() for seed in (0, 1))
    values, layers, absent = rows_of(model, start)
    logits = model(networks.images(COUNT).double()).detach()
    margin = float(logit_gap(logits, logits.argmax(1)).quantile(0.1))
    expected = {key: v for kind in ("operator", "reshaped", "fft") for key, v in table(layers, kind, margin).items()}
    assert absent == {}
    assert values == pytest.approx(expected, rel=1e-9)
    assert values["complexity/parameters"] == 3 * 6 * 9 + 6 * 8 * 9 + 8 * 8 * 9 + 8 * 4


def test_they_agree_with_the_measures_that_hold_the_other_rows() -> None:
    model, start = (networks.made(networks.cnn_with_batch_norm, seed).double() for seed in (0, 1))
    values, _, _ = rows_of(model, start)
    images = networks.images(COUNT).double()
    with probing(model, images, model(images).argmax(1), initial_state=copy_state(start)) as probe:
        others = taken("norm", probe).values | taken("distance", probe).values
        again = taken("complexity", probe).values
    product, over = others["norm/log_product_spectral"], values["complexity/log_product_spectral_over_margin"]
    assert over - product == pytest.approx(math.log(values["complexity/inverse_margin"]), rel=1e-9)
    assert values["complexity/log_sum_spectral_over_margin"] == pytest.approx(math.log(4) + over / 4, rel=1e-9)
    assert values["complexity/distance_spectral_fft"] == pytest.approx(others["distance/spectral"], rel=0.2)
    assert again == pytest.approx(values, rel=1e-6)


def test_without_a_positive_margin_what_needs_it_is_absent() -> None:
    model, start = (networks.made(networks.mlp, seed) for seed in (0, 1))
    values, _, absent = rows_of(model, start, lambda logits: logits.argmin(1))
    assert set(absent.values()) == {"the 10 % quantile of the margin is not positive"}
    assert not any("margin" in key or "log_spectral" in key for key in values)
    assert set(values) >= {"complexity/parameters", "complexity/frobenius_over_spectral"}
    assert set(values) >= {"complexity/log_product_spectral_fft", "complexity/distance_spectral_fft"}


@pytest.mark.parametrize("start", ["unknown", "unmoved"])
def test_without_a_distance_from_the_start_its_rows_are_absent(start: str) -> None:
    model = networks.made(networks.mlp)
    values, _, absent = rows_of(model, model if start == "unmoved" else None)
    assert not any("initial" in key for key in values)
    if start == "unknown":
        patterns = ("complexity/distance_spectral*", "complexity/log_spectral_initial*")
        assert absent == dict.fromkeys(patterns, "the initial weights are unknown")
        assert not any("distance" in key for key in values)
    else:
        assert set(absent.values()) == {"nothing has moved"}
        assert values["complexity/distance_spectral_fft"] == 0
