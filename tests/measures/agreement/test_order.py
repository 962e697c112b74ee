from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from lightning_gengap.measures.agreement.order import FEWEST, order
from tests.probes import probing, taken


@pytest.mark.parametrize("levels", [0, 7])
def test_is_the_area_under_the_roc_curve(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    right = torch.rand(200, generator=generator) < 0.8
    margins = torch.randn(200, generator=generator, dtype=torch.float64) + 0.5 * right
    if levels:
        margins = (margins * levels / 4).round()  # many are equal
    assert order(margins, right) == pytest.approx(roc_auc_score(right.numpy(), margins.numpy()), abs=1e-12)


def test_is_one_where_all_right_ones_are_above() -> None:
    right = torch.arange(20) < 12
    assert order(-torch.arange(20.0), right) == 1.0
    assert order(torch.arange(20.0), right) == 0.0
    assert order(torch.zeros(20), right) == 0.5


def test_says_nothing_of_few_samples() -> None:
    margins = torch.arange(40.0)
    assert order(margins, margins >= FEWEST) == 1.0
    assert order(margins, margins >= FEWEST - 1) == 0.5
    assert order(margins, margins < FEWEST - 1) == 0.5


class Margins(nn.Module):
    """Two logits: nothing, and the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * torch.stack([torch.zeros(len(inputs)), inputs[:, 0]], dim=1)


def test_judges_the_margins_of_the_labels_by_the_best_reference() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(80, 3, generator=generator), torch.randint(2, (80,), generator=generator)
    wrong = torch.rand(80, generator=generator) < 0.3
    memory = {}
    for name, told in {"forest": torch.where(wrong, 1 - targets, targets), "features": 1 - targets}.items():
        parts = {"rows": torch.arange(80), "predicted": told, "shares": torch.ones(80, 2), "labels": targets}
        memory |= {f"out_of_fold/{name}/{part}": value for part, value in parts.items()}
        memory[f"out_of_fold/{name}/fitted"] = torch.tensor(1)
    with probing(Margins(), inputs, targets, memory=memory) as probe:
        found = taken("agreement", probe).values["agreement/order"]
    margins = (2 * targets - 1) * inputs[:, 0].double()
    assert found == pytest.approx(roc_auc_score((~wrong).numpy(), margins.numpy()), abs=1e-9)
