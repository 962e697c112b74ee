"""Whatever the network: each key of a measure that is taken is there, or has one printed line that says why not."""

from __future__ import annotations

import logging
import warnings
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor, measure
from lightning_gengap.measurement import Absence, Measurement, said
from lightning_gengap.measurer import Measurer
from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.network.logits import logits_of
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.lightning_models import TinyModel, quiet_trainer
from tests.many_networks import NETWORKS
from tests.other_data import is_of_other_data

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of checkpoints, by torch
COUNT = 24
TAKEN = ("margin", "fit", "norm", "difficulty")
# In one word each: what the line about the layers names where some are missing.
CAUSES = {
    "linear": "no layer with weights stands before 1, the last linear or convolutional one",
    "one hidden layer": "only 1 layer with weights stands before 3",
    "two hidden layers": "only 2 layers with weights stand before 5",
    "bare parameters": "the forward calls no linear or convolutional module",
    "sequence first throughout": "first axis of the input of head",
    "skip to the head": "no tensor before the input of head, the last layer, is on every path",
    "two branches": "only one tensor before the input of head, the last layer, is on every path",
    "checkpointed again": "use_reentrant=True",
    "frozen body without gradients": "no gradient of the logits arrives there",
}


def labelled(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Images with what the model predicts for them, but another class for each third of them."""
    images = networks.images(COUNT)
    with torch.no_grad():
        targets = logits_of(model.eval()(images), COUNT).argmax(1)
    return images, (targets + (torch.arange(COUNT) % 3 == 0)) % networks.CLASSES


def patterns(lines: list[str]) -> list[str]:
    """The keys that are said to be absent. Each is said once."""
    heads = [line.split(" is absent: ")[0] for line in lines if " is absent: " in line]
    found = [pattern for head in heads for pattern in head.removeprefix("each of ").split(", ")]
    assert len(found) == len(set(found))
    assert all("\n" not in line for line in lines)
    return found


def is_said(key: str, keys: list[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in keys)


@pytest.mark.parametrize("name", NETWORKS)
def test_measure_gives_each_key_or_says_why_not(name: str) -> None:
    model = networks.made(NETWORKS[name])
    data = labelled(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = measure(model, [data], TAKEN, copy_state(model))
    lines = [str(warning.message) for warning in caught if "absent" in str(warning.message)]
    absent = {key for key, declared in MEASURED.items() if declared.measure in TAKEN} - set(values)
    keys = patterns(lines)
    assert [key for key in absent if not is_said(key, keys)] == []
    assert [pattern for pattern in keys if not any(fnmatchcase(key, pattern) for key in absent)] == []
    assert CAUSES.get(name, "") in "\n".join(lines)


class Classifier(TinyModel):
    """A network in a LightningModule."""

    def __init__(self, net: nn.Module) -> None:
        nn.Module.__init__(self)
        super(TinyModel, self).__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images)

    def on_train_start(self) -> None:
        """Keep nothing in eval mode."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(logits_of(self(batch[0]), len(batch[1])), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-6)


@pytest.mark.parametrize("verbosity", ["normal", "full"])
@pytest.mark.parametrize("name", ["two hidden layers", "bare parameters", "skip to the head", "dictionary output"])
def test_a_monitor_logs_each_key_or_says_why_not(
    name: str, verbosity: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[str] = set()
    monitor = GapMonitor(budget=None, verbosity=verbosity, samples=COUNT)
    own = Measurer.measure

    def measured(self: Measurer, *arguments: Any, **more: Any) -> Measurement:
        measurement = own(self, *arguments, **more)
        drawn.update(measurement.figures)
        return measurement

    monkeypatch.setattr(Measurer, "measure", measured)
    model = Classifier(networks.made(NETWORKS[name]))
    images, targets = labelled(model)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        quiet_trainer(monitor).fit(model.train(), DataLoader(TensorDataset(images, targets), 8))
    lines = [*(str(warning.message) for warning in caught), *caplog.messages]
    of_monitor = [line for line in lines if line.startswith(("GapMonitor: ", "GapMonitor watches "))]
    keys = patterns([part.removeprefix("GapMonitor: ") for line in of_monitor for part in line.split("; ")])
    figures = {key for name in monitor.measures for key, entry in MEASURES[name].keys.items() if entry.kind != "scalar"}
    assert monitor._state is not None
    wanted = set(
        monitor._state.selection.explained or {key for name in monitor.measures for key in MEASURES[name].keys}
    )
    missing = (figures | wanted) - drawn - set(monitor.values)
    assert [key for key in missing if not (is_said(key, keys) or is_of_other_data(key))] == []
    assert drawn


def test_keys_of_one_reason_share_a_line() -> None:
    absences = [Absence("a", "there is none"), Absence("b*", "so it is"), Absence("c", "there is none")]
    assert said(absences) == ["each of a, c is absent: there is none", "b* is absent: so it is"]
    assert said(absences[:1] * 2) == ["a is absent: there is none"]


def test_layers_that_were_not_named_are_said() -> None:
    model = networks.made(networks.cnn)
    with pytest.warns(UserWarning, match=r"each of margin/h2\*, margin/h3\* is absent: layers= names 1 of the three"):
        measure(model, [labelled(model)], ["margin"], layers=["0"])
