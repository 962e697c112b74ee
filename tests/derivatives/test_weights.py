from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.weights import require_gradients, trained
from lightning_gengap.errors import Undefined
from tests import networks
from tests.derivatives.tasks import Factory, small_mlp, task
from tests.probes import probing

COUNT = 9


class Cut(nn.Module):
    """A trained body and head with a cut behind the body, and a weight that no module holds."""

    def __init__(self, head: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(192, 5), nn.Linear(5, networks.CLASSES).requires_grad_(head)
        self.loose = [torch.ones(1, requires_grad=True)]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.body(images.flatten(1)).detach()
        return self.head(hidden) * self.loose[0].to(hidden)


@pytest.mark.parametrize(
    ("factory", "reached"), [(small_mlp, True), (lambda: Cut(True), True), (lambda: Cut(False), False)]
)
def test_logits_that_no_gradient_leaves_are_noticed_once_for_all_that_ask(factory: Factory, reached: bool) -> None:
    model, images, targets = task(factory, COUNT)
    sizes: list[int] = []
    with probing(model, images, targets) as probe:
        handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
        for _ in range(2):
            if reached:
                require_gradients(probe)
            else:
                with pytest.raises(Undefined, match=r"^no gradient of the logits reaches a trained parameter"):
                    require_gradients(probe)
        handle.remove()
    assert sizes == [1], "one forward of one sample"


def test_without_trained_or_with_complex_parameters_nothing_is_defined() -> None:
    model, images, targets = task(small_mlp, COUNT)
    with probing(model, images, targets) as probe:
        assert list(trained(probe)) == [name for name, _ in model.named_parameters()]
        model.filter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        with pytest.raises(Undefined, match="the parameter 'filter' is complex"):
            trained(probe)
        model.requires_grad_(False)
        for ask in (trained, require_gradients):
            with pytest.raises(Undefined, match="no parameter requires a gradient"):
                ask(probe)
