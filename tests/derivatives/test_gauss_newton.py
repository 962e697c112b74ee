from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_gengap.derivatives import jacobian as jacobian_module
from lightning_gengap.derivatives.gauss_newton import Curvature, dual_curvature, jacobian_of, without_gradients
from lightning_gengap.samples.batches import read_batch
from tests import networks
from tests.oracles import curvature as oracles
from tests.probes import probing

COUNT = 9
Factory = Callable[[], nn.Module]


def small_mlp() -> nn.Module:
    return networks.mlp((5,))


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


FACTORIES = [small_mlp, inplace_cnn, networks.VisionTransformer, FrozenSharedUnused]
named = pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)


def task(factory: Factory, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(factory).double(), networks.images(COUNT).double()
    targets = networks.mostly_right_targets(model, images)
    return model.to(dtype).eval(), images.to(dtype), targets


def dense(curvature: Curvature) -> Tensor:
    size = curvature.probabilities.numel()
    return torch.stack([curvature.product(axis) for axis in torch.eye(size, dtype=torch.float64)], dim=1)


def only(rung: str) -> dict[str, object]:
    """The ladder with every rung above `rung` broken."""

    def fails(logits_at: object, weights: object) -> None:
        raise NotImplementedError("no such derivative")

    names = list(jacobian_module.RUNGS)
    above = names[: names.index(rung)]
    return {name: fails if name in above else build for name, build in jacobian_module.RUNGS.items()}


@named
@pytest.mark.parametrize("rung", jacobian_module.RUNGS)
def test_products_on_every_rung_are_those_of_the_dense_matrix(
    factory: Factory, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, targets = task(factory)
    monkeypatch.setattr(jacobian_module, "RUNGS", only(rung))
    exact = oracles.dual(model, images)
    vectors = torch.randn(3, len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with probing(model, images, targets, chunk=4) as probe:
        curvature = dual_curvature(probe)
        assert curvature is not None
        assert curvature.rung == list(jacobian_module.RUNGS).index(rung) + 1
        assert len(probe.notes) == (curvature.rung > 1)
        assert all("no such derivative" in note for note in probe.notes)
        for vector in vectors:
            torch.testing.assert_close(curvature.product(vector), exact @ vector, rtol=1e-9, atol=1e-12)


def test_the_dual_matrix_has_the_spectrum_of_the_gauss_newton_matrix() -> None:
    model, images, targets = task(small_mlp)
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
        assert curvature is not None
        mine = torch.linalg.eigvalsh(dense(curvature)).flip(0)
    theirs = torch.linalg.eigvalsh(oracles.gauss_newton(model, images)).flip(0)
    rank = COUNT * (networks.CLASSES - 1)
    torch.testing.assert_close(mine[:rank], theirs[:rank], rtol=1e-9, atol=1e-12)


def test_float32_and_chunks_change_the_product_by_round_off_only() -> None:
    model, images, targets = task(inplace_cnn)
    exact = oracles.dual(model, images)
    vector = torch.ones(len(exact), dtype=torch.float64)
    single = model.float()
    for chunk in (2, COUNT):
        with probing(single, images.float(), targets, chunk=chunk) as probe:
            curvature = dual_curvature(probe)
            assert curvature is not None
            torch.testing.assert_close(curvature.product(vector), exact @ vector, rtol=1e-3, atol=1e-6)


def test_frozen_shared_and_unused_parameters_are_counted_as_they_train() -> None:
    model, images, targets = task(FrozenSharedUnused)
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
    assert curvature is not None
    assert curvature.parameters == (5 * 5 + 5) + (3 * 3 + 3) + (5 * networks.CLASSES + networks.CLASSES)


def test_a_model_without_trained_parameters_is_absent_with_a_note() -> None:
    model, images, targets = task(small_mlp)
    model.requires_grad_(False)
    with probing(model, images, targets) as probe:
        assert dual_curvature(probe) is None
        assert probe.notes == ["curvature/* is absent: no parameter requires a gradient"]


class Cut(nn.Module):
    """A trained body and head with a cut behind the body, and a weight that no module holds."""

    def __init__(self, head: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(192, 5), nn.Linear(5, networks.CLASSES).requires_grad_(head)
        self.loose = [torch.ones(1, requires_grad=True)]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.body(images.flatten(1)).detach()
        return self.head(hidden) * self.loose[0].to(hidden)


@pytest.mark.parametrize(("factory", "without"), [(small_mlp, 0), (lambda: Cut(True), 0), (lambda: Cut(False), 1)])
def test_logits_that_no_gradient_leaves_are_noticed_and_noted_for_all_that_ask(factory: Factory, without: int) -> None:
    model, images, targets = task(factory)
    sizes: list[int] = []
    with probing(model, images, targets) as probe:
        handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
        for keys in ("this", "that"):
            assert without_gradients(probe, keys) == bool(without)
        handle.remove()
    cause = "no gradient of the logits reaches a trained parameter"
    assert probe.notes == [f"{keys} is absent: {cause}" for keys in ("this", "that")][: 2 * without]
    assert sizes == [1], "one forward of one sample"


def test_operations_without_forward_mode_descend_the_ladder() -> None:
    model, images, targets = task(networks.Recurrent, torch.float32)
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
        assert curvature is not None
        assert curvature.rung == 2
        assert "forward AD" in probe.notes[0]


class Once(torch.autograd.Function):
    """Doubles its input; can be differentiated once."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class DifferentiableOnce(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = small_mlp()

    def forward(self, images: Tensor) -> Tensor:
        return Once.apply(self.layers(images))


def test_what_cannot_be_differentiated_twice_is_absent_with_a_note() -> None:
    model, images, targets = task(DifferentiableOnce)
    with probing(model, images, targets) as probe:
        assert dual_curvature(probe) is None
        assert "cannot be differentiated twice" in probe.notes[0]


class AlwaysDropping(nn.Module):
    """Functional dropout that ignores eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(networks.CHANNELS * networks.SIDE**2, 30)
        self.head = nn.Linear(30, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(torch.tanh(self.first(images.flatten(1)))))


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

    def __init__(self, kind: str) -> None:
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


@pytest.mark.parametrize(
    ("kind", "rung"),
    [("plain", 1), ("checkpointed", 1), ("compiled", 2), ("compiled in place", 2), ("custom function", 2)],
)
def test_unusual_networks_have_the_dense_product_and_a_note_where_it_takes_longer(kind: str, rung: int) -> None:
    def varied() -> nn.Module:
        return Varied(kind)

    model, images, targets = task(varied)
    twin = Varied("plain").double().eval()
    twin.load_state_dict(model.state_dict())
    if kind == "compiled":
        model = torch.compile(model, backend="eager")
    elif kind == "compiled in place":
        model.compile(backend="eager")
    exact = oracles.dual(twin, images)
    vector = torch.randn(len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with probing(model, images, targets, chunk=4) as probe:
        curvature = dual_curvature(probe)
        assert curvature is not None
        torch.testing.assert_close(curvature.product(vector), exact @ vector, rtol=1e-9, atol=1e-12)
    assert curvature.rung <= rung  # a later torch may do better
    assert ["a faster way is absent" in note for note in probe.notes] == [True] * (curvature.rung > 1)


class FusedAttention(nn.Module):
    """Rows of an image attend to each other by the fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(networks.CHANNELS * networks.SIDE, 3 * 4)
        self.head = nn.Linear(4, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        parts = self.mixed(images.transpose(1, 2).flatten(2)).chunk(3, dim=2)
        return self.head(nn.functional.scaled_dot_product_attention(*parts).mean(dim=1))


@pytest.mark.parametrize("factory", [FusedAttention, networks.Recurrent], ids=lambda factory: factory.__name__)
def test_attention_and_recurrence_have_the_dense_product(factory: Factory) -> None:
    model, images, targets = task(factory)
    exact = oracles.dual(model, images)
    vector = torch.randn(len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
        assert curvature is not None
        torch.testing.assert_close(curvature.product(vector), exact @ vector, rtol=1e-9, atol=1e-12)
        again = curvature.product(vector)  # a trace may write into what it keeps
        torch.testing.assert_close(again, exact @ vector, rtol=1e-9, atol=1e-12)
    assert curvature.rung <= (1 if factory is FusedAttention else 2)
    assert len(probe.notes) == (curvature.rung > 1)


def test_maps_that_are_not_each_others_transpose_are_refused() -> None:
    model, images, targets = task(AlwaysDropping)
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
        assert curvature is not None
        assert curvature.rung == 2  # one graph for both maps: one dropout mask
        assert "disagree" in probe.notes[0]


def test_the_factor_squares_to_the_output_curvature_and_maps_starts_to_residuals() -> None:
    model, images, targets = task(small_mlp)
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
    assert curvature is not None
    logits = model(images).detach()
    vectors = torch.randn(COUNT, networks.CLASSES, dtype=torch.float64)
    product = curvature.factor(curvature.factor_transposed(vectors))
    expected = torch.einsum("nkj,nj->nk", oracles.output_curvature(logits), vectors)
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=1e-14)
    start = curvature.signed_residuals(torch.Generator().manual_seed(0)).reshape(COUNT, -1)
    signs = torch.sign((curvature.factor(start) * curvature.residuals).sum(dim=1, keepdim=True))
    torch.testing.assert_close(curvature.factor(start), signs * curvature.residuals, rtol=1e-12, atol=1e-14)


def test_random_signs_cover_all_but_the_known_null_space() -> None:
    model, images, targets = task(small_mlp)
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
    assert curvature is not None
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([curvature.random_signs(generator) for _ in range(4000)]).reshape(4000, COUNT, -1)
    roots = curvature.probabilities.sqrt()
    assert float((draws * roots).sum(dim=2).abs().max()) < 1e-12
    torch.testing.assert_close(
        draws.square().sum(dim=2), torch.full((4000, COUNT), networks.CLASSES - 1.0).double(), rtol=1e-12, atol=0
    )
    seen = torch.einsum("snk,snj->nkj", draws, draws) / 4000
    expected = torch.eye(networks.CLASSES).double() - roots[:, :, None] * roots[:, None, :]
    assert float((seen - expected).abs().max()) < 5 / 4000**0.5


def test_model_gradients_and_random_streams_are_left_alone() -> None:
    model, images, targets = task(inplace_cnn)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    identities = [id(parameter) for parameter in model.parameters()]
    state = torch.get_rng_state()
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
        assert curvature is not None
        curvature.product(torch.ones(curvature.probabilities.numel(), dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert identities == [id(parameter) for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_explicit_jacobian_is_that_of_the_oracle() -> None:
    model, images, targets = task(inplace_cnn)
    with probing(model, images, targets, chunk=4) as probe:
        rows, logits, labels = jacobian_of(probe, COUNT)
    torch.testing.assert_close(rows, oracles.jacobian(model, images).flatten(0, 1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(logits, model(images).detach())
    assert torch.equal(labels, targets)


def test_ragged_chunks_stay_apart_and_give_the_same_product() -> None:
    model, images, targets = task(networks.cnn)
    ragged = torch.nn.functional.pad(images[4:], (0, 2))
    parts = [(images[:4], targets[:4]), (ragged, targets[4:])]
    with probing(model, images, targets) as probe:
        apart = replace(probe, batches=tuple(read_batch(part) for part in parts))
        curvature = dual_curvature(apart)
    assert curvature is not None
    assert curvature.sizes == (4, COUNT - 4)
    product = curvature.product(torch.ones(COUNT * networks.CLASSES, dtype=torch.float64))
    half = torch.cat(
        [
            torch.cat(
                [
                    oracles.root(p).T @ j
                    for p, j in zip(model(x).detach().softmax(1), oracles.jacobian(model, x), strict=True)
                ]
            )
            for x, _ in parts
        ]
    )
    torch.testing.assert_close(product, half @ half.T.sum(dim=1) / COUNT, rtol=1e-9, atol=1e-12)
