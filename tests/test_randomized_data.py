from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.errors import ConfigurationError, DataError, GapError
from lightning_gengap.randomized_data import (
    Randomized,
    channel_statistics,
    corrupted_labels,
    gaussian_inputs,
    random_labels,
    random_pixels,
    shuffled_pixels,
)
from tests.lightning_models import TinyModel, blobs, quiet_trainer

COUNT, CLASSES = 2000, 5


def data(count: int = COUNT, shape: tuple[int, ...] = (3, 4, 5), seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, *shape, generator=generator) * 2 + 7
    return TensorDataset(images, torch.randint(CLASSES, (count,), generator=generator))


def labels(dataset: Any) -> Tensor:
    return torch.tensor([int(dataset[i][1]) for i in range(len(dataset))])


def images(dataset: Any) -> Tensor:
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


def gaussian(dataset: Any, seed: int = 0) -> Randomized:
    return gaussian_inputs(dataset, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 0.0]), seed)


WRAPPERS: dict[str, Callable[..., Randomized]] = {
    "corrupted": lambda dataset, seed=0: corrupted_labels(dataset, CLASSES, 0.5, seed),
    "random": lambda dataset, seed=0: random_labels(dataset, CLASSES, seed),
    "shuffled": shuffled_pixels,
    "pixels": random_pixels,
    "gaussian": gaussian,
}
each = pytest.mark.parametrize("name", WRAPPERS)


def same(first: Randomized, second: Randomized) -> bool:
    return torch.equal(images(first), images(second)) and torch.equal(labels(first), labels(second))


@each
def test_seeded_constant_over_epochs_and_without_using_a_random_stream(name: str) -> None:
    wrapped = WRAPPERS[name](data(50), seed=1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert same(wrapped, wrapped)
    assert same(wrapped, WRAPPERS[name](data(50), seed=1))
    assert not same(wrapped, WRAPPERS[name](data(50), seed=2))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]


@each
def test_an_item_depends_on_its_index_only(name: str) -> None:
    wrapped = WRAPPERS[name](data(30))
    shuffled = [wrapped[i] for i in (7, 3, 29, 7)]
    assert torch.equal(shuffled[0][0], shuffled[3][0])
    assert torch.equal(wrapped[-1][0], shuffled[2][0])
    assert len(list(wrapped)) == len(wrapped) == 30
    with pytest.raises(IndexError, match="index 30 of a data set of 30"):
        wrapped[30]


@each
def test_it_pickles_and_loads(name: str) -> None:
    wrapped = WRAPPERS[name](data(12))
    assert same(pickle.loads(pickle.dumps(wrapped)), wrapped)
    batches = list(DataLoader(wrapped, batch_size=5))
    assert [len(batch[1]) for batch in batches] == [5, 5, 2]
    assert batches[0][1].dtype == torch.int64


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.7, 1.0])
def test_the_share_of_changed_labels(probability: float) -> None:
    plain = data()
    found = labels(corrupted_labels(plain, CLASSES, probability, seed=3))
    changed = float((found != labels(plain)).double().mean())
    expected = probability * (1 - 1 / CLASSES)
    assert abs(changed - expected) <= 4 * np.sqrt(expected * (1 - expected) / COUNT)
    assert torch.equal(images(corrupted_labels(plain, CLASSES, probability))[:20], images(plain)[:20])


def test_random_labels_are_uniform_and_independent_of_the_true_ones() -> None:
    plain = data()
    found, true = labels(random_labels(plain, CLASSES)), labels(plain)
    table = torch.zeros(CLASSES, CLASSES).index_put_((true, found), torch.ones(COUNT), accumulate=True)
    expected = COUNT / CLASSES**2
    assert float(((table - expected) ** 2 / expected).sum()) < 50  # chi square with at most 24 degrees of freedom
    assert found.unique().tolist() == list(range(CLASSES))


def test_more_corruption_keeps_what_less_has_changed() -> None:
    plain = data(300)
    less, more = (labels(corrupted_labels(plain, CLASSES, p)) for p in (0.3, 0.6))
    changed = less != labels(plain)
    assert torch.equal(more[changed], less[changed])


@pytest.mark.parametrize("wrap", [shuffled_pixels, random_pixels])
@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5), (20,)])
def test_pixels_are_permuted_with_their_channels(wrap: Callable[..., Randomized], shape: tuple[int, ...]) -> None:
    plain = data(20, shape)
    wrapped = wrap(plain)
    channels = shape[0] if len(shape) == 3 else 1
    before, after = (images(d).reshape(20, channels, -1).transpose(1, 2).tolist() for d in (plain, wrapped))
    assert [sorted(image) for image in before] == [sorted(image) for image in after]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert torch.equal(labels(plain), labels(wrapped))
    assert images(wrapped).shape == images(plain).shape


def order(dataset: Any, index: int) -> list[int]:
    return dataset[index][0][0].flatten().long().tolist()


def test_one_permutation_for_all_images_of_training_and_test_set_or_one_for_each() -> None:
    numbered = torch.arange(20).float().reshape(1, 1, 4, 5).expand(10, 3, -1, -1)
    train, test = TensorDataset(numbered, torch.zeros(10).long()), TensorDataset(numbered[:4], torch.ones(4).long())
    one = order(shuffled_pixels(train, seed=5), 0)
    assert sorted(one) == list(range(20))
    assert all(order(shuffled_pixels(train, seed=5), i) == one for i in range(10))
    assert all(order(shuffled_pixels(test, seed=5), i) == one for i in range(4))
    assert order(shuffled_pixels(train, seed=6), 0) != one
    orders = [order(random_pixels(train, seed=5), i) for i in range(10)]
    assert len({tuple(found) for found in orders}) == 10


