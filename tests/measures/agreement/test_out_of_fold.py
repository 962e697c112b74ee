from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_gengap.errors import Undefined
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures.agreement import fitting
from lightning_gengap.measures.agreement.answers import calibrated, signs
from lightning_gengap.measures.agreement.asking import Asked
from lightning_gengap.measures.agreement.fitting import Judged, number_of_others, others
from lightning_gengap.measures.agreement.forest import MOST_INPUTS, TREES, out_of_bag_shares
from lightning_gengap.measures.agreement.landmarks import STRENGTHS, WIDTHS
from lightning_gengap.measures.agreement.out_of_fold import out_of_fold
from lightning_gengap.measures.agreement.patches import PatchFeatures
from lightning_gengap.measures.agreement.references import REFERENCES
from lightning_gengap.measures.agreement.sliced_ridge import SlicedRidge
from lightning_gengap.measures.difficulty import compared_samples
from lightning_gengap.measures.difficulty.compared_samples import Compared
from lightning_gengap.measures.difficulty.leave_one_out_scores import RIDGES
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.reader import SampleReader, Samples
from tests import networks
from tests.probes import probing

MONITORED, ALL = 60, 300


def test_a_tree_is_not_asked_about_what_it_has_seen() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(60, 5, generator=generator), torch.arange(60) % 4
    found = out_of_bag_shares(inputs, targets, 3)
    forest = ExtraTreesClassifier(TREES, bootstrap=True, oob_score=True, random_state=3)
    forest.fit(inputs.numpy(), targets.numpy())
    assert found.numpy() == pytest.approx(forest.oob_decision_function_, abs=1e-12)
    assert (found.argmax(1) == targets).double().mean() < 0.5  # the labels have nothing to do with the inputs
    assert torch.equal(out_of_bag_shares(inputs, targets, 3, 20), found[:20])


def test_classes_that_are_not_there_get_no_vote() -> None:
    inputs = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    shares = out_of_bag_shares(inputs, 2 * (torch.arange(30) % 2), 0)
    assert shares.shape == (30, 3)
    assert shares[:, 1].tolist() == [0.0] * 30


@pytest.mark.parametrize("inputs", [torch.zeros(10, MOST_INPUTS + 1), torch.full((10, 2), torch.nan)])
def test_inputs_that_trees_cannot_take(inputs: Tensor) -> None:
    with pytest.raises(Undefined, match="inputs"):
        out_of_bag_shares(inputs, torch.arange(10) % 2, 0)


def refuse(*_: object) -> None:
    raise KeyError("asked again")


@pytest.mark.parametrize("name", ["patch", "forest", "features"])
def test_it_is_computed_once_for_the_same_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures(60)
    memory: dict[str, Tensor] = {}
    with probing(model, images, targets, initial_state=copy_state(model), memory=memory) as probe:
        first = out_of_fold(probe, name)
        said = REFERENCES[name].fit(probe, Judged.of(probe), {}).said()
        monkeypatch.setitem(REFERENCES, name, replace(REFERENCES[name], fit=refuse))
        again = out_of_fold(probe, name)
    assert first.predicted.tolist() == again.predicted.tolist() == said.shares.argmax(1).tolist()
    assert first.of_label.tolist() == again.of_label.tolist()
    assert first.of_label.numpy() == pytest.approx(said.shares[torch.arange(60), targets].numpy(), abs=1e-6)
    assert first.of_predicted.numpy() == pytest.approx(said.shares.max(1).values.numpy(), abs=1e-6)
    assert (first.flipped is None) == (name != "patch")
    assert float((first.predicted == targets).double().mean()) > 0.3
    with probing(model, images[:50], targets[:50], memory=memory) as fewer, pytest.raises(KeyError):
        out_of_fold(fewer, name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("patch", "images"),
        ("landmarks", "not vectors"),
        ("features", "initial weights"),
        ("forest", "not floats"),
        ("tokens", "embedding"),
    ],
)
def test_what_a_reference_needs(name: str, why: str) -> None:
    targets = torch.arange(20) % 2
    inputs = torch.zeros(20, 3, 1) if name == "landmarks" else torch.zeros(20, 3)
    inputs = inputs.long() if name == "forest" else inputs
    first = nn.Embedding(2, 1) if name == "forest" else nn.Identity()
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(3, 2))
    with probing(model, inputs, targets) as probe, pytest.raises(Undefined, match=why):
        out_of_fold(probe, name)


