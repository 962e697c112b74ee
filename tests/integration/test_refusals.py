"""Each row of docs/refusals.md: what raises before training, and what is one message while training goes on unchanged.

A new row is a line of the document and a case of the same situation in `refusals`.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gengap.errors import GapError
from tests.integration.refusals.arguments import RAISES
from tests.integration.refusals.case import Case
from tests.integration.refusals.data import DATA
from tests.integration.refusals.runs import RUNS
from tests.integration.refusals.tasks import TASKS
from tests.integration.refusals.validations import VALIDATIONS
from tests.lightning_models import put_measure, quiet_trainer, validation_loader
from tests.tiny_predictors import tiny_monitor

PAGE = Path(__file__).parents[2] / "docs" / "refusals.md"
ROW = re.compile(r"^\| (?P<situation>[^|]+) \| `(?P<message>.+)` \| (?P<remedy>.+) \|$")
GOES_ON: dict[str, Case] = {**TASKS, **DATA, **RUNS, **VALIDATIONS}


def rows(title: str) -> dict[str, str]:
    """The messages of one section of the page, by situation."""
    (section,) = [part for part in PAGE.read_text().split("\n## ") if part.startswith(title)]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    found = [match for match in map(ROW.match, lines) if match]
    heads = sum(line.startswith("|---") for line in lines)
    assert len(found) == len(lines) - 2 * heads, "a row that is not: situation, `message`, what to do"
    named = {match["situation"]: match["message"] for match in found}
    assert len(named) == len(found), "a situation that comes twice"
    return named


def is_said(message: str, text: str) -> bool:
    """Whether the text begins with the message, where each … is anything."""
    return re.match(".*".join(map(re.escape, message.split("…"))), text, re.DOTALL) is not None


def test_every_row_has_a_case_and_every_case_a_row():
    assert set(rows("What raises before training")) == set(RAISES)
    assert set(rows("What is said once")) == set(GOES_ON)


@pytest.mark.parametrize("situation", RAISES)
@pytest.mark.filterwarnings("ignore")
def test_it_raises_before_training(situation: str):
    with pytest.raises(GapError) as raised:
        RAISES[situation]()
    assert is_said(rows("What raises before training")[situation], str(raised.value))
    assert "\n" not in str(raised.value)


def weights(case: Case, model: LightningModule, path: Path | None, *callbacks: Any) -> torch.Tensor:
    """The state of the model after training."""
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(*callbacks, enable_checkpointing=saves, **{"max_epochs": 3, **case.trainer})
    if case.earlier is not None:
        waiting = trainer.callbacks[:] if case.late else []
        trainer.callbacks[:] = [callback for callback in trainer.callbacks if callback not in waiting]
        torch.manual_seed(0)
        trainer.fit_loop.max_epochs = 1
        trainer.fit(model, case.earlier())
        trainer.callbacks[:0], trainer.fit_loop.max_epochs = waiting, 3
        model.train()
    torch.manual_seed(0)
    held_out = validation_loader() if hasattr(model, "validation_step") else None
    trainer.fit(model, case.data(), held_out, ckpt_path=path)
    assert trainer.current_epoch == 3
    return torch.cat([tensor.detach().flatten().double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("situation", GOES_ON)
def test_it_is_said_once_and_training_goes_on_unchanged(
    situation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    case = GOES_ON[situation]
    for name, (function, forwards) in case.measures.items():
        put_measure(monkeypatch, name, function, forwards)
    readers = [] if case.reader is None else [case.reader()]
    with warnings.catch_warnings(record=True) as of_the_checkpoint:
        warnings.simplefilter("always")
        path = None if case.checkpoint is None else case.checkpoint(tmp_path)
    assert not any("GapMonitor" in str(warning.message) for warning in of_the_checkpoint)
    caplog.clear()
    torch.manual_seed(1)
    watched = case.model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with_monitor = weights(case, watched, path, tiny_monitor(**case.monitor), *readers)
    texts = [*(str(warning.message) for warning in caught), *caplog.messages]
    message = rows("What is said once")[situation]
    said = [text for text in texts if is_said(message, text)]
    assert len(said) == 1, "\n".join(text for text in texts if "GapMonitor" in text)
    assert "\n" not in said[0]
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(weights(case, case.model(), path), with_monitor)
