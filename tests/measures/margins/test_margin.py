from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures import compute
from lightning_gengap.measures.activations import DIFFERING
from lightning_gengap.measures.margins.margin import Signature, margin_signature
from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.values import Histogram
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.ranks import Ranks
from tests import networks, oracles
from tests.network.test_ranks import on_ranks
from tests.probes import measured, probing, read

COUNT = 30
FACTORIES = [
    networks.linear,
    networks.mlp,
    networks.cnn_with_batch_norm,
    networks.ResNet,
    networks.VisionTransformer,
    networks.Reused,
    networks.Recurrent,
    networks.FunctionalStages,
]
named = pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
Task = tuple[nn.Module, Tensor, Tensor]


def task(factory: Callable[[], nn.Module], count: int = COUNT, dtype: torch.dtype = torch.float64) -> Task:
    model, images = networks.made(factory).double(), networks.images(count).double()
    targets = networks.mostly_right_targets(model, images)
    return model.to(dtype), images.to(dtype), targets


def values_of(model: nn.Module, images: Tensor, targets: Tensor, **more: object) -> dict[str, float]:
    return measured("margin", model, images, targets, **more).values


def signed(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    with probing(model, images, targets) as probe:
        return {layer: metric.margins() for layer, metric in margin_signature(probe).layers.items()}


@named
def test_margins_are_those_of_one_sample_and_one_layer_at_a_time(factory: Callable[[], nn.Module]) -> None:
    model, images, targets = task(factory)
    values = values_of(model, images, targets, chunk=7)
    with probing(model, images, targets, chunk=7) as probe:
        taps = {"input": "input"} | {tap.layer: str(tap) for tap in probe.layout.taps}
        layers = margin_signature(probe).layers
    assert list(layers) == list(taps)
    for layer, tap in taps.items():
        variation = oracles.total_variation(model.eval(), tap, images)
        expected = oracles.distances(model, tap, images, targets) / variation
        np.testing.assert_allclose(layers[layer].margins().numpy(), expected, rtol=1e-9)
        assert values[f"margin/{layer}/total_variation"] == pytest.approx(variation, rel=1e-9)
        for name, value in oracles.tukey([d for d in expected.tolist() if d > 0]).items():
            assert values[f"margin/{layer}/{name}"] == pytest.approx(value, rel=1e-9)


@named
def test_float32_is_near_float64(factory: Callable[[], nn.Module]) -> None:
    model, images, targets = task(factory, count=100)
    with probing(model, images, targets) as probe:
        clear = logit_gap(margin_signature(probe).logits, targets).abs() > 1e-3
    exact = signed(model, images, targets)
    single = signed(model.float(), images.float(), targets)
    assert int(clear.sum()) > 80
    for layer, values in exact.items():
        torch.testing.assert_close(single[layer][clear], values[clear], rtol=1e-3, atol=0)


def test_the_point_moved_by_its_margin_lies_on_the_boundary() -> None:
    model, images, targets = task(networks.linear)
    with probing(model, images, targets) as probe:
        distances = torch.cat(margin_signature(probe).layers["input"].distances)
    weight = model[1].weight.detach()
    logits = model(images).detach()
    others = logits.scatter(1, targets[:, None], -torch.inf).argmax(1)
    normals = nn.functional.normalize(weight[targets] - weight[others])
    moved = images - (distances[:, None] * normals).reshape(images.shape)
    assert logit_gap(model(moved), targets).abs().max() < 1e-9


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_scaling_the_logits_to_the_ends_of_float32_changes_nothing(scale: float) -> None:
    model, images, targets = task(networks.cnn_with_batch_norm, dtype=torch.float32)
    before = signed(model, images, targets)
    with torch.no_grad():
        model[-1].weight *= scale
        model[-1].bias *= scale
    for layer, values in signed(model, images, targets).items():
        torch.testing.assert_close(values, before[layer], rtol=1e-4, atol=0)


def test_an_inplace_network_has_the_values_of_its_twin() -> None:
    values = []
    for inplace in (True, False):
        model, images, targets = task(lambda inplace=inplace: networks.VGG(inplace))
        values.append(values_of(model, images, targets, layers=["features.1", "features.4:in", "classifier.1"]))
    assert values[0] == values[1]


def test_misclassified_samples_are_dropped_from_the_statistics_only() -> None:
    model, images, targets = task(networks.mlp)
    margins = signed(model, images, targets)["h1"]
    values = values_of(model, images, targets)
    wrong = torch.arange(COUNT) % 5 == 0
    assert bool((margins[wrong] < 0).all())
    assert values["margin/correct_fraction"] == pytest.approx(0.8)
    assert values["margin/h1/median"] == pytest.approx(float(margins[~wrong].median()), rel=0.2)
    right = values_of(model, images[~wrong], targets[~wrong])
    scale = right["margin/h1/total_variation"] / values["margin/h1/total_variation"]
    assert values["margin/h1/q1"] == pytest.approx(right["margin/h1/q1"] * scale, rel=1e-9)


def test_a_layer_that_the_logits_ignore_is_absent_with_a_note() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = networks.made(lambda: networks.mlp([16, 8])), nn.Linear(4, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images).detach())

    model, images = networks.made(Detached), networks.images(20)
    found = measured("margin", model, images, networks.mostly_right_targets(model, images))
    assert list(found.figures) == ["margin/h3"]
    ignored = "no gradient of the logits arrives there; the forward detaches it, or has no gradients in eval mode"
    apart = "no tensor before the input of head, the last layer, is on every path of gradients to the logits"
    assert found.absent == {"margin/input*": ignored, "margin/h1*": apart, "margin/h2*": apart}


