"""References that are asked in slices, against the same that are asked at once."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_gengap.errors import Later
from lightning_gengap.measures.agreement import patches
from lightning_gengap.measures.agreement.asking import GROWING, Asked, ask
from lightning_gengap.measures.agreement.fitting import Fit, Judged, Price
from lightning_gengap.measures.agreement.out_of_fold import out_of_fold
from lightning_gengap.measures.agreement.references import REFERENCES
from lightning_gengap.network.probe import Probe, copy_state
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.reader import SampleReader, Samples
from tests import networks
from tests.probes import probing, taken

MONITORED, ALL, CHUNK = 60, 700, 128


class Clock:
    """A second passes each time that it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that ticks, and ridge on few patches, which takes a tenth of the time."""
    found = Clock()
    monkeypatch.setattr(time, "perf_counter", found)
    monkeypatch.setattr(patches, "FILTERS", 20)
    return found


def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(ALL) % 2
    return torch.randn(ALL, 5, generator=generator) * (1 + 2 * targets[:, None]), targets


def texts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(ALL) % 3
    tokens = torch.randint(6, (ALL, 5), generator=generator) + 2 * targets[:, None]
    return torch.where(torch.rand(tokens.shape, generator=generator) < 0.5, 0, tokens), targets


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens).mean(1))


def small_pictures() -> tuple[Tensor, Tensor]:
    images, targets = networks.pictures(ALL)
    return images[:, :, :8, :8].contiguous(), targets


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, networks.CLASSES))


KINDS = {"patch": small_pictures, "forest": vectors, "landmarks": vectors, "tokens": texts}


def read(data: Dataset[tuple[Tensor, Tensor]]) -> Samples:
    found = draw_samples(DataLoader(data), SampleReader(MONITORED))
    assert found is not None
    return found


class Run:
    """A training whose measurements have a little time each."""

    def __init__(self, data: Dataset[tuple[Tensor, Tensor]], tokens: bool = False) -> None:
        samples = read(data)
        self.inputs, self.targets = samples.batches[0].content
        self.others = samples.others
        self.model = networks.made(Bag if tokens else flat)
        self.model(self.inputs)
        self.memory: dict[str, Tensor] = {}

    def probe(self, until: float = math.inf) -> Iterator[Probe]:
        return probing(
            self.model,
            self.inputs,
            self.targets,
            others=self.others,
            memory=self.memory,
            until=until,
            train_samples=ALL,
            initial_state=copy_state(self.model),
        )

    def ask(self, names: list[str], until: float) -> None:
        with self.probe(until) as probe:
            assert ask(probe, names) == {}

    @property
    def goes_on(self) -> bool:
        return any(key.startswith(GROWING) for key in self.memory)

    def resume(self) -> None:
        """Save the memory, and go on from what was saved."""
        file = io.BytesIO()
        torch.save(self.memory, file)
        file.seek(0)
        self.memory = torch.load(file, weights_only=True)

    def fitted(self, name: str) -> int:
        return int(self.memory[f"out_of_fold/{name}/fitted"])


def run_of(name: str) -> Run:
    return Run(TensorDataset(*KINDS[name]()), tokens=name == "tokens")


@pytest.mark.parametrize("name", KINDS)
def test_after_the_last_slice_all_is_as_at_once(name: str, clock: Clock) -> None:
    whole, run = run_of(name), run_of(name)
    whole.ask([name], math.inf)
    assert not whole.goes_on
    counts = []
    for _ in range(40):
        run.ask([name], clock.now + 4)
        counts.append(run.fitted(name))
        run.resume()
        if not run.goes_on:
            break
    assert {*counts} < {60, 120, 240, 480, ALL}, "it answers where the samples have doubled"
    assert len({*counts}) > 1
    assert counts == sorted(counts)
    assert counts[-1] == ALL
    assert run.memory.keys() == whole.memory.keys()
    for key, value in whole.memory.items():  # sums over other slices are rounded otherwise
        assert run.memory[key].numpy() == pytest.approx(value.numpy(), abs=0 if name == "forest" else 1e-6), key


def test_slices_of_other_sizes_end_at_the_same(clock: Clock) -> None:
    ends, calls = [], []
    for seconds in (5.0, 7.0, 1e6):
        run = run_of("patch")
        run.ask(["patch"], clock.now + seconds)
        calls.append(1)
        while run.goes_on:
            run.ask(["patch"], clock.now + seconds)
            calls[-1] += 1
        ends.append(run.memory["out_of_fold/patch/shares"])
    assert calls[0] > calls[1] > calls[2] == 1
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_without_time_one_reference_is_asked_and_the_others_wait(clock: Clock) -> None:
    run = Run(TensorDataset(*vectors()))
    with run.probe(until=0.0) as probe:
        assert set(ask(probe, REFERENCES)) == {"patch", "tokens"}
        judged = Judged.of(probe)
        prices = {name: Asked.of(probe, name, judged).first_price for name in ("forest", "landmarks", "features")}
        cheapest = min(prices, key=lambda name: prices[name])
        assert out_of_fold(probe, cheapest).fitted == MONITORED
        for name in prices.keys() - {cheapest}:
            with pytest.raises(Later):
                out_of_fold(probe, name)
        found = taken("reference", probe)
        assert found.values.keys() == {
            *(f"reference/{cheapest}_{what}" for what in ("accuracy", "samples")),
            "reference/best_accuracy",
            "reference/share",
        }
        assert found.absent == {}, "what comes later is not said to be absent"
    assert found.values["reference/share"] == MONITORED / ALL
    with run.probe() as probe:
        values = taken("reference", probe).values
    assert not run.goes_on
    assert {values[f"reference/{name}_samples"] for name in ("forest", "landmarks")} == {ALL}
    assert values["reference/features_samples"] == MONITORED


def test_the_smallest_share_goes_on_first_and_waits_until_it_is_paid_for(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(TensorDataset(*vectors()))
    with run.probe(until=clock.now + 50) as probe:
        monkeypatch.setattr(Asked, "advance", lambda self, left: False)
        ask(probe, ["forest", "landmarks"])
    monkeypatch.undo()
    assert (run.fitted("forest"), run.fitted("landmarks")) == (MONITORED, MONITORED)
    with run.probe() as probe:
        forest = Asked.of(probe, "forest", Judged.of(probe))
        forest.fit.price = Price(0.0, 1e6, 0.0)
        assert not forest.advance(lambda: 100.0)
        assert forest.advance(lambda: 1e9)
        assert forest.fitted == 2 * MONITORED


def test_nothing_is_read_for_a_reference_that_waits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(TensorDataset(*vectors()))
    run.ask(["forest"], until=0.0)
    assert run.fitted("forest") == MONITORED
    run.memory[f"{GROWING}forest/turn"] = torch.tensor([0.1, 100.0])
    monkeypatch.setitem(REFERENCES, "forest", replace(REFERENCES["forest"], fit=refused))
    run.ask(["forest"], clock.now + 100.0)
    with pytest.raises(AssertionError, match="read"):
        run.ask(["forest"], clock.now + 105.0)


def refused(*_: object) -> Fit:
    raise AssertionError("it is read")


def test_a_few_samples_are_whole_at_once(clock: Clock) -> None:
    images, targets = networks.pictures(MONITORED)
    with probing(networks.made(networks.cnn), images, targets, until=0.0) as probe:
        ask(probe, ["patch"])
        assert out_of_fold(probe, "patch").fitted == MONITORED
    assert not any(key.startswith(GROWING) for key in probe.memory)


class Damaged(Dataset[tuple[Tensor, Tensor]]):
    """Some samples cannot be read."""

    def __init__(self, data: TensorDataset, bad: set[int]) -> None:
        self.data, self.bad = data, bad

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index in self.bad:
            raise OSError("damaged file")
        return self.data[index]


@pytest.mark.parametrize("name", ["forest", "landmarks"])
def test_where_others_cannot_be_read_the_last_answer_stays(name: str, clock: Clock) -> None:
    order = SampleReader(ALL).draw(range(ALL))
    run = Run(Damaged(TensorDataset(*vectors()), {order[MONITORED + 3 * CHUNK]}))
    with run.probe(until=clock.now + 1e6) as probe:
        ask(probe, [name])
    assert run.fitted(name) == 240
    assert not run.goes_on
    assert probe.notes == ["references are fitted on 240 samples, as others cannot be read: OSError: damaged file"]
