"""Folding is checked on the network itself: what is folded rightly is accepted, all else is absent with a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fusion

from lightning_gengap.measures.margins.bartlett import bartlett
from lightning_gengap.measures.norms.complexity import complexity
from lightning_gengap.measures.norms.distance import distance
from lightning_gengap.measures.norms.norm import norm
from lightning_gengap.measures.norms.norm_product import norm_product
from lightning_gengap.measures.norms.path_norm import path_norm
from lightning_gengap.network.folding import folded
from lightning_gengap.network.folding_check import FEW, verified, verified_weights
from lightning_gengap.network.probe import copy_state
from lightning_gengap.network.weight_layers import NotFoldableError
from lightning_gengap.zoo.train.architectures import ARCHITECTURES, Shape
from tests import networks
from tests.probes import probing

MEASURES = (norm, complexity, norm_product, distance, bartlett, path_norm)
TARGETS = torch.arange(20) % networks.CLASSES


def refusal(model: nn.Module, inputs: Tensor | None = None) -> str | None:
    inputs = networks.images(20).double() if inputs is None else inputs
    with probing(model.double(), inputs, TARGETS) as probe:
        return probe.cached(verified).refusal


class Pair(nn.Module):
    """A convolution and a batch norm, registered the other way round, and a head; subclasses join them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(3, networks.CLASSES), nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(networks.CHANNELS, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.joined(images)).mean(dim=(2, 3)))

    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))


class PostActivation(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(torch.relu(self.conv(images)))


class InPlaceActivation(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images).relu_())


class AfterSum(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images) + images)


class AfterConcatenation(Pair):
    def joined(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return self.norm(torch.cat([made[:, :2], images[:, :1]], dim=1))


class Twice(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(images)))


class Shared(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 3, 3, padding=1)

    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.other(torch.relu(self.norm(self.conv(images)))))


class Forked(Pair):
    """A second reader that hardly shows in the logits."""

    def joined(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return self.norm(made) + 1e-7 * made


class ForkedWithoutGradient(Pair):
    def joined(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return self.norm(made) + made.detach()


class StandardisedWeight(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / self.weight.std(), self.bias)


class Standardised(Pair):
    """A convolution of the right class that applies another weight; it has no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = StandardisedWeight(networks.CHANNELS, 3, 3), nn.Identity()


class ShiftedNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).abs()


class StrangeNorm(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.norm = ShiftedNorm(3)


class UsedTwice(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) * self.head.weight.mean()


class Hidden(Pair):
    """Parameters in a container that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(1))])

    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) * self.scales[0]


class Aside(Pair):
    """The convolution is called, and the logits do not depend on it."""

    def joined(self, images: Tensor) -> Tensor:
        self.conv(images)
        return images


class Between(Pair):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def joined(self, images: Tensor) -> Tensor:
        return self.operation(self.norm(self.conv(images)))


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    weights = (tokens @ tokens.transpose(1, 2)).softmax(dim=-1)
    return (weights @ tokens).transpose(1, 2).reshape(x.shape)


ODD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "behind an activation": (PostActivation, "batch norm 'norm' does not directly follow"),
    "behind one in place": (InPlaceActivation, "batch norm 'norm' does not directly follow"),
    "behind a sum": (AfterSum, "batch norm 'norm' does not directly follow"),
    "behind a concatenation": (AfterConcatenation, "batch norm 'norm' does not directly follow"),
    "applied twice": (Twice, "batch norm 'norm' does not directly follow"),
    "shared by two layers": (Shared, "batch norm 'norm' does not directly follow"),
    "a second reader": (Forked, "the output of 'conv' is read by more than batch norm 'norm'"),
    "a second reader without gradient": (ForkedWithoutGradient, "gives other logits"),
    "another weight is applied": (Standardised, "StandardisedWeight 'conv' does not apply its weight"),
    "another normalisation": (StrangeNorm, "ShiftedNorm 'norm' does not normalise as a batch norm"),
    "a weight used elsewhere": (UsedTwice, "the parameter 'head.weight' is used outside its layer"),
    "parameters of no layer": (Hidden, "the parameter 'scales.0' is used outside its layer"),
    "a layer aside": (Aside, "the logits do not depend on 'conv'"),
    "instance norm": (lambda: Between(nn.InstanceNorm2d(3)), "normalisation by its own statistics"),
    "layer norm": (lambda: Between(nn.LayerNorm(8, elementwise_affine=False)), "layer norm between"),
    "group norm": (lambda: Between(nn.GroupNorm(1, 3, affine=False)), "group norm between"),
    "attention": (lambda: Between(attention), "a softmax between the layers"),
    "unit vectors": (lambda: Between(functional.normalize), "divided by activations"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_folding_would_get_wrong_is_absent_with_one_note(kind: str) -> None:
    factory, reason = ODD[kind]
    model, images = networks.made(factory).double(), networks.images(20).double()
    with probing(model, images, TARGETS, initial_state=copy_state(model), train_samples=50) as probe:
        for measure in MEASURES:
            probe.notes.clear()
            assert measure(probe) == {}
            assert len(probe.notes) == 1
            assert reason in probe.notes[0]


def test_the_order_of_registration_does_not_matter() -> None:
    model = networks.made(Pair).double().eval()
    with probing(model, networks.images(20).double(), TARGETS) as probe:
        weights = verified_weights(probe)
    assert list(weights) == ["conv", "head"]
    torch.testing.assert_close(weights["conv"], fusion.fuse_conv_bn_eval(model.conv, model.norm).weight.detach())


def fused(model: nn.Module) -> nn.Module:
    """A copy in which torch's own fusion has folded each batch norm into the layer registered before it."""
    twin = copy.deepcopy(model).eval()
    before: tuple[Any, str] | None = None
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d | nn.Linear):
                before = parent, name
            elif isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                assert before is not None
                layer = getattr(*before)
                fuse = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
                setattr(*before, fuse(layer, child))
                setattr(parent, name, nn.Identity())
    return twin


