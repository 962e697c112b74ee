from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.values import Histogram
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import Measured, measured

SAMPLES = 500


def with_right_labels(model: nn.Module, images: Tensor, **more: object) -> Measured:
    with torch.no_grad():
        targets = model.eval()(images).argmax(1)
    return measured("bartlett", model, images, targets, **{"train_samples": SAMPLES, **more})


NO_SHORTCUTS = {"margin/bartlett_identity": "without shortcuts it is margin/bartlett"}


Matrix = tuple[np.ndarray, np.ndarray]  # A and its reference M


def log_complexity(pairs: Sequence[Matrix], images: Tensor) -> float:
    """log R |X|_2 / n of dense matrices."""
    spectral = [np.linalg.norm(a, 2) for a, _ in pairs]
    groups = [sum(np.linalg.norm(row) for row in a - m) for a, m in pairs]
    total = sum((group / norm) ** (2 / 3) for group, norm in zip(groups, spectral, strict=True)) ** 1.5
    size = np.sqrt(np.mean([np.linalg.norm(image) ** 2 for image in images.numpy().reshape(len(images), -1)]))
    return math.log(np.prod(spectral) * total * size / np.sqrt(SAMPLES))


def plain(matrix: np.ndarray) -> Matrix:
    return matrix, np.zeros_like(matrix)


def test_a_dense_network_against_numpy() -> None:
    model, images = networks.made(networks.mlp).double(), networks.images(30).double()
    targets = networks.mostly_right_targets(model, images)
    values, absent, *_ = measured("bartlett", model, images, targets, train_samples=SAMPLES)
    scale = log_complexity([plain(layer.weight.detach().numpy()) for layer in model[1::2]], images)
    gaps = logit_gap(model(images), targets).detach().numpy()
    quantiles = {"q05": 0.05, "q10": 0.1, "median": 0.5}
    expected = {f"bartlett/log_complexity{suffix}": scale for suffix in ("", "_identity")}
    for prefix in ("", "identity_"):
        for name, level in quantiles.items():
            expected[f"bartlett/{prefix}{name}"] = np.quantile(gaps, level) / math.exp(scale)
    assert absent == NO_SHORTCUTS
    assert values == pytest.approx(expected, rel=1e-6)
    assert values["bartlett/q05"] < 0, "some labels are wrong"


def around(branch: Sequence[np.ndarray], projection: np.ndarray | None = None) -> list[Matrix]:
    """The matrices of a block on the state (what passes by, what the layers made)."""
    one = np.eye(branch[-1].shape[0])
    if len(branch) == 1:
        return [(one + branch[0], one)]
    beside = np.eye(branch[0].shape[1]) if projection is None else projection
    reference = beside if projection is None else np.zeros_like(beside)
    first = np.vstack([beside, branch[0]]), np.vstack([reference, np.zeros_like(branch[0])])
    last = np.hstack([one, branch[-1]]), np.hstack([one, np.zeros_like(branch[-1])])
    return [first, *((diagonal(one, w), diagonal(one, np.zeros_like(w))) for w in branch[1:-1]), last]


def diagonal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    corner = np.zeros((first.shape[0], second.shape[1])), np.zeros((second.shape[0], first.shape[1]))
    return np.block([[first, corner[0]], [corner[1], second]])


