from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.forest import MOST_INPUTS, TREES, out_of_bag_scores
from lightning_gengap.measures.agreement.out_of_fold import REFERENCES, best_ridge, out_of_fold
from lightning_gengap.measures.difficulty.compared_samples import compared
from lightning_gengap.measures.difficulty.leave_one_out_scores import RIDGES
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.probes import probing


def test_ridge_refitted_without_a_sample_predicts_it_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(40) % 3
    rows = torch.randn(40, 6, generator=generator, dtype=torch.float64) + torch.eye(6).double()[targets]
    accuracy = float((best_ridge(rows, targets).argmax(1) == targets).double().mean())
    assert accuracy == pytest.approx(oracles.leave_one_out_ridge(rows.numpy(), targets.numpy(), RIDGES), abs=1e-12)


def test_a_tree_is_not_asked_about_what_it_has_seen() -> None:
    """The same sum over single trees by hand: each draws its bootstrap from its own seed."""
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(60, 5, generator=generator), torch.arange(60) % 4
    trees = ExtraTreesClassifier(TREES, bootstrap=True, random_state=3).fit(inputs.numpy(), targets.numpy())
    sums = np.zeros((60, 4))
    for tree in trees.estimators_:
        seen = np.random.RandomState(tree.random_state).randint(0, 60, 60)
        outside = np.setdiff1d(np.arange(60), seen)
        sums[outside] += tree.predict_proba(inputs.numpy()[outside])
    found = out_of_bag_scores(inputs, targets, 3)
    assert found.numpy() == pytest.approx(sums / sums.sum(1, keepdims=True), abs=1e-12)
    assert (found.argmax(1) == targets).double().mean() < 0.5  # the labels have nothing to do with the inputs


def test_classes_that_are_not_there_get_no_vote() -> None:
    inputs = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    scores = out_of_bag_scores(inputs, 2 * (torch.arange(30) % 2), 0)
    assert scores.shape == (30, 3)
    assert scores[:, 1].tolist() == [0.0] * 30


@pytest.mark.parametrize("inputs", [torch.zeros(10, MOST_INPUTS + 1), torch.full((10, 2), torch.nan)])
def test_inputs_that_trees_cannot_take(inputs: torch.Tensor) -> None:
    with pytest.raises(Undefined, match="inputs"):
        out_of_bag_scores(inputs, torch.arange(10) % 2, 0)


@pytest.mark.parametrize("name", REFERENCES)
def test_it_is_computed_once_for_the_same_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures(60)
    memory: dict[str, torch.Tensor] = {}
    with probing(model, images, targets, initial_state=copy_state(model), memory=memory) as probe:
        first = out_of_fold(probe, name)
        scores = REFERENCES[name](probe, compared(probe))
        monkeypatch.delitem(REFERENCES, name)
        again = out_of_fold(probe, name)
    assert first.predicted.tolist() == again.predicted.tolist() == scores.argmax(1).tolist()
    assert float((first.predicted == targets).double().mean()) > 0.3
    with probing(model, images[:50], targets[:50], memory=memory) as fewer, pytest.raises(KeyError):
        out_of_fold(fewer, name)


@pytest.mark.parametrize(
    ("name", "why"), [("patch", "images"), ("features", "initial weights"), ("forest", "integers")]
)
def test_what_a_reference_needs(name: str, why: str) -> None:
    targets = torch.arange(20) % 2
    inputs = torch.zeros(20, 3).long() if name == "forest" else torch.zeros(20, 3)
    first = torch.nn.Embedding(2, 1) if name == "forest" else torch.nn.Identity()
    model = torch.nn.Sequential(first, torch.nn.Flatten(), torch.nn.Linear(3, 2))
    with probing(model, inputs, targets) as probe, pytest.raises(Undefined, match=why):
        out_of_fold(probe, name)


def test_classes_keep_their_number_where_labels_are_large() -> None:
    targets = torch.where(torch.arange(20) % 2 == 0, 7, 900)
    inputs = torch.cat([targets[:, None].float(), torch.zeros(20, 1)], dim=1)
    with probing(torch.nn.Linear(2, 1000), inputs, targets) as probe:
        assert out_of_fold(probe, "forest").predicted.tolist() == targets.tolist()
