import numpy as np
import pytest
import torch

from lightning_gengap.zoo.train.observed_gap import observed_gap
from lightning_gengap.zoo.train.task import TaskData


def test_gaps_are_taken_where_the_model_is():
    """A device of no arithmetic stands for a GPU: what does not follow the model there fails."""
    images, labels = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    seen = []

    class Elsewhere(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs.device.type)
            return torch.zeros(len(inputs), 2)

    gap = observed_gap(Elsewhere(4, 2, device="meta"), TaskData(images, labels, images, labels), 0.0)
    assert seen == ["meta", "meta"]
    assert gap["gap.accuracy"] == 0


def test_expected_noisy_accuracy_agrees_with_really_corrupted_test_labels():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, 20_000))
    logits = torch.nn.functional.one_hot(labels, 4) * 2.0 + torch.from_numpy(rng.normal(size=(20_000, 4)))
    data = TaskData(logits.float(), labels, logits.float(), labels)
    noise = 0.4
    redrawn = torch.from_numpy(rng.random(20_000) < noise)
    noisy = torch.where(redrawn, torch.from_numpy(rng.integers(0, 4, 20_000)), labels)
    gap = observed_gap(torch.nn.Identity(), data, noise)
    actual = (logits.argmax(1) == noisy).double().mean().item()
    assert gap["gap.test_accuracy"] == pytest.approx(actual, abs=0.015)
    loss = torch.nn.functional.cross_entropy(logits.float(), noisy).item()
    assert gap["gap.loss"] + torch.nn.functional.cross_entropy(logits.float(), labels).item() == pytest.approx(
        loss, abs=0.03
    )


def test_halves_of_the_test_samples_are_taken_in_turn_and_told_as_the_whole_is():
    labels = torch.tensor([0, 1, 0, 1, 0])
    right_at_even_places = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 0, 0]), 2).float()
    data = TaskData(right_at_even_places, labels, right_at_even_places, labels)
    gap = observed_gap(torch.nn.Identity(), data, 0.4)
    assert gap["gap.test_accuracy_first_half"] == pytest.approx(0.6 + 0.2)
    assert gap["gap.test_accuracy_second_half"] == pytest.approx(0.2)
    assert gap["gap.test_accuracy"] == pytest.approx(0.6 * 3 / 5 + 0.2)