class DenseResidual(nn.Module):
    """Blocks of one, two and three dense layers beside an identity, and one of two beside a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(192, 6)
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Linear(6, 6) for _ in range(count)) for count in (1, 2, 3))
        self.first, self.second, self.beside = nn.Linear(6, 5), nn.Linear(5, 7), nn.Linear(6, 7)
        self.head = nn.Linear(7, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images.flatten(1)))
        for block in self.blocks:
            y = x
            for i, layer in enumerate(block):
                y = layer(torch.relu(y) if i else y)
            x = torch.relu(x + y)
        x = torch.relu(self.second(torch.relu(self.first(x))) + self.beside(x))
        return self.head(x)


def test_shortcuts_around_dense_layers_against_numpy() -> None:
    model, images = networks.made(DenseResidual).double(), networks.images(30).double()
    with torch.no_grad():
        for block in model.blocks:
            block[0].weight *= 3  # norms on both sides of one
    weight = {name: m.weight.detach().numpy() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    pairs = [plain(weight["stem"])]
    for i, count in enumerate((1, 2, 3)):
        pairs += around([weight[f"blocks.{i}.{j}"] for j in range(count)])
    pairs += [*around([weight["first"], weight["second"]], weight["beside"]), plain(weight["head"])]
    values, absent, *_ = with_right_labels(model, images)
    expected = log_complexity(pairs, images)
    assert absent == {}
    # The power iteration has not fully converged after its fifty steps.
    assert values["bartlett/log_complexity_identity"] == pytest.approx(expected, abs=2e-3)
    zero = log_complexity([plain(matrix) for matrix in weight.values()], images)
    assert values["bartlett/log_complexity"] == pytest.approx(zero, abs=1e-6)
    gaps = logit_gap(model(images), model(images).argmax(1)).detach().numpy()
    scale = math.exp(values["bartlett/log_complexity_identity"])
    assert values["bartlett/identity_q10"] == pytest.approx(np.quantile(gaps, 0.1) / scale, rel=1e-9)


def test_the_matrices_of_a_block_are_the_block() -> None:
    """The oracle itself: with a ReLU on the layers' part of the state the matrices compute the sum."""
    rng = np.random.default_rng(0)
    branch, x = [rng.normal(size=(4, 3)), rng.normal(size=(5, 4)), rng.normal(size=(3, 5))], rng.normal(size=3)
    made = branch[2] @ np.maximum(branch[1] @ np.maximum(branch[0] @ x, 0), 0)
    state = x
    for i, (matrix, _) in enumerate(around(branch)):
        state = matrix @ state
        if i < 2:
            state = np.concatenate([state[:3], np.maximum(state[3:], 0)])
    np.testing.assert_allclose(state, x + made)


def test_shortcuts_around_convolutions_count_as_dense_operators() -> None:
    model, images = networks.made(networks.ResNet).double(), networks.images(10).double()
    matrix = lambda layers, shape: measure_oracles.affine(layers, shape)[0]  # noqa: E731
    pairs = [plain(matrix([model.conv1, model.bn1], (3, 8, 8)))]
    for block, shape, inner in (
        (model.layer1, (6, 8, 8), (6, 8, 8)),
        (model.layer2, (6, 8, 8), (8, 4, 4)),
        (model.layer3, (8, 4, 4), (8, 4, 4)),
    ):
        branch = [matrix([block.conv1, block.bn1], shape), matrix([block.conv2, block.bn2], inner)]
        beside = None if isinstance(block.shortcut, nn.Identity) else matrix([block.shortcut], shape)
        pairs += around(branch, beside)
    pairs.append(plain(model.fc.weight.detach().numpy()))
    values, absent, *_ = with_right_labels(model, images)
    assert absent == {}
    expected = log_complexity(pairs, images)
    assert values["bartlett/log_complexity_identity"] == pytest.approx(expected, abs=2e-2)
    assert values["bartlett/log_complexity_identity"] != pytest.approx(values["bartlett/log_complexity"], abs=0.1)


