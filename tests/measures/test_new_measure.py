"""What a new measure needs is one function with its keys, one row and nothing else: a toy shows it."""

from __future__ import annotations

import math

import pytest

from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.measures.key import FUNCTION, Key
from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.measures.measure import Measure, scalar_keys
from lightning_gengap.measures.values import Histogram, Values
from lightning_gengap.network.probe import Probe
from lightning_gengap.reference_pages import describe_measure, measures_page
from tests.lightning_models import fitted
from tests.measures import test_contracts, test_costs, test_invariances
from tests.probes import measured
from tests.tiny_predictors import tiny_monitor

KEYS = {
    "toy/largest": Key("logits", -math.inf, math.inf, "mean of the largest logit", FUNCTION),
    "toy/logits": Key("logits", -math.inf, math.inf, "the largest logit of every sample", FUNCTION, kind="histogram"),
}


def toy(probe: Probe) -> Values:
    """The largest logit, on average and of every sample.

    Keys `toy/largest`, and the histogram `toy/logits`. Cost: none. Reference: nobody 2026 (arXiv 0000.00000).
    """
    largest = probe.cached(margin_signature).logits.amax(1)
    return {"toy/largest": float(largest.mean()), "toy/logits": Histogram(largest)}


@pytest.fixture(autouse=True)
def _row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row in the registry, as if it stood there."""
    monkeypatch.setitem(MEASURES, "toy", Measure(toy, KEYS, forwards=0.0))
    for key, declared in scalar_keys({"toy": MEASURES["toy"]}).items():
        monkeypatch.setitem(MEASURED, key, declared)


@pytest.mark.parametrize("network", ["mlp", "Tokens"])
@pytest.mark.parametrize(
    "contract",
    [
        test_contracts.test_values_are_finite_floats_in_the_declared_range,
        test_contracts.test_what_is_returned_is_declared_and_what_is_declared_is_returned_or_said_to_be_absent,
        test_contracts.test_model_data_and_random_streams_are_untouched,
        test_contracts.test_the_same_seed_gives_the_same_values,
        test_contracts.test_the_size_of_the_chunks_does_not_matter,
        test_contracts.test_the_order_of_the_samples_matters_only_to_what_is_drawn_by_place,
        test_contracts.test_a_second_measurement_agrees_with_the_first,
    ],
    ids=lambda contract: contract.__name__,
)
def test_the_contracts_hold_for_it(contract: object, network: str) -> None:
    contract("toy", network)  # type: ignore[operator]


def test_its_cost_its_keys_and_its_docstring_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    test_contracts.test_every_declared_key_is_given_for_some_network("toy")
    test_contracts.test_measures_say_what_they_compute_what_it_costs_and_who_found_it("toy")
    test_costs.test_a_measure_costs_what_it_declares("toy")
    for change in test_invariances.CHANGES:
        test_invariances.test_values_change_exactly_where_it_is_declared("toy", change, monkeypatch)


def test_compute_serves_it() -> None:
    values, absent, figures, _ = measured("toy", *test_contracts.task("mlp"))
    assert (list(values), absent, list(figures)) == (["toy/largest"], {}, ["toy/logits"])


def test_the_reference_page_serves_it() -> None:
    page = measures_page()
    assert "| `toy` | on request, each time | 0 |" in page
    assert "| `toy/largest` | toy | logits | unbounded | mean of the largest logit | no | yes | yes |" in page
    assert "toy/logits" in describe_measure("toy")


def test_a_live_result_serves_it() -> None:
    values = fitted(tiny_monitor(measures=["toy"]))
    assert len(values("gengap/toy/largest")) == 2
