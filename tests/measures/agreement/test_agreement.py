from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.agreement.out_of_fold import out_of_fold
from tests.probes import probing, taken


class Says(nn.Module):
    """Predicts the class that stands in the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * nn.functional.one_hot(inputs[:, 0].long(), 3).float()


def task() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (90,), generator=generator)
    said = torch.where(torch.rand(90, generator=generator) < 0.7, targets, (targets + 1) % 3)
    return torch.cat([said[:, None].float(), torch.randn(90, 2, generator=generator)], dim=1), targets


def kept(predicted: Tensor, name: str = "forest", right: bool = True) -> dict[str, Tensor]:
    """What the probe's memory holds of a reference that says so, and is always right or never."""
    parts = {
        "rows": torch.arange(len(predicted)),
        "predicted": predicted,
        "shares": torch.ones(len(predicted), 2),
        "fitted": torch.tensor(1),
        "labels": predicted if right else predicted + 1,
    }
    return {f"out_of_fold/{name}/{part}": value for part, value in parts.items()}


def test_shares_by_hand() -> None:
    inputs, targets = task()
    with probing(Says(), inputs, targets, chunk=40) as probe:
        expected = out_of_fold(probe, "forest").predicted.tolist()
        found = taken("agreement", probe)
    said = inputs[:, 0].int().tolist()
    against = [(a, b) for a, b, label in zip(said, expected, targets.tolist(), strict=True) if b != label]
    forest = {key: value for key, value in found.values.items() if "forest" in key}
    assert forest == pytest.approx(
        {
            "agreement/forest": sum(a == b for a, b in zip(said, expected, strict=True)) / 90,
            "agreement/forest_against_label": sum(a == b for a, b in against) / 90,
        }
    )
    assert 0 < len(against) < 90
    assert found.absent == {
        "agreement/features*": "there are no initial weights",
    }


def test_a_network_that_says_every_label_agrees_as_often_as_the_reference_is_right() -> None:
    inputs, _ = task()
    targets = inputs[:, 0].long()
    told = torch.where(torch.arange(90) % 4 == 0, (targets + 1) % 3, targets)
    memory = kept(told)
    with probing(Says(), inputs, targets, memory=memory) as probe:
        found = taken("agreement", probe)
    assert found.values["agreement/forest"] == 67 / 90
    assert found.values["agreement/forest_against_label"] == 0.0


@pytest.mark.parametrize("better", ["forest", "features"])
def test_the_best_reference_is_the_most_accurate_on_all_samples(better: str) -> None:
    inputs, targets = task()
    said = inputs[:, 0].long()
    told = {"forest": said, "features": (said + 1) % 3}
    memory = {}
    for name, predicted in told.items():
        memory |= kept(predicted, name, right=name == better)
    with probing(Says(), inputs, targets, memory=memory) as probe:
        found = taken("agreement", probe)
    assert found.values["agreement/best"] == found.values[f"agreement/{better}"] == float(better == "forest")


def test_where_the_reference_is_always_right_nothing_is_against_the_label() -> None:
    targets = torch.arange(30) % 3
    with probing(Says(), targets[:, None].float().repeat(1, 4), targets) as probe:
        found = taken("agreement", probe)
    assert found.values.pop("agreement/order") == 0.5  # there is nothing that it gets wrong
    assert set(found.values) == {f"agreement/{name}" for name in ("forest", "landmarks", "best")} | {
        f"agreement/{name}_against_label" for name in ("forest", "landmarks")
    }
    assert all(value == float(not key.endswith("label")) for key, value in found.values.items())


def test_memorising_wrong_labels_lowers_the_agreement() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.arange(120) % 3
    rows = torch.randn(120, 4, generator=generator) + 4 * torch.eye(4)[truth]
    labels = torch.where(torch.rand(120, generator=generator) < 0.3, (truth + 1) % 3, truth)
    values = []
    for said in (truth, labels):  # what carries over, then the labels as they are
        inputs = torch.cat([said[:, None].float(), rows], dim=1)
        with probing(Says(), torch.cat([torch.zeros(120, 1), rows], dim=1), labels) as probe:
            memory = kept(out_of_fold(probe, "forest").predicted)
        with probing(Says(), inputs, labels, memory=memory) as probe:
            values.append(taken("agreement", probe).values)
    generalises, memorises = values
    assert generalises["agreement/forest"] > memorises["agreement/forest"] + 0.15
    assert memorises["agreement/forest_against_label"] == 0.0
    assert generalises["agreement/forest_against_label"] > 0.15
