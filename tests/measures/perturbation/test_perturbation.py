from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.perturbation.perturbation import (
    flipped_and_shifted,
    mixes_and_copies,
    perturbation,
    same_class_mixes,
)
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.ranks import Ranks
from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.calling import default_forward
from tests import networks
from tests.network.test_ranks import on_ranks
from tests.probes import measured

KEYS = [f"perturbation/{name}_accuracy" for name in ("mix", "augment", "noise_0.1", "noise_0.3", "noise_0.6")]


def values_of(model: nn.Module, images: Tensor, targets: Tensor, **more: object) -> dict[str, float]:
    return measured("perturbation", model, images, targets, **more).values


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_mix_is_half_an_image_and_half_another_of_its_class() -> None:
    images, targets = networks.images(40).double(), torch.arange(40) % 3
    mixes = same_class_mixes([images], targets, generator())(0)
    assert mixes.shape == images.shape
    partners = 2 * mixes - images
    found = torch.cdist(partners.flatten(1), images.flatten(1)).min(dim=1)
    assert float(found.values.max()) < 1e-6
    assert torch.equal(targets[found.indices], targets)
    assert not bool((found.indices == torch.arange(40)).any())
    assert sorted(found.indices.tolist()) == list(range(40))
    assert not torch.equal(same_class_mixes([images], targets, generator(1))(0), mixes)


def test_a_class_of_one_is_mixed_with_itself() -> None:
    images, targets = networks.images(5), torch.tensor([0, 0, 0, 0, 1])
    torch.testing.assert_close(same_class_mixes([images], targets, generator())(0)[4], images[4])


@pytest.mark.parametrize(("height", "width", "down", "right"), [(16, 8, 2, 1), (8, 24, 1, 3), (7, 7, 0, 0)])
def test_images_are_flipped_and_shifted_by_up_to_an_eighth(height: int, width: int, down: int, right: int) -> None:
    images = torch.randn(200, 2, height, width, generator=generator(1))
    moved = flipped_and_shifted(images, generator())
    assert moved.shape == images.shape
    padded = nn.functional.pad(images, (right, right, down, down))
    flipped = nn.functional.pad(images.flip(3), (right, right, down, down))
    seen = set()
    for i, image in enumerate(moved):
        for y in range(2 * down + 1):
            for x in range(2 * right + 1):
                for flip, source in enumerate((padded, flipped)):
                    if torch.equal(image, source[i, :, y : y + height, x : x + width]):
                        seen.add((i, y, x, flip))
    assert {i for i, *_ in seen} == set(range(200))
    assert {(y, x, flip) for _, y, x, flip in seen} == {
        (y, x, flip) for y in range(2 * down + 1) for x in range(2 * right + 1) for flip in (0, 1)
    }


def test_the_values_are_accuracies_on_perturbed_images() -> None:
    model, images = networks.made(networks.mlp).eval(), networks.images(60)
    targets = networks.mostly_right_targets(model, images)
    stream = generator(3)
    inputs = [same_class_mixes([images], targets, stream)(0), flipped_and_shifted(images, stream)]
    noise = torch.randn(images.shape, generator=stream)
    deviation = images.double().var(dim=0, correction=0).sqrt().float()
    inputs += [images + level * deviation * noise for level in (0.1, 0.3, 0.6)]
    with torch.no_grad():
        expected = [float((model(perturbed).argmax(1) == targets).double().mean()) for perturbed in inputs]
    assert values_of(model, images, targets, chunk=17, seed=3) == pytest.approx(dict(zip(KEYS, expected, strict=True)))


@pytest.mark.parametrize("sizes", [[40], [1, 25, 14], [7] * 5 + [5]])
def test_batches_are_changed_as_all_images_together_are(sizes: list[int]) -> None:
    images, targets = networks.images(40), torch.arange(40) % 3
    together = mixes_and_copies([images], targets, generator(3))
    for name, made in mixes_and_copies(images.split(sizes), targets, generator(3)).items():
        assert torch.equal(torch.cat([made(place) for place in range(len(sizes))]), together[name](0))


def test_without_room_for_the_noise_only_the_accuracies_under_noise_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = networks.made(networks.mlp), networks.images(40)
    targets = networks.mostly_right_targets(model, images)
    everything = values_of(model, images, targets)
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 2**14)
    found = measured("perturbation", model, images, targets)
    assert found.values == {key: value for key, value in everything.items() if "noise" not in key}
    (reason,) = found.absent.values()
    assert set(found.absent) == {"perturbation/noise_*_accuracy"}
    assert "noise for all images would not fit into memory: they take" in reason
    assert reason.endswith("use fewer samples")
    found = measured("augmentation", model, images, targets)
    assert "changed copies of the images would not fit into memory" in found.absent["augmentation/*"]


def test_where_one_of_several_ranks_has_no_room_for_the_noise_none_has(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = networks.made(networks.mlp).eval(), networks.images(40)
    targets = networks.mostly_right_targets(model, images)
    everything = values_of(model, images, targets, chunk=20)
    batches = tuple(read_batch((images[rows], targets[rows])) for rows in (slice(0, 20), slice(20, 40)))
    layout, this_thread = Layout.of(model, batches[0], default_forward), threading.local()
    monkeypatch.setattr(
        "lightning_gengap.derivatives.memory.available", lambda: 2**14 if this_thread.rank == 1 else None
    )

    def run(ranks: Ranks) -> Any:
        this_thread.rank = ranks.rank
        probe = Probe(model=model, batches=batches, layout=layout, ranks=ranks)
        with probe.step():
            return perturbation(probe)

    for rank, values in enumerate(on_ranks(2, run)):
        absent = values.pop("perturbation/noise_*_accuracy")
        assert isinstance(absent, Undefined)
        assert absent.reason.startswith("noise for all images" if rank == 1 else "it does not exist on another rank")
        assert values == {key: value for key, value in everything.items() if "noise" not in key}


@pytest.mark.parametrize("name", ["perturbation", "augmentation", "perturbed_margin", "separability"])
def test_absent_for_inputs_that_are_no_images(name: str) -> None:
    targets = torch.arange(20) % 4
    plain = "the inputs are not images of one size"
    for factory, inputs, reason in (
        (networks.mlp, networks.images(20).flatten(1), plain),
        (networks.Tokens, networks.token_ids(20), f"{plain}: the inputs are not floats"),
    ):
        found = measured(name, networks.made(factory), inputs, targets)
        assert (found.values, found.absent) == ({}, {f"{name}/*": reason})


def test_only_wanted_accuracies_are_measured_and_equal_those_of_a_full_measurement():
    model = networks.made(networks.cnn_with_batch_norm)
    inputs = networks.images(40)
    targets = networks.mostly_right_targets(model, inputs)
    everything = values_of(model, inputs, targets)
    for key in everything:
        assert values_of(model, inputs, targets, wanted=frozenset({key})) == {key: everything[key]}
