"""Samples that look mislabelled, by their index in the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from lightning_gengap import GapMonitor, measure, mislabelled
from lightning_gengap.errors import ConfigurationError, MeasureError
from lightning_gengap.measures.agreement.mislabelled import contradicted, remember, suspects
from tests.lightning_models import TinyModel, blobs, quiet_trainer

WRONG = {3: 2, 50: 1, 71: 0}  # the label that each gets; classes follow each other in turn


def data() -> TensorDataset:
    images, labels = blobs(120).tensors
    labels = labels.clone()
    for index, label in WRONG.items():
        labels[index] = label
    return TensorDataset(images, labels)


def found(suspected: list) -> dict[int, tuple[int, int]]:
    return {each.sample: (each.label, each.suggested) for each in suspected}


EXPECTED = {index: (label, index % 4) for index, label in WRONG.items()}


@pytest.mark.parametrize("form", ["data set", "loader", "some indices", "batches"])
def test_they_are_named_by_their_place_in_the_data(form: str) -> None:
    dataset = data()
    images, labels = dataset.tensors
    given = {
        "data set": dataset,
        "loader": DataLoader(dataset, batch_size=16, shuffle=True),
        "some indices": DataLoader(dataset, sampler=SubsetRandomSampler(range(2, 110))),
        "batches": list(zip(images.split(50), labels.split(50), strict=True)),
    }[form]
    suspected = mislabelled(TinyModel(), given, seed=1)
    assert found(suspected) == EXPECTED
    scores = [each.score for each in suspected]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


def test_the_monitor_and_measure_find_the_same() -> None:
    model = TinyModel()
    monitor = GapMonitor(None, samples=60, budget=None, measures=["reference"], seed=1)
    assert monitor.mislabelled() == []
    with pytest.warns(UserWarning, match=r"has 0\.|is absent"):
        quiet_trainer(monitor).fit(model, DataLoader(data(), batch_size=20, shuffle=True))
    suspected = monitor.mislabelled()
    assert suspected
    assert found(suspected).items() <= EXPECTED.items()
    assert suspected == mislabelled(model, data(), seed=1, samples=60)
    with pytest.warns(UserWarning, match=r"has 0\.|is absent"):
        values = measure(model, data(), ["reference"], samples=60, seed=1)
    assert values.mislabelled == suspected
    assert measure(model, data(), ["fit"]).mislabelled == []


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """The data, augmented."""

    def __len__(self) -> int:
        return len(data())

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = data()[index]
        return image + 0.01 * torch.randn_like(image), label


@pytest.mark.parametrize("form", ["data set", "loader", "list", "some indices", "batches"])
def test_probe_data_are_named_by_their_index_too(form: str) -> None:
    plain = data()
    given = {
        "loader": DataLoader(plain, batch_size=16, shuffle=True),
        "list": [plain[i] for i in range(len(plain))],
        "batches": list(zip(*(tensor.split(50) for tensor in plain.tensors), strict=True)),
    }.get(form, plain)
    sampler = SubsetRandomSampler(range(2, 110)) if form == "some indices" else None
    monitor = GapMonitor(None, samples=120, budget=None, measures=["reference"], seed=1, probe_data=given)
    with pytest.warns(UserWarning, match=r"has 0\.|is absent"):
        quiet_trainer(monitor).fit(TinyModel(), DataLoader(Noisy(), batch_size=20, sampler=sampler))
    named = {each: EXPECTED[each] for each in WRONG if form != "batches" or each != 50}  # the network says so too
    assert found(monitor.mislabelled()).items() >= named.items()
    assert found(monitor.mislabelled()).items() <= EXPECTED.items()


def test_a_repeated_sample_is_not_among_those_that_judge_it() -> None:
    plain = data()
    suspected = mislabelled(TinyModel(), ConcatDataset([plain, plain, plain]), seed=1)
    assert suspected == mislabelled(TinyModel(), plain, seed=1)
    assert found(suspected) == EXPECTED


@pytest.mark.parametrize(
    "arguments", [{"samples": 0}, {"samples": -5}, {"samples": 2.5}, {"seed": 0.5}, {"seed": None}]
)
def test_numbers_that_cannot_work_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(arguments))}: got .*; expected a whole number"):
        mislabelled(TinyModel(), data(), **arguments)


def test_any_whole_number_is_a_seed_and_without_a_number_all_are_looked_at() -> None:
    assert found(mislabelled(TinyModel(), data(), seed=-7, samples=None)) == EXPECTED


def test_data_without_a_reference_are_refused() -> None:
    with pytest.raises(MeasureError, match="too few; samples=10 are enough"):
        mislabelled(nn.Linear(3, 2), [(torch.randn(6, 3), torch.arange(6) % 2)])


def test_the_rule_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    shares = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.45, 0.55], [0.55, 0.45]]).double()
    # Class 0 has its labels at (0.9 + 0.7 + 0.2) / 3 = 0.6, class 1 at (0.6 + 0.55 + 0.45) / 3 = 0.53.
    assert contradicted(shares, labels).tolist() == [False, False, True, False, False, False]


def test_a_class_may_contradict_that_is_not_the_most_probable_one() -> None:
    labels = torch.tensor([0, 1, 2, 2, 0])
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.5, 0.1], [0.0, 0.1, 0.9], [0.0, 0.1, 0.9], [0.1, 0.55, 0.35]])
    shares[4] = torch.tensor([0.1, 0.45, 0.45 - 1e-3])  # thresholds: 0.3, 0.5 and 0.9, which no other class reaches
    assert contradicted(shares.double(), labels).tolist() == [False] * 5
    shares[2:4] = torch.tensor([0.3, 0.3, 0.4])  # now 0.4 is enough for class 2, although class 1 is more probable
    assert contradicted(shares.double(), labels).tolist() == [False, False, False, False, True]


def test_a_tie_contradicts_nothing() -> None:
    labels = torch.tensor([1, 1, 0, 0])
    shares = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]).double()
    assert contradicted(shares, labels).tolist() == [False] * 4
    shares = torch.tensor([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3]]).double()
    assert contradicted(shares, labels).tolist() == [False] * 4


def answer(labels: Tensor, predicted: Tensor, name: str) -> dict[str, Tensor]:
    shares = torch.where(labels == predicted, 0.9, 0.1)
    parts = {"rows": torch.arange(len(labels)), "labels": labels, "predicted": predicted}
    parts["contradicted"] = labels != predicted
    parts["shares"] = torch.stack([shares, torch.full((len(labels),), 0.9)], dim=1)
    return {f"out_of_fold/{name}/{part}": value for part, value in parts.items()}


def test_the_reference_that_is_right_most_often_decides() -> None:
    labels = torch.arange(20) % 2
    better, worse = labels.clone(), 1 - labels
    better[4] = 1
    memory = answer(labels, worse, "patch") | answer(labels, better, "forest")
    assert [each[:3] for each in suspects(memory)] == [(4, 0, 1)]
    assert suspects(memory)[0].score == pytest.approx(0.8)
    assert suspects({}) == []


def test_a_network_that_has_memorised_before_is_not_asked() -> None:
    images, labels = data().tensors
    model = TinyModel()
    fitted = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        fitted.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        fitted.step()
    assert (model.eval()(images).argmax(1) == labels).all()
    monitor = GapMonitor(None, samples=120, budget=None, measures=["agreement"], seed=1)
    with pytest.warns(UserWarning, match=r"has 0\.|is absent|know"):
        quiet_trainer(monitor, max_epochs=4).fit(model.train(), DataLoader(data(), batch_size=20))
    assert found(monitor.mislabelled()) == EXPECTED


def test_the_network_that_agreed_most_must_contradict_the_label_too() -> None:
    labels = torch.arange(20) % 2
    said = labels.clone()
    said[[4, 6]] = 1
    memory = answer(labels, said, "forest")
    early = labels.clone()
    early[4] = 1  # it had not memorised this label yet
    for network, share in ((labels, 0.5), (early, 0.9), (labels, 0.8)):
        assert [each.sample for each in suspects(memory)] == [4, 6], "not before it was seen several times"
        remember(memory, "forest", network, share)
    assert [each.sample for each in suspects(memory)] == [4]
