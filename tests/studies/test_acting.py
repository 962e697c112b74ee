from pathlib import Path

import acting
import pytest
import torch
from acting import RUNS, Noting, Run, accuracies, lost, main, read, report
from torch import nn

TINY = (Run("improves", "digits", "mlp", 200, 3), Run("turns", "digits", "mlp", 100, 2, noise=0.4))


def test_runs_are_named_apart_and_of_both_kinds():
    assert len({run.name for run in RUNS}) == len(RUNS)
    assert [sum(run.kind == kind for run in RUNS) for kind in ("improves", "turns")] == [12, 6]


def test_a_study_is_trained_once_and_goes_on_where_it_was_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "runs" / "acting.csv"
    main(["--out", str(out), "--only", "improves"], TINY)
    (row,) = read(out)
    assert row["run"] == "improves_digits_mlp_200_0"
    assert row["oracle"] >= max(row["last"], row["checkpoint"], row["stop"], row["hold-out"]) > 0
    assert row["last epoch"] == row["gap stop epoch"] == 3
    assert 0 <= row["fresh"] + row["held"] + row["abstaining"] <= 1
    main(["--out", str(out)], TINY)
    assert [row["run"] for row in read(out)] == [run.name for run in TINY]
    monkeypatch.setattr(acting, "row_of", None)  # nothing is left to train
    main(["--out", str(out)], TINY)
    printed = capsys.readouterr().out
    assert printed.count("| 1 that improve to the end | `ModelCheckpoint` |") == 3
    assert printed.count("| 1 that turn | best of 100 held-out samples |") == 2


def test_what_a_recipe_lost_is_counted_against_the_last_epoch():
    recipes = dict.fromkeys((*acting.RECIPES, "oracle"), 90.0)
    row = {"run": "a", "kind": "improves", "epochs": 3, "fresh": 1.0, "last": 92.0} | recipes
    row |= {f"{name} epoch": 3 for name in ("last", *recipes)}
    other = row | {"run": "b", "stop": 95.0}
    assert lost([row, other], "stop") == [2.0, -3.0]
    assert "| 2 that improve to the end | `EarlyStopping` | -0.5 ± 3.5 | +2.0 | 1 |" in report([row, other])


def test_a_stopper_notes_its_first_stop_and_lets_training_go_on():
    class Stopper:
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch >= 2

    class Trainer:
        should_stop, current_epoch = False, 0

    stopper, trainer = type("Both", (Noting, Stopper), {})(), Trainer()
    for trainer.current_epoch in range(5):
        stopper.on_train_epoch_end(trainer, None)
        assert not trainer.should_stop
    assert stopper.stopped == 2


def test_the_accuracy_is_that_of_each_epochs_weights():
    model = nn.Linear(1, 2, bias=False)
    weights = [{"weight": torch.tensor([[0.0], [sign]])} for sign in (1.0, -1.0)]
    inputs, labels = torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([1, 1, 1])
    assert accuracies(model, weights, inputs, labels) == pytest.approx([2 / 3, 1 / 3])
