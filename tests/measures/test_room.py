"""Every dear path asks for room and time first, and says what it wanted and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_gengap.measures import MEASURES
from lightning_gengap.measures.curvature.kronecker_factors import candidates
from lightning_gengap.measures.curvature.lanczos_runs import one_run
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.probes import Measured, measured

# They hold a few copies of the weights or of a batch, and the logits.
SMALL = {"fit", "calibration", "copies", "sharpness", "adaptive_sharpness", "pac_bayes", "worst_case"}
SLOW = {
    "difficulty",
    "complexity",
    "norm_product",
    "leave_one_out",
    "network_leave_one_out",
    "representation",
    "input_difficulty",
    "kernel_difficulty",
}
ENDS = ("use fewer samples", "free memory, or leave the measure out")


def values_of(name: str) -> Measured:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures()
    return measured(name, model, images, targets, initial_state=copy_state(model), train_samples=400, chunk=16)


@pytest.mark.parametrize("name", sorted(set(MEASURES) - SMALL))
def test_without_room_it_is_absent_and_says_what_it_wanted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 2**10)
    found = values_of(name)
    assert {key for key in found.values if "mix" not in key and "augment" not in key} == set()
    assert found.absent
    for reason in found.absent.values():
        assert "fit into memory" in reason
        assert "even one sample at a time does not fit" in reason or ("MiB; " in reason and reason.endswith(ENDS))


@pytest.mark.parametrize("name", sorted(SLOW))
def test_without_time_it_is_absent_and_says_how_long_it_would_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.time.A_SECOND", 1e-3)
    found = values_of(name)
    assert set(found.values) <= {"difficulty/class_mean_accuracy"}
    assert found.absent
    for reason in found.absent.values():
        assert " minutes of one core; " in reason
        assert reason.endswith(("use fewer samples", "leave the measure out"))


def test_room_is_asked_for_the_factors_of_all_layers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(nn.Linear(50, 50) for _ in range(10)))
    named = dict(model.named_parameters())
    each = 8 * (51**2 + 50**2)
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 4 * (10 * each + 3 * 8 * 51**2) / 3)
    assert len(candidates(model, named)) == 10
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 4 * (9 * each + 3 * 8 * 51**2) / 3)
    with pytest.raises(Exception, match="the Kronecker factors would not fit into memory"):
        candidates(model, named)


def test_room_is_asked_for_the_vectors_of_lanczos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 8 * 60 * 1000)
    with pytest.raises(Exception, match="vectors of 1000 samples x classes would not fit into memory"):
        one_run(None, torch.ones(1000), 1.0, most=60)  # type: ignore[arg-type]


def test_a_huge_dense_layer_has_a_norm_with_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = values_of("norm").values
    monkeypatch.setattr("lightning_gengap.measures.norms.spectral.EXACT", 0)
    found = values_of("norm").values
    assert found["norm/log_product_spectral"] == pytest.approx(exact["norm/log_product_spectral"], rel=1e-3)
    assert found["norm/spectral_change"] >= exact["norm/spectral_change"]
    assert found["norm/log_product_frobenius"] == exact["norm/log_product_frobenius"]
