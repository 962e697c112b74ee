from __future__ import annotations

import math
import sys

import pytest
from torch.nn.functional import cross_entropy, nll_loss

from lightning_gengap.linalg.left_out import left_out
from lightning_gengap.measures.curvature.network_leave_one_out import affordable, network_leave_one_out
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import measured

RIDGE = 1e-2


@pytest.mark.parametrize(("count", "fewer_weights_than_rows"), [(24, False), (400, True)])
def test_values_by_hand(count: int, fewer_weights_than_rows: bool) -> None:
    model, images, targets = task(small_mlp, count)
    assert (sum(weight.numel() for weight in model.parameters()) < 4 * count) == fewer_weights_than_rows
    values = measured("network_leave_one_out", model, images, targets, chunk=7, ridge=RIDGE).values
    logits = model(images).detach()
    left = left_out(logits, targets, oracles.leverage_blocks(model, images, RIDGE))
    floored = left.logits.log_softmax(dim=1).clamp(min=math.log(1e-10))
    loss = float(nll_loss(floored, targets) - cross_entropy(logits, targets))
    hits = [float((of.argmax(1) == targets).double().mean()) for of in (logits, left.logits)]
    assert values == {
        "loo/network/samples": count,
        "loo/network/loss_gap": pytest.approx(loss, rel=1e-6),
        "loo/network/accuracy_gap": pytest.approx(hits[0] - hits[1], abs=1e-12),
        "loo/network/leverage": pytest.approx(float((left.leverage > 0.99).double().mean()), abs=1e-12),
    }


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [(3_466, 7_744), (5_000, 5_368), (5_001, 500), (53_000, 500), (62_006, 432), (272_474, 98), (1_342_000, 20)],
)
def test_as_many_samples_as_fit_into_memory(parameters: int, samples: int) -> None:
    assert affordable(parameters, 10) == samples


def test_a_large_network_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert affordable(11_173_962, 10) == 2
    monkeypatch.setattr(sys.modules[network_leave_one_out.__module__], "DENSE_JACOBIAN", 10_000)
    found = measured("network_leave_one_out", *task(small_mlp, 24))
    assert (found.values, found.absent) == ({}, {"loo/network/*": "1186 trained parameters, 2 samples fit into memory"})
