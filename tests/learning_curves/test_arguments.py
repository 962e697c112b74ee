"""Arguments that cannot make a learning curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from lightning_gengap.errors import ConfigurationError, DataError, GapError, PartError
from lightning_gengap.learning_curves.arguments import sizes_of
from tests.learning_curves.tiny_curves import TRAINER, tiny_curve
from tests.lightning_models import TinyModel, blobs, quiet_trainer

DATA = blobs(160)


class Diverging(TinyModel):
    """Its weights are NaN after a step."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * torch.nan


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "no LightningModule": (lambda: tiny_curve(torch.nn.Linear(2, 2)), r"\(module\): got Linear; .* a LightningModule"),
    "a file for a folder": (
        lambda: tiny_curve(out=__file__),
        r"learning_curve\(out=\): got FileExistsError.*; expected a folder for finished parts",
    ),
    "a number for a folder": (lambda: tiny_curve(out=3), "got TypeError.*; expected a folder for finished parts"),
    "a Trainer": (lambda: tiny_curve(trainer=quiet_trainer()), "got Trainer; expected a mapping of arguments"),
    "no fraction": (lambda: tiny_curve(fractions=[]), r"fractions=\): got \[\]; expected fractions between 0 and 1"),
    "a fraction of all": (lambda: tiny_curve(fractions=[0.5, 1]), "For example .* for 1 pass test= too"),
    "more than all": (lambda: tiny_curve(fractions=[2], test=blobs(20)), "expected fractions above 0 and at most 1"),
    "a number of samples": (lambda: tiny_curve(fractions=100), "got 100; expected fractions between 0 and 1"),
    "a text": (lambda: tiny_curve(fractions="1/4"), "got '1/4'; expected fractions between 0 and 1"),
    "too small a part": (
        lambda: tiny_curve(fractions=[0.01, 0.5]),
        "got parts of 2, 80 of 160 .* at least 10",
    ),
    "too little to test on": (lambda: tiny_curve(fractions=[0.99]), "which leave 10 to test on"),
    "two equal parts": (lambda: tiny_curve(fractions=[0.25, 0.2501]), "got parts of 40, 40 of 160 samples"),
    "no whole batch": (
        lambda: tiny_curve(fractions=[0.25], batch_size=64, loader={"drop_last": True}),
        "different parts of at least 64 samples.* or smaller batches",
    ),
    "too small a test set": (lambda: tiny_curve(test=blobs(9)), r"test=\): got 9 samples; expected 10 samples or more"),
    "a test set that is trained on": (
        lambda: tiny_curve(dataset=DATA, test=Subset(DATA, range(100, 120))),
        r"test=\): got 20 samples that are trained on; expected samples that are never trained on",
    ),
    "a copy of samples that are trained on": (lambda: tiny_curve(test=blobs(160)), "got 160 samples that are trained"),
    "other labels": (
        lambda: tiny_curve(test=TensorDataset(blobs(40, seed=1).tensors[0], blobs(40, seed=1).tensors[1] + 3)),
        "training on 40 samples: got DataError: labels: got class indices from 3 to 6 for 4 logits",
    ),
    "a training that diverges": (lambda: tiny_curve(Diverging()), "got LogitsError: model output: got logits with NaN"),
    "half a sample": (lambda: tiny_curve(batch_size=0.5), r"batch_size=\): got 0.5; expected a whole number"),
    "a sampler": (lambda: tiny_curve(loader={"sampler": [1, 2]}), "got the argument sampler; .* any part of the data"),
    "an argument that no Trainer has": (
        lambda: tiny_curve(trainer={**TRAINER, "epochs": 3}),
        r"learning_curve\(trainer=\): got TypeError.*epochs.*; expected arguments of a Trainer of one process",
    ),
    "several processes": (
        lambda: tiny_curve(trainer={**TRAINER, "devices": 2, "strategy": "ddp"}),
        "got DDPStrategy, which starts processes",
    ),
    "another process": (lambda: tiny_curve(trainer={**TRAINER, "strategy": "ddp_spawn"}), "which starts processes"),
    "a single class": (
        lambda: tiny_curve(dataset=TensorDataset(blobs(64).tensors[0], torch.ones(64, dtype=torch.long))),
        "got a single class; expected two classes or more",
    ),
    "no epoch": (lambda: tiny_curve(trainer={**TRAINER, "max_epochs": 0}), "got a training without an epoch"),
    "unusual batches": (
        lambda: tiny_curve(forward=lambda module, batch: module(batch[0]).argmax(1)),
        "training on 40 samples: got LogitsError: model output: got shape",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_by_name(name: str):
    call, message = CASES[name]
    with pytest.raises(GapError, match=message) as raised:
        call()
    assert type(raised.value) in (ConfigurationError, DataError, PartError)


def test_sizes_are_rounded_and_leave_no_sample_alone():
    options = {"batch_size": 32}
    assert sizes_of([1 / 8, 1 / 4, 1 / 2], 1000, False, options) == [125, 250, 500]
    assert sizes_of([0.129, 0.161], 1000, False, options) == [128, 160]
    assert sizes_of([0.129], 1000, False, {"batch_size": 1}) == [129]
