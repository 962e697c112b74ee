"""Each row of docs/refusals.md: what raises, and what is one message while training goes on unchanged.

A new row is a line of the document and a case of the same situation in `refusals`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gengap.cli import main
from lightning_gengap.errors import GapError
from tests.integration.refusals.arguments import RAISES
from tests.integration.refusals.case import Case
from tests.integration.refusals.data import DATA
from tests.integration.refusals.functions import COMMANDS, FUNCTIONS, files
from tests.integration.refusals.page import is_said, rows
from tests.integration.refusals.runs import RUNS
from tests.integration.refusals.tasks import TASKS
from tests.integration.refusals.validations import VALIDATIONS
from tests.lightning_models import quiet_trainer, validation_loader
from tests.tiny_predictors import tiny_monitor

GOES_ON: dict[str, Case] = {**TASKS, **DATA, **RUNS, **VALIDATIONS}
IN_TEST_DISTRIBUTED = {"a failure of another process"}
RAISED, SAID, REFUSED = "What raises before training", "What is said once", "What functions and commands refuse"


def test_every_row_has_a_case_and_every_case_a_row():
    assert set(rows(RAISED)) == set(RAISES)
    assert set(rows(SAID)) == set(GOES_ON) | IN_TEST_DISTRIBUTED
    assert set(rows(REFUSED)) == set(FUNCTIONS) | set(COMMANDS)
    assert rows().keys() == rows(RAISED).keys() | rows(SAID).keys() | rows(REFUSED).keys()


@pytest.mark.parametrize("situation", [*RAISES, *FUNCTIONS])
@pytest.mark.filterwarnings("ignore")
def test_it_raises(situation: str):
    with pytest.raises(GapError) as raised:
        (RAISES | FUNCTIONS)[situation]()
    assert is_said(rows()[situation], str(raised.value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("situation", COMMANDS)
def test_a_command_refuses_in_one_line(
    situation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(files(tmp_path))
    assert main(COMMANDS[situation]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert is_said(rows(REFUSED)[situation], line)


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
    if case.patch is not None:
        case.patch(monkeypatch)
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
    message = rows(SAID)[situation]
    said = [text for text in texts if is_said(message, text)]
    assert len(said) == 1, "\n".join(text for text in texts if "GapMonitor" in text)
    assert "\n" not in said[0]
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(weights(case, case.model(), path), with_monitor)
