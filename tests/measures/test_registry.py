"""What `compute` makes of what measures give, and what the registry refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import LogitsError, MeasureError, Undefined
from lightning_gengap.measures import MEASURES, compute, derived, get_measure
from lightning_gengap.measures.measure import Measure
from lightning_gengap.network.probe import Probe
from tests import networks
from tests.probes import probing


def task() -> tuple[nn.Module, Tensor, Tensor]:
    return networks.made(networks.mlp), networks.images(8), torch.arange(8) % networks.CLASSES


def row(values: Any, *names: str) -> Measure:
    """A measure that gives these values, or raises them, and declares keys of these names."""

    def give(probe: Probe) -> Any:
        if isinstance(values, Exception):
            raise values
        return values

    return Measure(give, dict.fromkeys(names, derived.KEYS["difficulty/excess_accuracy"]), forwards=0)


def test_compute_says_what_is_not_finite_and_joins_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASURES, "odd", row({"odd/a": math.nan, "odd/b": math.inf, "odd/c": 1.0}))
    with probing(*task()) as probe:
        computed = compute(probe, ["odd", "fit"])
    assert set(computed.values) == {"odd/c", "train_accuracy", "train_loss", "train_confidence"}
    assert computed.absent == {"odd": dict.fromkeys(("odd/a", "odd/b"), "its value is not finite")}


@pytest.mark.parametrize(
    ("given", "names", "absent"),
    [
        ({"odd/a": Undefined("too few")}, ["odd/a"], {"odd/a": "too few"}),
        (Undefined("too few"), ["odd/one", "odd/two"], {"odd/*": "too few"}),
        (Undefined("too few"), ["odd/one"], {"odd/one": "too few"}),
        ({"odd/one": math.nan}, ["odd/one", "odd/two"], {"odd/*": "its values are not finite"}),
    ],
)
def test_compute_says_what_is_absent_by_key_or_pattern(
    given: Any, names: list[str], absent: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURES, "odd", row(given, *names))
    with probing(*task()) as probe:
        computed = compute(probe, ["odd"])
    assert (computed.values, computed.absent) == ({}, {"odd": absent})


def test_the_absence_of_what_nobody_asked_for_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = Undefined("too few")
    monkeypatch.setitem(MEASURES, "odd", row({"odd/a*": reason, "odd/b": reason, "odd/c": 1.0}, "odd/a1", "odd/b"))
    with probing(*task(), wanted=frozenset({"odd/a1", "odd/c"})) as probe:
        assert compute(probe, ["odd"]).absent == {"odd": {"odd/a*": "too few"}}


def test_a_refusal_inside_a_measure_keeps_its_own_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "Return one logit per class (two for a binary task)."
    monkeypatch.setitem(MEASURES, "odd", row(LogitsError("model output", got="one", expected="two", remedy=remedy)))
    with probing(*task()) as probe, pytest.raises(MeasureError) as raised:
        compute(probe, ["odd"])
    assert str(raised.value) == f"measure 'odd', model output: got one; expected two. {remedy}"


def test_an_unknown_measure_lists_the_known() -> None:
    with pytest.raises(MeasureError, match=f"got 'margns'; expected one of {', '.join(MEASURES)}"):
        get_measure("margns")
