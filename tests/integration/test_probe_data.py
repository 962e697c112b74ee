"""Plain probe data stay plain, whatever training's collate function and transfer hooks do to their batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tests.lightning_models import Iterated, TinyModel, blobs, fitted, watched
from tests.tiny_predictors import tiny_monitor

SHIFT = 3.0


def mixed(batch: Any, soft: bool = True) -> Any:
    """MixUp: every image with the one before it, and the shares of both classes."""
    images, targets = batch
    share = float(torch.distributions.Beta(1.0, 1.0).sample())
    images = share * images + (1 - share) * images.roll(1, 0)
    labels = one_hot(targets, 4).float()
    return images, share * labels + (1 - share) * labels.roll(1, 0) if soft else targets


def halved(batch: Any) -> Any:
    """Mixes by a fixed share, and leaves the labels alone."""
    return 0.5 * batch[0] + 0.5 * batch[0].roll(1, 0), batch[1]


def shifted(batch: Any) -> Any:
    """Plain normalisation, which every batch needs."""
    return batch[0] - SHIFT, batch[1]


def plain() -> TensorDataset:
    return blobs()


def raw() -> TensorDataset:
    """Before the normalisation."""
    images, targets = blobs().tensors
    return TensorDataset(images + SHIFT, targets)


class Mixing(TinyModel):
    """What its hooks do to a batch is given."""

    def __init__(self, after: Callable[[Any], Any], guarded: bool = False, before: bool = False) -> None:
        super().__init__()
        self.after, self.guarded, self.before = after, guarded, before

    def _changed(self, batch: Any) -> Any:
        return self.after(batch) if self.trainer.training or not self.guarded else batch

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._changed(batch) if self.before else batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch if self.before else self._changed(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])


class InEval(Mixing):
    """Mixes while the module itself is in training mode, and always normalises."""

    def _changed(self, batch: Any) -> Any:
        batch = shifted(batch)
        return self.after(batch) if self.training else batch


def collated(change: Callable[[Any], Any]) -> Any:
    return DataLoader(plain(), 16, collate_fn=lambda items: change(default_collate(items)))


FORMS: dict[str, Callable[[TensorDataset], Any]] = {
    "data set": lambda data: data,
    "loader": lambda data: DataLoader(data, 16),
    "batches": lambda data: [tuple(batch) for batch in DataLoader(data, 16)],
    "iterated": lambda data: Iterated(DataLoader(data, 16)),
}
MODELS: dict[str, tuple[Callable[[], TinyModel], Callable[[], Any], Callable[[], TensorDataset], str | None]] = {
    # the model, the training data, the plain samples, and what is said
    "collate": (lambda: Mixing(lambda batch: batch), lambda: collated(mixed), plain, "collate_fn"),
    "collate, labels kept": (lambda: Mixing(lambda batch: batch), lambda: collated(halved), plain, "collate_fn"),
    "hook in training": (lambda: Mixing(mixed, guarded=True), lambda: DataLoader(plain(), 16), plain, None),
    "first hook in training": (lambda: Mixing(mixed, True, before=True), lambda: DataLoader(plain(), 16), plain, None),
    "hook in train mode": (lambda: InEval(mixed), lambda: DataLoader(raw(), 16), raw, None),
    "hook always": (lambda: Mixing(mixed), lambda: DataLoader(plain(), 16), plain, "transfer hooks"),
    "first hook always": (
        lambda: Mixing(halved, before=True),
        lambda: DataLoader(plain(), 16),
        plain,
        "transfer hooks",
    ),
    "normalisation": (lambda: Mixing(shifted), lambda: DataLoader(raw(), 16), raw, None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_plain_samples_are_measured(kind: str, form: str, caplog: pytest.LogCaptureFixture):
    make, data, samples, words = MODELS[kind]
    torch.manual_seed(1)
    model = make()
    alone, monitor = copy.deepcopy(model), tiny_monitor(probe_data=FORMS[form](samples()))
    values, said = watched(monitor, model=model, data=data())
    fitted(model=alone, data=data())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    assert said == []
    assert set(values("gengap/status")) <= {0, 3}  # one that learned from mixes alone may be far from support
    images, targets = plain().tensors
    logits = model.eval()(images).detach()
    assert values("gengap/train_loss")[-1] == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-4)
    assert values("gengap/train_accuracy")[-1] == float((logits.argmax(1) == targets).float().mean())
    told = [line for line in caplog.messages if line.startswith("GapMonitor: the ")]
    from_loader = words == "collate_fn" and form != "data set"
    assert [words in line for line in told] == ([] if words is None or from_loader else [True])


def test_a_target_for_mixed_labels_does_not_spoil_plain_ones():
    monitor = tiny_monitor(probe_data=plain(), target=lambda batch: batch[1].argmax(1))
    values, said = watched(monitor, model=Mixing(lambda batch: batch), data=collated(mixed))
    assert said == []
    assert values("gengap/status") == [0, 0]


@pytest.mark.parametrize("hook", [False, True])
def test_without_probe_data_mixed_labels_are_refused_with_the_form_that_works(hook: bool):
    model, data = Mixing(mixed if hook else lambda batch: batch), DataLoader(plain(), 16) if hook else collated(mixed)
    values, said = watched(tiny_monitor(), model=model, data=data)
    assert values("gengap/status") == [4, 4]
    (message,) = said
    assert "soft labels" in message
    assert "for labels that training mixes pass probe_data=<the plain training set>" in message


def test_a_hook_of_the_data_module_mixes_in_training_alone():
    class Module(LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(plain(), 16)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return mixed(batch) if self.trainer.training else batch

    class Step(TinyModel):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

    values, said = watched(tiny_monitor(), model=Step(), data=Module())
    assert said == []
    assert values("gengap/status") == [0, 0]


def test_samples_of_unequal_size_that_are_mixed_are_refused_with_the_form_that_works():
    images, targets = plain().tensors
    data = [(image, int(target), [0] * (1 + int(target))) for image, target in zip(images, targets, strict=True)]

    def collate(items: list[Any]) -> Any:
        return mixed((torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])))

    class Ragged(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Any:
            return data[index]

    loader = DataLoader(Ragged(), 16, collate_fn=collate)
    values, said = watched(tiny_monitor(probe_data=Ragged()), model=Mixing(lambda batch: batch), data=loader)
    assert values("gengap/status") == [4, 4]
    (message,) = said
    assert "Pass probe_data=DataLoader(<the same data set>, collate_fn=<one that does not mix>)" in message