def test_classes_keep_their_number_where_labels_are_large() -> None:
    targets = torch.where(torch.arange(20) % 2 == 0, 7, 900)
    inputs = torch.cat([targets[:, None].float(), torch.zeros(20, 1)], dim=1)
    with probing(nn.Linear(2, 1000), inputs, targets) as probe:
        assert out_of_fold(probe, "forest").predicted.tolist() == targets.tolist()


def samples_of(data: Dataset[tuple[Tensor, Tensor]]) -> Samples:
    found = draw_samples(DataLoader(data), SampleReader(MONITORED))
    assert found is not None
    return found


def all_in_order(data: TensorDataset) -> tuple[Tensor, Tensor]:
    found = draw_samples(DataLoader(data), SampleReader(ALL))
    assert found is not None
    contents = [batch.content for batch in found.batches]
    return torch.cat([x for x, _ in contents]), torch.cat([y for _, y in contents])


def test_ridge_on_patches_is_fitted_on_all_and_judged_on_the_monitored_samples() -> None:
    data = TensorDataset(*networks.pictures(ALL))
    images, targets = all_in_order(data)
    samples = samples_of(data)
    with probing(networks.made(networks.cnn), images[:MONITORED], targets[:MONITORED], others=samples.others) as probe:
        found = out_of_fold(probe, "patch")
    assert found.fitted == ALL
    rows = PatchFeatures.of(images[:MONITORED], 0)(images)
    labels = signs(targets, networks.CLASSES)
    whole = SlicedRidge.of(rows[:MONITORED], labels[:MONITORED])
    whole.add(rows[MONITORED:], labels[MONITORED:])
    own = whole.centred(rows[:MONITORED])
    candidates = [whole.solved(strength).left_out(own, labels[:MONITORED]) for strength in RIDGES]
    best = max(candidates, key=lambda scores: int((scores.argmax(1) == targets[:MONITORED]).sum()))
    assert found.predicted.tolist() == best.argmax(1).tolist()


def test_trees_are_grown_on_all() -> None:
    data = TensorDataset(*networks.pictures(ALL))
    images, targets = all_in_order(data)
    others = samples_of(data).others
    with probing(networks.made(networks.cnn), images[:MONITORED], targets[:MONITORED], others=others) as probe:
        found = out_of_fold(probe, "forest")
    expected = out_of_bag_shares(images.flatten(1), targets, 0)[:MONITORED]
    assert found.fitted == ALL
    assert found.of_label.numpy() == pytest.approx(expected[torch.arange(MONITORED), targets[:MONITORED]].numpy())


def test_monitored_samples_that_are_not_judged_are_the_first_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared_samples, "MOST_SAMPLES", 40)
    images, targets = networks.pictures(MONITORED)
    with probing(networks.made(networks.cnn), images, targets, chunk=16) as probe:
        judged = Judged.of(probe)
        found = list(others(probe, judged, lambda batch: batch.inputs, 3, 15))
        every = number_of_others(probe, judged, 1, 1)
    rest = [i for i in range(MONITORED) if i not in judged.rows.tolist()]
    assert torch.equal(torch.cat([rows for rows, _ in found]), images[rest[3:15]])
    assert torch.cat([ranks for _, ranks in found]).tolist() == targets[rest[3:15]].tolist()
    assert every == 20