def test_with_few_correct_samples_the_total_variation_alone_is_given() -> None:
    model, images = networks.made(networks.mlp).eval(), networks.images(20)
    logits = model(images).detach()
    targets = torch.where(torch.arange(20) < 9, logits.argmax(1), logits.argmin(1))
    found = measured("margin", model, images, targets)
    given = {key for key in found.values if key.startswith("margin/h1")}
    assert given == {"margin/h1/total_variation"}
    reason = "fewer than 10 samples are classified correctly; the total variation is given"
    assert found.absent == {f"margin/{layer}/*": reason for layer in ("input", "h1", "h2", "h3")}


def test_the_histogram_of_a_layer_holds_the_margins_of_all_samples() -> None:
    model, images, targets = task(networks.mlp)
    figure = measured("margin", model, images, targets, chunk=7).figures["margin/h1"]
    assert isinstance(figure, Histogram)
    torch.testing.assert_close(figure.samples, signed(model, images, targets)["h1"])


def test_a_model_without_float_inputs_or_hidden_layers_has_output_margins_only() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.EmbeddingBag(networks.VOCABULARY, networks.CLASSES)

        def forward(self, ids: Tensor) -> Tensor:
            return self.embedding(ids)

    ids = networks.token_ids(20)
    values, absent, figures, _ = measured("margin", networks.made(Bag), ids, torch.arange(20) % 4)
    assert {key.split("/")[1] for key in values} == {"output", "correct_fraction"}
    assert figures == {}
    none = "the forward calls no linear or convolutional module; layers=[...] can name others to watch"
    assert absent == {"margin/input*": "the inputs are not floats", **{f"margin/h{i}*": none for i in (1, 2, 3)}}


def test_gradients_that_vanish_are_no_mistakes() -> None:
    class Signs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = networks.cnn()[:2], nn.Linear(networks.cnn()[0].out_channels * 64, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images).sign().flatten(1))

    model, images = networks.made(Signs), networks.images(20)
    absent = measured("margin", model, images, networks.mostly_right_targets(model, images)).absent
    assert absent["margin/input/*"].startswith("fewer than 10 samples have a gradient of the logits there")


class Pooling(nn.Module):
    """Takes sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(3, 8, 3, padding=1), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, sequences: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(sequences)).mean(dim=2))))


def padded_apart(probe: Probe) -> Probe:
    """The same with a batch of longer sequences behind it."""
    longer = read(torch.randn(20, 3, 11, generator=torch.Generator().manual_seed(2)).double(), torch.arange(20) % 3)
    return replace(probe, batches=(*probe.batches, *longer))


def of_sequences() -> Task:
    generator = torch.Generator().manual_seed(1)
    return networks.made(Pooling).double(), torch.randn(20, 3, 9, generator=generator).double(), torch.arange(20) % 3


def test_batches_that_are_padded_apart_lack_the_layers_of_other_shapes_alone() -> None:
    with probing(*of_sequences(), layers=["first", "second", "head"]) as probe:
        padded = padded_apart(probe)
        signature = margin_signature(padded)
        assert list(signature.layers) == ["h2", "h3"]
        assert signature.absent == {"input": DIFFERING, "h1": DIFFERING}
        representations = torch.cat([probe.model.first(batch.inputs).tanh().mean(dim=2) for batch in padded.batches])
        expected = probe.model.second(representations).detach().var(dim=0, correction=0).sum().sqrt()
        assert float(signature.layers["h2"].total_variation()) == pytest.approx(float(expected), rel=1e-9)
        values = compute(padded, ["margin", "k_variance"]).values
    assert {"margin/h2/total_variation", "margin/output/median", "k_variance/h2"} <= values.keys()
    assert not {"margin/input/total_variation", "margin/h1/total_variation", "k_variance/h1"} & values.keys()


def test_ranks_agree_on_the_layers_of_other_shapes() -> None:
    def signature_on(ranks: Ranks) -> Signature:
        with probing(*of_sequences(), layers=["first", "second", "head"]) as probe:
            shared = replace(padded_apart(probe), ranks=ranks)
            with shared.step():
                return margin_signature(shared)

    for signature in on_ranks(2, signature_on):
        assert list(signature.layers) == ["h2", "h3"]
        assert signature.absent == {"input": DIFFERING, "h1": DIFFERING}
        assert len(signature.logits) == 40