def test_gaussian_inputs_have_the_mean_and_deviation_of_the_data() -> None:
    plain = data(300)
    mean, deviation = channel_statistics(plain)
    stacked = images(plain).double()
    torch.testing.assert_close(mean, stacked.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(deviation, stacked.std(dim=(0, 2, 3), correction=0))
    drawn = images(gaussian_inputs(plain, mean, deviation)).double()
    error = 4 * float(deviation.max()) / np.sqrt(300 * 20)
    assert float((drawn.mean(dim=(0, 2, 3)) - mean).abs().max()) < error
    assert float((drawn.std(dim=(0, 2, 3)) - deviation).abs().max()) < error
    assert abs(float(torch.corrcoef(torch.stack([drawn.flatten(), stacked.flatten()]))[0, 1])) < 0.05
    assert images(gaussian_inputs(plain, mean, deviation)).dtype == torch.float32
    assert bool((images(gaussian(plain))[:, 2] == 3).all())


class Bare:
    """A data set of items that are not pairs of a tensor and a label."""

    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.item


ONE_HOT = Bare((torch.ones(2, 2), torch.eye(4)[1]))


def test_labels_that_are_all_replaced_may_be_anything() -> None:
    assert 0 <= random_labels(ONE_HOT, 4)[0][1] < 4


def test_an_index_may_be_of_numpy() -> None:
    assert shuffled_pixels(data(3))[np.int64(-1)][1] == int(data(3)[2][1])


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda: corrupted_labels(data(3), CLASSES, 1.5),
            ConfigurationError,
            r"probability: got 1.5; expected a number",
        ),
        (lambda: corrupted_labels(data(3), CLASSES, float("nan")), ConfigurationError, "probability: got nan"),
        (lambda: random_labels(data(3), 1), ConfigurationError, "classes: got 1; expected an integer of at least 2"),
        (lambda: shuffled_pixels(data(3), seed=-1), ConfigurationError, "seed: got -1; expected a non-negative"),
        (lambda: random_pixels(iter([])), ConfigurationError, "dataset: got list_iterator; expected a map-style"),
        (lambda: gaussian_inputs(data(3), torch.zeros(3), -torch.ones(3)), ConfigurationError, "deviation: got"),
        (lambda: gaussian_inputs(data(3), torch.full((3,), torch.nan), torch.ones(3)), ConfigurationError, "mean: got"),
        (lambda: gaussian_inputs(data(3), torch.zeros(2), torch.ones(2))[0], ConfigurationError, "2 and 2 values"),
        (lambda: channel_statistics(data(0)), DataError, "got no sample"),
        (lambda: shuffled_pixels(Bare((3, 4)))[0], DataError, "image: got int; expected a float tensor"),
        (lambda: corrupted_labels(data(3), CLASSES, "a"), ConfigurationError, "probability: got a; expected a number"),  # type: ignore[arg-type]
        (lambda: corrupted_labels(data(3), CLASSES, None), ConfigurationError, "probability: got None; expected"),  # type: ignore[arg-type]
        (lambda: corrupted_labels(data(3), CLASSES, True), ConfigurationError, "probability: got True; expected"),
        (lambda: random_pixels(data(3))[0:2], ConfigurationError, r"got slice\(0, 2, None\); expected one integer"),  # type: ignore[index]
        (lambda: random_pixels(data(3))[[0, 1]], ConfigurationError, r"got \[0, 1\]; expected one integer.*Subset"),  # type: ignore[index]
        (lambda: random_pixels(data(3))[torch.arange(2)], ConfigurationError, "expected one integer"),  # type: ignore[index]
        (lambda: random_pixels(data(3))[1.5], ConfigurationError, "got 1.5; expected one integer"),  # type: ignore[index]
        (lambda: gaussian_inputs(data(3), "a", torch.ones(3)), ConfigurationError, "mean: got 'a'; expected finite"),  # type: ignore[arg-type]
        (lambda: gaussian_inputs(data(3), torch.ones(3), None), ConfigurationError, "deviation: got None; expected"),  # type: ignore[arg-type]
        (lambda: gaussian_inputs(data(3), [1.0, "a"], torch.ones(2)), ConfigurationError, "mean: got .*expected"),  # type: ignore[arg-type]
        (lambda: gaussian_inputs(data(3), torch.ones(3) * 1j, torch.ones(3)), ConfigurationError, "mean: got"),
        (lambda: corrupted_labels(ONE_HOT, 4, 0.01)[0], DataError, r"label: got a Tensor of shape \(4,\); .*argmax"),
        (lambda: shuffled_pixels(ONE_HOT)[0], DataError, r"got a Tensor of shape \(4,\); expected one class index"),
        (lambda: random_labels(Bare(torch.ones(3)), 2)[0], DataError, "got an item of type Tensor; expected pairs"),
    ],
)
def test_bad_arguments_are_refused(attempt: Callable[[], Any], error: type[GapError], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()


@pytest.mark.filterwarnings("ignore:.* is absent")
def test_the_lines_in_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (lines,) = (block for block in readme.split("```python\n") if "randomized_data." in block.partition("```")[0])
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "train_set": blobs(),
        "trainer": quiet_trainer(),
        "model": TinyModel(classes=10),
        "other_model": TinyModel(classes=10),
        "DataLoader": DataLoader,
    }
    exec(lines.partition("```")[0], names)
    assert capsys.readouterr().out.count("'margin/h1/total_variation'") == 2
    assert labels(names["random_set"]).unique().tolist() == list(range(10))