@pytest.mark.parametrize(
    ("known", "numbers", "cost", "expected"),
    [
        (None, 10, 1.0, 240),
        (200, 10, 1.0, 140),  # training draws fewer
        (None, fitting.MOST_READ // 7, 1.0, 7),
        (None, 10, fitting.SECONDS * fitting.A_SECOND / 100, 40),
        (None, 10, fitting.SECONDS * fitting.A_SECOND, 0),
    ],
)
def test_how_many_are_fitted_follows_from_what_they_cost(
    known: int | None, numbers: int, cost: float, expected: int
) -> None:
    data = TensorDataset(*networks.pictures(ALL))
    samples = samples_of(data)
    images, targets = samples.batches[0].content
    model = networks.made(networks.cnn)
    with probing(model, images, targets, others=samples.others, train_samples=known) as probe:
        assert number_of_others(probe, Judged.of(probe), numbers, cost) == expected


class Failing(Dataset[tuple[Tensor, Tensor]]):
    """Gives the first samples of a draw, and no other."""

    def __init__(self, data: TensorDataset, good: set[int]) -> None:
        self.data, self.good = data, good

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self.good:
            raise OSError("damaged file")
        return self.data[index]


def test_ridge_on_nearness_is_that_of_each_vector_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(ALL) % 2
    vectors = torch.randn(ALL, 2, generator=generator) * (1 + 3 * targets[:, None])
    vectors = torch.cat([vectors, torch.ones(ALL, 1)], dim=1)  # the last says nothing
    data = TensorDataset(vectors, targets)
    rows, labels = all_in_order(data)
    model = nn.Linear(3, 2)
    with probing(model, rows[:MONITORED], labels[:MONITORED], others=samples_of(data).others) as probe:
        found = out_of_fold(probe, "landmarks")
    centre, deviation = rows[:MONITORED].double().mean(0), rows[:MONITORED].double().std(0, correction=0)
    standard = ((rows.double() - centre) / deviation)[:, :2].numpy()
    apart = ((standard[:, None] - standard[None, :MONITORED]) ** 2).sum(2)
    accuracies = []
    for width in WIDTHS:
        bells = np.exp(-apart / (2 * width * 3))
        bells = (bells - bells[:MONITORED].mean(0)) / bells[:MONITORED].std(0)
        for strength in STRENGTHS:
            right = [left_out(bells, labels.numpy(), strength, i) == int(labels[i]) for i in range(MONITORED)]
            accuracies.append(np.mean(right))
    assert found.fitted == ALL
    assert float((found.predicted == labels[:MONITORED]).double().mean()) == pytest.approx(max(accuracies))
    assert max(accuracies) > 0.75


def left_out(rows: np.ndarray, labels: np.ndarray, strength: float, i: int) -> int:
    """The class of row i by ridge without it."""
    kept = np.arange(len(rows)) != i
    signed = 2.0 * np.eye(2)[labels[kept]] - 1
    mean, level = rows[kept].mean(0), signed.mean(0)
    centred = rows[kept] - mean
    gram = centred.T @ centred + strength * rows.shape[1] * np.eye(rows.shape[1])
    return int((level + (rows[i] - mean) @ np.linalg.solve(gram, centred.T @ (signed - level))).argmax())


@pytest.mark.parametrize("name", ["patch", "forest"])
def test_where_others_cannot_be_read_the_monitored_samples_do(name: str) -> None:
    data = TensorDataset(*networks.pictures(ALL))
    drawn = SampleReader(MONITORED).draw(range(ALL))
    samples = samples_of(Failing(data, set(drawn)))
    images, targets = samples.batches[0].content
    model = networks.made(networks.cnn)
    with probing(model, images, targets, others=samples.others) as probe:
        found = out_of_fold(probe, name)
        alone = out_of_fold(replace(probe, others=None, memory={}), name)
    assert found.fitted == MONITORED
    assert found.of_label.tolist() == alone.of_label.tolist()
    assert probe.notes == [
        "references are fitted on the monitored samples alone, as others cannot be read: OSError: damaged file"
    ]


@pytest.mark.parametrize("name", ["patch", "forest"])
@pytest.mark.parametrize("own", [False, True])
def test_others_that_are_not_finite_are_left_out(name: str, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, targets = networks.pictures(ALL)
    order = SampleReader(ALL).draw(range(ALL))
    pictures[order[MONITORED + 7], 0, 3, 3] = torch.nan
    data = TensorDataset(pictures, targets)
    if own:  # it is monitored, and not judged
        monkeypatch.setattr(fitting, "compared", lambda probe: Compared(torch.arange(MONITORED), probe.targets))
        images, labels, others = *all_in_order(data), None
    else:
        images, labels = (part[:MONITORED] for part in all_in_order(data))
        others = samples_of(data).others
    with probing(networks.made(networks.cnn), images, labels, others=others, chunk=16) as probe:
        found = out_of_fold(probe, name)
        assert probe.notes == []
    assert found.fitted == ALL - 1
    assert torch.isfinite(found.of_label).all()
    rest = [i for i in order if i != order[MONITORED + 7]]
    whole = TensorDataset(pictures[rest], targets[rest])
    monkeypatch.undo()
    judged = Judged(torch.arange(MONITORED), *targets[order[:MONITORED]].unique(return_inverse=True))
    with probing(networks.made(networks.cnn), *whole.tensors) as probe:
        asked = Asked.of(probe, name, judged)
        assert asked.advance(lambda: math.inf)
        assert asked.said is not None
    assert found.of_label.numpy() == pytest.approx(
        asked.said.shares[torch.arange(MONITORED), judged.ranks].numpy(), abs=1e-5
    )


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_trees_take_any_seed(seed: int) -> None:
    inputs, targets = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    assert torch.equal(out_of_bag_shares(inputs, targets, seed), out_of_bag_shares(inputs, targets, seed % 2**32))


@pytest.mark.parametrize("name", ["forest", "landmarks"])
@pytest.mark.parametrize("change", ["small", "far", "small and far"])
def test_the_scale_and_the_zero_of_a_column_do_not_matter(name: str, change: str) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(80) % 2
    rows = torch.randn(80, 3, generator=generator, dtype=torch.float64) + 2 * targets[:, None]
    changed = {"small": rows.float() * 2.0**-60, "far": rows + 2.0**31, "small and far": (rows + 2.0**31) * 2.0**-60}
    found = []
    for inputs in (rows, changed[change]):
        with probing(nn.Linear(3, 2).to(inputs.dtype), inputs, targets) as probe:
            found.append(out_of_fold(probe, name))
    assert found[0].of_label.numpy() == pytest.approx(found[1].of_label.numpy(), abs=0.2 if name == "forest" else 1e-3)
    assert found[1].accuracy == pytest.approx(found[0].accuracy, abs=0.05)
    assert found[1].accuracy > 0.8


def test_trees_on_numbers_of_usual_size_are_those_on_the_numbers_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(60) % 3
    rows = torch.randn(60, 4, generator=generator) * torch.tensor([1e4, 1.0, 0.1, 1e-3]) + targets[:, None]
    with probing(nn.Linear(4, 3), rows, targets) as probe:
        found = out_of_fold(probe, "forest")
    expected = out_of_bag_shares(rows, targets, 0)[torch.arange(60), targets]
    assert found.of_label.numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_features_of_weights_that_know_the_labels_are_no_reference() -> None:
    rows = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(9)  # it gives every class to many of them
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        known = model(rows).argmax(1)
    shuffled = known[torch.randperm(90, generator=torch.Generator().manual_seed(1))]
    refused = pytest.raises(Undefined, match="know the labels already")
    with probing(model, rows, known, initial_state=copy_state(model), chunk=30) as probe, refused:
        out_of_fold(probe, "features")
    with probing(model, rows, shuffled, initial_state=copy_state(model), chunk=30) as probe:
        assert out_of_fold(probe, "features").fitted == 90


def test_shares_are_calibrated_on_the_given_labels() -> None:
    ranks = torch.arange(40) % 2
    scores = signs(torch.where(torch.arange(40) < 30, ranks, 1 - ranks), 2)  # right for three of four
    shares = calibrated(scores, ranks)
    assert shares.sum(1).tolist() == pytest.approx([1.0] * 40)
    assert torch.equal(shares.argmax(1), scores.argmax(1))
    assert float(shares.max()) == pytest.approx(0.75, abs=0.1)


def test_fewer_samples_are_judged_as_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TensorDataset(*networks.pictures(600))
    samples = draw_samples(DataLoader(data), SampleReader(512))
    assert samples is not None
    model, memory = networks.made(networks.cnn), TrainingMemory()
    measurer = Measurer.of(model, samples, memory)
    measurer.measure(model, ["reference"])
    monkeypatch.setitem(REFERENCES, "forest", replace(REFERENCES["forest"], fit=refuse))
    values = measurer.measure(model, ["fit", "agreement"], samples=256).values
    thinned = samples.thinned(256)
    says = memory.warm_starts["out_of_fold/forest/predicted"].split(128)[::2]
    with torch.no_grad():
        own = [model.eval()(batch.content[0]).argmax(1) for batch in thinned]
    assert len(thinned) == len(says) == 2
    expected = float((torch.cat(own) == torch.cat(says)).double().mean())
    assert values["agreement/forest"] == pytest.approx(expected)
    assert values["probe_samples"] == 256