@pytest.mark.parametrize("family", sorted(set(ARCHITECTURES) - {"vit"}))
@pytest.mark.parametrize("norms", [True, False])
def test_the_zoo_is_folded_and_keeps_its_logits(family: str, norms: bool) -> None:
    model = (
        networks.made(lambda: ARCHITECTURES[family].build(Shape(3, 8, networks.CLASSES, 4, 2, 0.1, norms)))
        .double()
        .eval()
    )
    images, twin = networks.images(20).double(), fused(model)
    torch.testing.assert_close(twin(images), model(images))
    with probing(model, images, TARGETS, chunk=7) as probe:
        weights = verified_weights(probe)
        state = probe.cached(folded).state
        logits = torch.cat([probe.logits_on(batch.content, len(batch.targets), state) for batch in probe.batches])
    assert (logits - model(images)).abs().max() < 1e-4
    expected = {name: m.weight for name, m in twin.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name].detach())


def test_a_transformer_and_group_norms_are_refused() -> None:
    for family, group_norm in (("vit", False), ("resnet", True), ("mobilenet", True)):
        model = networks.made(
            lambda f=family, g=group_norm: ARCHITECTURES[f].build(Shape(3, 8, networks.CLASSES, 4, 2, 0.1, True, g))
        )
        assert refusal(model) is not None


@pytest.mark.parametrize("factory", [networks.cnn_with_batch_norm, networks.VGG, networks.ResNet, networks.Reused])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_single_and_half_precision_are_no_reason_to_refuse(
    factory: Callable[[], nn.Module], precision: torch.dtype
) -> None:
    model = networks.made(factory).to(precision)
    with probing(model, networks.images(20).to(precision), TARGETS) as probe:
        assert probe.cached(verified).refusal is None


