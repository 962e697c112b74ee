"""The three methods of products with the Jacobian, on usual and unusual networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_gengap.derivatives.fallback import Step
from lightning_gengap.derivatives.gauss_newton import Curvature, dual_curvature, with_curvature
from lightning_gengap.derivatives.jacobian import DOUBLE_BACKWARD, LINEARISATION, METHODS, REBUILT
from lightning_gengap.errors import Undefined
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import CHUNK
from tests import networks
from tests.derivatives.tasks import DifferentiableOnce, Factory, small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import probing

COUNT = 9
RANK = {method: rank for rank, method in enumerate(METHODS)}


class FrozenSharedUnused(nn.Module):
    """A frozen first layer, a layer used twice under two names, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(networks.CHANNELS * networks.SIDE**2, 5).requires_grad_(False)
        self.second = nn.Linear(5, 5)
        self.again = self.second
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(5, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.first(images.flatten(1)))
        return self.head(torch.tanh(self.again(torch.tanh(self.second(x)))))


def inplace_cnn() -> nn.Module:
    return networks.cnn_with_batch_norm(inplace=True)


def built(probe: Probe) -> Curvature:
    """The curvature by the fastest method that works."""
    return with_curvature(probe, lambda curvature: curvature)


def assert_products(curvature: Curvature, exact: Tensor) -> None:
    """Several: a trace may write into what it keeps."""
    for vector in torch.randn(3, len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        torch.testing.assert_close(curvature.product(vector), exact @ vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "factory", [small_mlp, inplace_cnn, networks.VisionTransformer, FrozenSharedUnused], ids=lambda made: made.__name__
)
@pytest.mark.parametrize("method", METHODS)
def test_products_by_every_method_are_those_of_the_dense_matrix(factory: Factory, method: str) -> None:
    model, images, targets = task(factory, COUNT)
    with probing(model, images, targets, chunk=4) as probe:
        curvature = dual_curvature(probe, COUNT, Step(method, CHUNK))
    assert curvature.method == method
    assert_products(curvature, oracles.dual(model, images))


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_fail_are_skipped_and_remarked_on(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(logits_of: object, weights: object) -> None:
        raise NotImplementedError("no such derivative")

    faster = [name for name in METHODS if RANK[name] < RANK[method]]
    for name in faster:
        monkeypatch.setitem(METHODS, name, fails)
    with probing(*task(small_mlp, COUNT)) as probe:
        assert built(probe).method == method
    assert len(probe.notes) == bool(faster)
    for note in probe.notes:
        causes = "; ".join(f"{name}: NotImplementedError: no such derivative" for name in faster)
        assert note.startswith(f"curvature/* takes longer by {method}")
        assert note.endswith(f"a faster way is absent: {causes}")


def test_frozen_shared_and_unused_parameters_are_counted_as_they_train() -> None:
    with probing(*task(FrozenSharedUnused, COUNT)) as probe:
        parameters = dual_curvature(probe).parameters
    assert parameters == (5 * 5 + 5) + (3 * 3 + 3) + (5 * networks.CLASSES + networks.CLASSES)


def test_what_cannot_be_differentiated_twice_is_undefined_and_is_not_tried_in_smaller_chunks() -> None:
    with probing(*task(DifferentiableOnce, COUNT)) as probe:
        with pytest.raises(Undefined, match="cannot be differentiated twice") as raised:
            built(probe)
        assert [raised.value.reason.count(f"{method}: ") for method in METHODS] == [1, 1, 1]
        with pytest.raises(Undefined, match="cannot be differentiated twice"):
            with_curvature(probe, lambda curvature: pytest.fail("built"))


class Cube(torch.autograd.Function):
    """x^3, without a forward mode."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Varied(nn.Module):
    """One hidden layer with a middle that `kind` writes in several ways; the function is that of `plain`."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.first = nn.Linear(networks.CHANNELS * networks.SIDE**2, 6)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.head = nn.Linear(6, networks.CLASSES)
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.flatten(1))
        x = Cube.apply(x) if self.kind == "custom function" else x * x * x
        if self.kind == "checkpointed":
            return self.head(checkpoint(self.middle, x, use_reentrant=False))
        return self.head(self.middle(x))


class FusedAttention(nn.Module):
    """Rows of an image attend to each other by the fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(networks.CHANNELS * networks.SIDE, 3 * 4)
        self.head = nn.Linear(4, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        parts = self.mixed(images.transpose(1, 2).flatten(2)).chunk(3, dim=2)
        return self.head(nn.functional.scaled_dot_product_attention(*parts).mean(dim=1))


def compiled(model: Any) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def as_it_is(model: nn.Module) -> nn.Module:
    return model


# By name: the network, its plain twin, what is done to it, and the slowest method that may be needed.
UNUSUAL: dict[str, tuple[Factory, Factory, Any, str]] = {
    "plain": (Varied, Varied, as_it_is, LINEARISATION),
    "checkpointed": (lambda: Varied("checkpointed"), Varied, as_it_is, LINEARISATION),
    "compiled": (Varied, Varied, compiled, DOUBLE_BACKWARD),
    "compiled in place": (Varied, Varied, compiled_in_place, DOUBLE_BACKWARD),
    "custom function": (lambda: Varied("custom function"), Varied, as_it_is, DOUBLE_BACKWARD),
    "fused attention": (FusedAttention, FusedAttention, as_it_is, LINEARISATION),
    "recurrent": (networks.Recurrent, networks.Recurrent, as_it_is, DOUBLE_BACKWARD),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_networks_have_the_dense_product_and_a_remark_where_it_takes_longer(kind: str) -> None:
    factory, plain, change, slowest = UNUSUAL[kind]
    model, images, targets = task(factory, COUNT)
    twin = plain().double().eval()
    twin.load_state_dict(model.state_dict())
    with probing(change(model), images, targets, chunk=4) as probe:
        curvature = built(probe)
        assert_products(curvature, oracles.dual(twin, images))
    assert RANK[curvature.method] <= RANK[slowest]  # a later torch may do better
    assert ["a faster way is absent" in note for note in probe.notes] == [True] * (curvature.method != LINEARISATION)


class AlwaysDropping(nn.Module):
    """Functional dropout that ignores eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(networks.CHANNELS * networks.SIDE**2, 30)
        self.head = nn.Linear(30, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(torch.tanh(self.first(images.flatten(1)))))


def test_maps_that_are_not_each_others_transpose_are_refused() -> None:
    with probing(*task(AlwaysDropping, COUNT)) as probe:
        assert built(probe).method == DOUBLE_BACKWARD  # one graph for both maps: one dropout mask
    assert "disagree" in probe.notes[0]


def test_the_last_method_keeps_nothing() -> None:
    with probing(*task(small_mlp, COUNT)) as probe:
        model = probe.model
        seen: list[int] = []
        handle = model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        curvature = dual_curvature(probe, COUNT, Step(REBUILT, CHUNK))
        seen.clear()
        curvature.product(torch.ones(COUNT * networks.CLASSES).double())
        handle.remove()
    assert seen == [COUNT, COUNT], "a forward for each of the two maps"
