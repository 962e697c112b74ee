"""Networks that are fitted alike answer alike, and are right as often as their answers say."""

from __future__ import annotations

import numpy as np
import torch
from same_answers import fitted_answers


def test_answers_are_of_a_thousand_samples_by_network_and_epoch() -> None:
    networks = fitted_answers(60, 0.0, torch.Generator().manual_seed(0))
    assert [len(answers) for answers in networks] == [4] * 4
    assert {answers.shape for network in networks for answers in network} == {(1000,)}
    last = np.array([network[-1] for network in networks])
    assert last.mean() > 0.5
    assert (np.corrcoef(last) > 0.1).all()