class Joined(nn.Module):
    """Two layers whose outputs meet as `join` says."""

    def __init__(self, join: Callable[[nn.Module, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.join, self.head = join, nn.Linear(width, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images.flatten(1)))
        return self.head(torch.relu(self.join(self, x)))


def gated(net: nn.Module, x: Tensor) -> Tensor:
    return net.two(net.one(x).sigmoid() * x)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "concatenation": lambda: Joined(lambda net, x: torch.cat([net.two(net.one(x)), x], dim=1), width=12),
    "gate": lambda: Joined(gated),
    "two layers side by side": lambda: Joined(lambda net, x: net.one(x) + net.two(x)),
    "an activation in the branch's end": lambda: Joined(lambda net, x: x + torch.relu(net.two(net.one(x)))),
    "an activation in front": lambda: Joined(lambda net, x: x + net.two(net.one(torch.tanh(x)))),
    "an activation beside": lambda: Joined(lambda net, x: torch.tanh(x) + net.two(net.one(x))),
    "a difference": lambda: Joined(lambda net, x: x - net.two(net.one(x))),
    "a scaled sum": lambda: Joined(lambda net, x: torch.add(x, net.two(net.one(x)), alpha=2)),
    "shortcut in shortcut": lambda: Joined(lambda net, x: x + net.two(x + net.one(x))),
    "three readers": lambda: Joined(lambda net, x: x + net.one(x) + net.two(x)),
    "broadcast": lambda: Joined(lambda net, x: x + net.two(net.one(x)) + net.head.bias.new_zeros(2, 1, 1)[0]),
}


@pytest.mark.parametrize("kind", sorted(set(OTHERS) - {"broadcast"}))
def test_where_tensors_meet_in_other_ways_there_are_no_identities(kind: str) -> None:
    values, absent, *_ = with_right_labels(networks.made(OTHERS[kind]).double(), networks.images(10).double())
    assert set(values) == {f"bartlett/{name}" for name in ("q05", "q10", "median", "log_complexity")}
    assert set(absent) == {"bartlett/identity_*", "bartlett/log_complexity_identity", "margin/bartlett_identity"}
    assert len(set(absent.values())) == 1


def test_a_sum_with_a_constant_is_a_bias() -> None:
    values, absent, *_ = with_right_labels(networks.made(OTHERS["broadcast"]).double(), networks.images(10).double())
    assert "bartlett/log_complexity_identity" in values
    assert absent == {}


def test_the_margins_of_all_samples_have_the_quantiles() -> None:
    for factory, names in ((networks.cnn, ["bartlett"]), (networks.ResNet, ["bartlett", "bartlett_identity"])):
        model, images = networks.made(factory).double().eval(), networks.images(20).double()
        targets = networks.mostly_right_targets(model, images)
        values, _, shown, _ = measured("bartlett", model, images, targets, train_samples=500)
        assert list(shown) == [f"margin/{name}" for name in names]
        for name, prefix in zip(names, ("", "identity_"), strict=False):
            figure = shown[f"margin/{name}"]
            assert isinstance(figure, Histogram)
            assert figure.samples.shape == (20,)
            median = float(figure.samples.quantile(0.5))
            assert median == pytest.approx(values[f"bartlett/{prefix}median"], rel=1e-9)


def test_convolutions_count_as_dense_operators() -> None:
    model, images = networks.made(networks.cnn_with_batch_norm).double(), networks.images(10).double()
    matrices = [measure_oracles.affine([model[i], model[i + 1]], (model[i].in_channels, 8, 8))[0] for i in (0, 3, 6)]
    expected = log_complexity([plain(matrix) for matrix in (*matrices, model[-1].weight.detach().numpy())], images)
    # The power iteration has not fully converged after its fifty steps.
    assert with_right_labels(model, images).values["bartlett/log_complexity"] == pytest.approx(expected, abs=2e-2)


def test_the_number_of_monitored_samples_does_not_matter_but_that_of_training_samples_does() -> None:
    model, images = networks.made(networks.mlp).double(), networks.images(20).double()
    once, twice, more = (
        with_right_labels(model, inputs, **other).values["bartlett/log_complexity"]
        for inputs, other in (
            (images, {}),
            (torch.cat([images, images]), {"chunk": 7}),
            (images, {"train_samples": 4 * SAMPLES}),
        )
    )
    assert twice == pytest.approx(once, rel=1e-9)
    assert more == pytest.approx(once - math.log(2), rel=1e-9)


UNDEFINED = {
    "the layer 'shared' is called more than once": (networks.Reused, SAMPLES),
    "it needs float inputs of one shape, and the number of training samples": (networks.mlp, None),
}


@pytest.mark.parametrize("reason", UNDEFINED)
def test_what_is_undefined_is_absent_with_a_reason(reason: str) -> None:
    factory, train_samples = UNDEFINED[reason]
    found = with_right_labels(networks.made(factory), networks.images(10), train_samples=train_samples)
    assert found.values == found.figures == {}
    assert found.absent == {"bartlett/*": reason}
