from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.per_sample import defined_where_it_succeeds, per_sample, zeros_for_sums
from lightning_gengap.errors import Undefined
from tests.derivatives.tasks import small_mlp, task

COUNT = 7


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_gradients_are_those_of_one_sample_at_a_time_whatever_the_passes(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, targets = task(small_mlp, COUNT)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    content = {"images": [images, torch.ones(3)], "name": "a batch"}
    monkeypatch.setattr("lightning_gengap.derivatives.per_sample.MOST_NUMBERS", 10 * at_once)
    shapes = []

    def gradient(alone: Any, label: Tensor) -> dict[str, Tensor]:
        shapes.append((alone["images"][0].shape, alone["images"][1].shape, alone["name"]))

        def loss(at: dict[str, Tensor]) -> Tensor:
            return cross_entropy(functional_call(model, at, (alone["images"][0],)), label[None])

        return grad(loss)(weights)

    passes = list(per_sample(gradient, content, COUNT, 10, (targets,)))
    assert [len(part["1.bias"]) for part in passes] == [min(at_once, COUNT - at) for at in range(0, COUNT, at_once)]
    assert set(shapes) == {(images[:1].shape, torch.Size([3]), "a batch")}
    for sample in range(COUNT):
        model.zero_grad()
        cross_entropy(model(images[sample, None]), targets[sample, None]).backward()
        for name, weight in model.named_parameters():
            found = torch.cat([part[name] for part in passes])[sample]
            torch.testing.assert_close(found, weight.grad, rtol=1e-10, atol=1e-14)


def test_randomness_is_refused_and_failures_are_undefined() -> None:
    with pytest.raises(Undefined, match=r"per-sample derivatives fail \(vmap: "), defined_where_it_succeeds():
        list(per_sample(lambda alone: torch.dropout(alone, 0.5, True), torch.ones(COUNT, 2), COUNT, 2))
    with pytest.raises(ValueError, match="another"), defined_where_it_succeeds():
        raise ValueError("another")


def test_samples_that_an_object_hides_are_undefined() -> None:
    class Hidden:
        inputs = torch.ones(COUNT, 2)

    with pytest.raises(Undefined, match="the samples of a batch cannot be taken apart"):
        list(per_sample(lambda alone: alone.inputs, Hidden(), COUNT, 2))


def test_sums_are_precise() -> None:
    zeros = zeros_for_sums({"a": torch.ones(2, 3)})
    assert zeros["a"].dtype == torch.float64
    assert torch.equal(zeros["a"], torch.zeros(2, 3).double())
