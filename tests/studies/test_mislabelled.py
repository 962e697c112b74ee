from __future__ import annotations

import pytest
import torch
from mislabelled import by_most_probable, flagged, ordered

LABELS = torch.tensor([0, 0, 1, 1])
SHARES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)


def test_the_most_probable_class_reaches_its_threshold() -> None:
    """The thresholds are (0.9 + 0.2) / 2 and (0.7 + 0.4) / 2, both 0.55."""
    assert by_most_probable(SHARES, LABELS).tolist() == [False, True, False, True]
    assert by_most_probable((SHARES + 0.5) / 2 - 0.04, torch.tensor([0, 0, 1, 0])).tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_rules_that_ask_the_network_too() -> None:
    early = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.4, 0.6]], dtype=torch.float64)  # agrees most
    late = torch.eye(2, dtype=torch.float64)[LABELS]
    found, both = flagged(SHARES, LABELS, [early, late])
    assert found["default"].tolist() == [False, True, False, True]
    assert found["network too"].tolist() == [False, True, False, False]
    assert found["network against"].tolist() == [False, True, False, True]
    assert torch.equal(both, (SHARES + early) / 2)


def test_the_order_is_perfect_where_the_wrong_ones_come_first() -> None:
    assert ordered(SHARES, LABELS, torch.tensor([False, True, False, True])) == pytest.approx(1.0)
