"""Training data and probe data that cannot be read as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from lightning_gengap.predictors.estimate import EstimatedAccuracy
from tests.integration.refusals.case import Case
from tests.integration.refusals.tasks import unlabelled
from tests.lightning_models import CLASSES, Stepping, TinyModel, ValidatedModel, blobs, loader, stream
from tests.streams import Parts
from tests.tiny_predictors import tiny_predictor, wide_feature


class Jittered(TinyModel):
    """Its training set is augmented on the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 0.01 * torch.randn_like(batch[0]), batch[1]


class Shifted(TinyModel):
    """Its transfer hook mixes each image with another one, in validation too."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return 0.7 * batch[0] + 0.3 * batch[0].flip(0), batch[1]


class OpenedLate(TensorDataset):
    """Can be read once training has started."""

    is_open = False

    def __init__(self) -> None:
        super().__init__(*blobs().tensors)
        type(self).is_open = False

    def __getitem__(self, index: Any) -> Any:
        if not self.is_open:
            raise OSError("not open yet")
        return super().__getitem__(index)


class Opening(TinyModel):
    def on_train_start(self) -> None:
        super().on_train_start()
        OpenedLate.is_open = True


class Broken(Dataset[Any]):
    """Cannot be read at all."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        raise OSError("no such file")


class Uncopied(TensorDataset):
    """Holds what Python cannot copy."""

    def __init__(self) -> None:
        super().__init__(*blobs().tensors)
        self.source = (number for number in range(3))


class Tokens(TinyModel):
    """Embeds whole numbers, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.frozen = nn.Sequential(nn.Embedding(8, 4), nn.Flatten()), nn.Sequential(nn.Linear(24, 16))


def tokens() -> Any:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randint(8, (64, 6), generator=generator), torch.arange(64) % CLASSES), 16)


class Reloading(TinyModel):
    """Has a loader for each epoch; after the first, all samples are of one class."""

    def train_dataloader(self) -> Any:
        images, targets = blobs().tensors
        return DataLoader(TensorDataset(images, targets if self.current_epoch == 0 else 0 * targets), 16)


def mixed(samples: Any) -> Any:
    images, targets = default_collate(samples)
    return 0.7 * images + 0.3 * images.flip(0), targets


def ragged(samples: Any) -> Any:
    """Mixes samples of a kind that torch does not stack."""
    images = torch.stack([sample.image for sample in samples])
    return 0.7 * images + 0.3 * images.flip(0), torch.stack([sample.label for sample in samples])


class Sample:
    def __init__(self, image: Tensor, label: Tensor) -> None:
        self.image, self.label = image, label


class Samples(Dataset[Sample]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Sample:
        return Sample(*blobs()[index])


def probed(plain: Callable[[], Any], **more: Any) -> Case:
    return Case(monitor={"probe_data": plain()}, **more)


def needing(name: str, **changes: float) -> dict[str, Any]:
    """Arguments of a monitor whose predictor needs this feature."""
    features = (wide_feature(name, "identity", 1.0, **changes),)
    return {"predictor": tiny_predictor(measures=("difficulty", "margin"), features=features)}


class Unlabelled(IterableDataset[Any]):
    """Only its first batch has labels."""

    def __iter__(self) -> Iterator[Any]:
        images, targets = blobs().tensors
        yield from ([images[:32], targets[:32]], [images[32:]])


def relabelled() -> TensorDataset:
    """Other blobs, whose classes begin at 1."""
    images, targets = blobs(seed=1).tensors
    return TensorDataset(images, targets + 1)


SHARED = blobs()


def validated_on_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate on the samples that are trained on."""
    monkeypatch.setattr("tests.integration.test_refusals.validation_loader", lambda: DataLoader(SHARED, 16))


class Noisy(TensorDataset):
    """Another copy of a sample whenever it is read."""

    def __getitem__(self, index: Any) -> Any:
        image, target = super().__getitem__(index)
        return image + 0.01 * torch.randn_like(image), target


def not_finite() -> TensorDataset:
    """Other samples, of which the network makes NaN."""
    images, labels = blobs(seed=1).tensors
    return TensorDataset(images * torch.nan, labels)


class OtherCurve:
    """A learning curve of other samples."""

    def estimate(self) -> EstimatedAccuracy:
        return EstimatedAccuracy(0.5, 0.01)

    def differences(self, module: Any, dataset: Any, **how: Any) -> list[str]:
        return ["data set"]


DATA: dict[str, Case] = {
    "held-out samples that were trained on": Case(monitor={"held_out": Subset(blobs(), range(20))}),
    "a validation on samples that were trained on": Case(
        ValidatedModel, data=lambda: DataLoader(SHARED, 16), patch=validated_on_training
    ),
    "evidence that contradicts the prediction": Case(monitor={"evidence": [EstimatedAccuracy(0.0, 0.001)]}),
    "a learning curve of another data set": Case(monitor={"evidence": [OtherCurve()]}),
    "held-out labels that the network does not have": Case(monitor={"held_out": relabelled()}),
    "held-out samples of a single class": Case(monitor={"held_out": Subset(blobs(seed=1), range(0, 64, 4))}),
    "held-out samples whose logits are not finite": Case(monitor={"held_out": not_finite()}),
    "held-out samples that are augmented": Case(monitor={"held_out": Noisy(*blobs(seed=1).tensors)}),
    "a training set that is augmented": Case(Jittered),
    "a training set that cannot be read by index": Case(Opening, data=lambda: DataLoader(OpenedLate(), 16)),
    "a training set that cannot be copied": Case(data=lambda: DataLoader(Uncopied(), 16)),
    "a collate function that mixes, beside probe data": probed(blobs, data=lambda: loader(collate_fn=mixed)),
    "one that mixes samples that torch cannot stack": probed(
        Samples, data=lambda: DataLoader(Samples(), 16, collate_fn=ragged)
    ),
    "transfer hooks that mix, beside probe data": probed(blobs, model=Shifted),
    "probe data that cannot be read": probed(Broken),
    "probe data without a batch": probed(list),
    "probe data without a sample": probed(lambda: blobs(0)),
    "a batch of a stream that has no labels": Case(
        lambda: Stepping(unlabelled), {"samples": 48}, lambda: DataLoader(Unlabelled(), None)
    ),
    "a loader that is asked for again, and cannot be watched": Case(
        Reloading, data=lambda: None, trainer={"reload_dataloaders_every_n_epochs": 1}
    ),
    "whole numbers as inputs": Case(Tokens, needing("margin/input/median"), tokens),
    "a training set of unknown size": Case(monitor=needing("train_samples"), data=stream),
    "several loaders of known size": Case(
        model=lambda: Stepping(lambda module, batch: TinyModel.training_step(module, batch["a"], 0)),
        monitor=needing("train_samples")
        | {"forward": lambda module, batch: module(batch["a"][0]), "target": lambda batch: batch["a"][1]},
        data=lambda: {"a": loader(), "b": loader()},
    ),
    "a training set far from all others": Case(monitor=needing("difficulty/ridge_accuracy", low=1e3)),
    "a sampler that takes other samples in each epoch": Case(
        monitor=needing("train_samples"), data=lambda: loader(sampler=Parts(), shuffle=False)
    ),
    "the same without a predictor": Case(
        monitor={"predictor": None}, data=lambda: loader(sampler=Parts(), shuffle=False)
    ),
}