def test_frozen_layers_and_those_without_gradient_are_folded() -> None:
    model = networks.made(networks.cnn_with_batch_norm)
    model.requires_grad_(False)
    assert refusal(model) is None

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = networks.cnn(), nn.Linear(networks.CLASSES, networks.CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                seen = self.body(images)
            return self.head(torch.relu(seen))

    assert refusal(networks.made(Fixed)) is None


def test_layers_with_one_weight_are_folded_each_by_its_norm_but_have_no_network_of_powers() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.second.weight = self.first.weight
            self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
            self.head = nn.Linear(3, networks.CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            seen = torch.relu(self.norms[0](self.first(images)))
            return self.head(torch.relu(self.norms[1](self.second(seen))).mean(dim=(2, 3)))

    model = networks.made(Tied).double().eval()
    with probing(model, networks.images(20).double(), TARGETS) as probe:
        weights = verified_weights(probe)
        for layer, batch_norm in zip(("first", "second"), model.norms, strict=True):
            fusion_of = fusion.fuse_conv_bn_eval(model.get_submodule(layer), batch_norm)
            torch.testing.assert_close(weights[layer], fusion_of.weight.detach())
        assert path_norm(probe) == {}
        assert "the weight of 'first' is another layer's too" in probe.notes[0]


@pytest.mark.parametrize("samples", [3, 20])
def test_nothing_stays_behind_and_few_samples_are_run(samples: int) -> None:
    model, images = networks.made(networks.cnn_with_batch_norm), networks.images(samples)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with probing(model, images, TARGETS[:samples]) as probe:
        sizes.clear()
        verified_weights(probe)
        verified_weights(probe)
    assert sizes == [min(samples, FEW)] * 2
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_refusal_is_found_once_and_raised_each_time() -> None:
    with probing(networks.made(Forked), networks.images(20), TARGETS) as probe:
        calls: list[int] = []
        probe.model.register_forward_hook(lambda module, args, output: calls.append(1))
        for _ in range(3):
            with pytest.raises(NotFoldableError, match="read by more"):
                verified_weights(probe)
    assert len(calls) == 2


def tokens(factory: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    return networks.made(factory).double().eval(), networks.token_ids(20)


class Bag(nn.Module):
    def __init__(self, mode: str, **more: Any) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(networks.VOCABULARY, 8, mode=mode, **more)
        self.head = nn.Linear(8, networks.CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.embedding(ids)))


class Positions(networks.Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(6, 8)

    def forward(self, ids: Tensor) -> Tensor:
        seen = self.embedding(ids) + self.position(torch.arange(ids.shape[1]))
        return self.head(torch.relu(self.hidden(seen.mean(dim=1))))


class ImagePositions(nn.Module):
    """An embedding of places beside float inputs: what it adds is a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.position = nn.Conv2d(3, 4, 4, 4), nn.Embedding(4, 4)
        self.head = nn.Linear(4, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position(torch.arange(4))
        return self.head(torch.relu(tokens).mean(dim=1))


@pytest.mark.parametrize("factory", [networks.Tokens, lambda: Bag("sum"), lambda: Bag("mean")])
def test_an_embedding_counts_as_the_linear_map_of_one_hot_inputs(factory: Callable[[], nn.Module]) -> None:
    model, ids = tokens(factory)
    matrices = [model.embedding.weight.detach().T]
    matrices += [m.weight.detach() for m in model.modules() if isinstance(m, nn.Linear)]
    moved = networks.made(factory, seed=5).double().requires_grad_(False)
    with probing(model, ids, TARGETS, initial_state=copy_state(moved), train_samples=50) as probe:
        norms, products, moves, rows = norm(probe), norm_product(probe), distance(probe), complexity(probe)
        assert next(iter(verified_weights(probe))) == "embedding"
    spectral = sum(2 * torch.linalg.svdvals(matrix)[0].log().item() for matrix in matrices)
    assert norms["norm/log_product_spectral"] == pytest.approx(spectral, rel=1e-6)
    frobenius = sum(matrix.square().sum().log().item() for matrix in matrices)
    assert norms["norm/log_product_frobenius"] == pytest.approx(frobenius, rel=1e-9)
    largest = sum(max(float(unit.abs().sum()) for unit in matrix) for matrix in matrices[:1])
    rest = [max(float(unit.abs().sum()) for unit in matrix) for matrix in matrices[1:]]
    expected = torch.tensor([largest, *rest]).double().log().sum().item()
    assert products["norm_product/log_1_infinity"] == pytest.approx(expected, rel=1e-6)
    start = [moved.embedding.weight.T, *(m.weight for m in moved.modules() if isinstance(m, nn.Linear))]
    gone = sum(float((now - then).square().sum()) for now, then in zip(matrices, start, strict=True))
    assert moves["distance/frobenius"] == pytest.approx(gone, rel=1e-9)
    assert rows["complexity/parameters"] == sum(matrix.numel() for matrix in matrices)
    assert rows["complexity/log_product_spectral_reshaped"] == pytest.approx(spectral, rel=1e-6)
    assert rows["complexity/log_product_spectral_fft"] == pytest.approx(spectral, rel=1e-6)


def test_scale_moved_between_embedding_and_layer_is_not_seen() -> None:
    model, ids = tokens(networks.Tokens)
    products = []
    for _ in range(2):
        with probing(model, ids, TARGETS) as probe:
            products.append(norm(probe)["norm/log_product_spectral"])
        with torch.no_grad():
            model.embedding.weight *= 5
            model.hidden.weight /= 5
    assert products[1] == pytest.approx(products[0], rel=1e-6)


@pytest.mark.parametrize(
    ("factory", "inputs", "reason"),
    [
        (Positions, networks.token_ids(20), "'embedding' is not the only call of an embedding"),
        (ImagePositions, networks.images(20).double(), "'position' does not map the inputs"),
        (lambda: Bag("max"), networks.token_ids(20), "EmbeddingBag 'embedding' is no linear map"),
        (lambda: Bag("sum", max_norm=1.0), networks.token_ids(20), "EmbeddingBag 'embedding' is no linear map"),
        (networks.VisionTransformer, networks.images(20).double(), "parameters outside its layers"),
    ],
)
def test_embeddings_without_such_a_map_and_positions_are_refused(
    factory: Callable[[], nn.Module], inputs: Tensor, reason: str
) -> None:
    assert reason in str(refusal(networks.made(factory), inputs))
