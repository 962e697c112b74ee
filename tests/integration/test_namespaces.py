"""Everything works alike with `lightning` and with `pytorch_lightning`, whose classes are others."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.errors import ConfigurationError
from tests.namespaces import FIRST, OTHER, data_module_of, each_tree, fit, module_of, needs_both, of, trainer_of
from tests.tiny_predictors import ALWAYS, tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures
KEY = "gengap/predicted_test_accuracy"


def early_stopping(tree: str, folder: Path) -> list[Any]:
    stopping = of(tree, "callbacks.EarlyStopping")(KEY, mode="max", patience=1, min_delta=1.0)
    rows = fit(tree, stopping, tiny_monitor(), max_epochs=4)
    return [rows.rows, stopping.stopped_epoch, stopping.best_score]


def checkpoint(tree: str, folder: Path) -> list[Any]:
    best = of(tree, "callbacks.ModelCheckpoint")(folder, f"{{epoch}}-{{{KEY}:.6f}}", KEY, mode="max", save_top_k=2)
    rows = fit(tree, best, tiny_monitor(), max_epochs=3, enable_checkpointing=True)
    return [rows.rows, best.best_model_score, sorted(path.name for path in folder.rglob("*.ckpt"))]


def plateau(tree: str, folder: Path) -> list[Any]:
    model = module_of(tree, plateau="gengap/status")
    rows = fit(tree, tiny_monitor(), model=model, max_epochs=3)
    return [rows.rows, model.optimizers().param_groups[0]["lr"]]


def gap_early_stopping(tree: str, folder: Path) -> list[Any]:
    stopping = GapEarlyStopping("gengap/train_loss", mode="min", patience=2, min_delta=10.0)
    rows = fit(tree, stopping, tiny_monitor(), max_epochs=6)
    return [rows.rows, stopping.stopped_epoch, stopping.reason]


def largest_gap(tree: str, folder: Path) -> list[Any]:
    stopping = GapEarlyStopping(max_gap=0.01)
    rows = fit(tree, stopping, tiny_monitor(), max_epochs=3, val_check_interval=0.5)
    return [rows.rows, stopping.stopped_epoch, stopping.reason]


def resumed(tree: str, folder: Path) -> list[Any]:
    monitor = tiny_monitor()
    first = fit(tree, monitor, max_epochs=1)
    first.trainer.save_checkpoint(folder / "saved.ckpt")
    again = tiny_monitor()
    rows = fit(tree, again, max_epochs=3, ckpt_path=folder / "saved.ckpt").rows
    assert len(rows) == 2
    assert again.state_dict()["memory"]["per_training"] == monitor.state_dict()["memory"]["per_training"]
    return [rows]


def measures(tree: str, folder: Path) -> list[Any]:
    return [fit(tree, tiny_monitor(verbosity="full")).rows]


def csv_logger(tree: str, folder: Path) -> list[Any]:
    fit(tree, tiny_monitor(verbosity="normal"), logger=of(tree, "loggers.CSVLogger")(folder, name="", version=""))
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["gengap/predicted_gap"]]
    assert [int(row["step"]) for row in rows] == [3, 7]
    return [{key: value for key, value in row.items() if key != "gengap/overhead"} for row in rows]


def tensorboard(tree: str, folder: Path) -> list[Any]:
    logger = of(tree, "loggers.TensorBoardLogger")(folder, name=None, version="")
    fit(tree, tiny_monitor(verbosity="normal"), logger=logger)
    written = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0, "scalars": 0}).Reload()
    tags = written.Tags()
    assert {"gengap/margin/input", "gengap/margin/h3"} <= set(tags["histograms"])
    assert "custom_scalars__config__" in tags["tensors"]
    histograms = [[event.histogram_value for event in written.Histograms(key)] for key in sorted(tags["histograms"])]
    return [sorted(tags["scalars"]), sorted(tags["tensors"]), histograms]


def any_other_logger(tree: str, folder: Path) -> list[Any]:
    class Memory(of(tree, "loggers.Logger")):  # type: ignore[misc]
        name, version, rows = "memory", "0", []

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            """Not kept."""

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            values = {key: value for key, value in metrics.items() if key != "gengap/overhead"}
            self.rows.append((step, values))

    logger = Memory()
    fit(tree, tiny_monitor(verbosity="normal"), logger=logger)
    assert [step for step, values in logger.rows if "gengap/predicted_gap" in values] == [3, 7]
    return logger.rows


class Experiment:
    """Stands for the run of W&B, and keeps what it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, (args, kwargs)))


def wandb(tree: str, folder: Path) -> list[Any]:
    pytest.importorskip("wandb")
    logger, spy = of(tree, "loggers.WandbLogger")(save_dir=folder, offline=True), Experiment()
    logger._experiment = spy
    fit(tree, tiny_monitor(verbosity="normal"), logger=logger)
    sent = [args[0] for name, (args, _) in spy.calls if name == "log"]
    panels = [values for values in sent if "gengap/margin/h3" in values]
    assert [values["trainer/global_step"] for values in panels] == [3, 7]
    assert ("define_metric", (("gengap/*",), {"step_metric": "trainer/global_step"})) in spy.calls
    drawn = [[list(values["gengap/margin/h3"].histogram), values.keys()] for values in panels]
    return [[sorted(values) for values in sent], drawn]


SETTINGS: dict[str, Callable[[str, Path], list[Any]]] = {
    function.__name__: function
    for function in (
        early_stopping,
        checkpoint,
        plateau,
        gap_early_stopping,
        largest_gap,
        resumed,
        measures,
        any_other_logger,
        csv_logger,
        tensorboard,
        wandb,
    )
}


@needs_both
@pytest.mark.parametrize("setting", SETTINGS)
def test_both_trees_give_the_same(tmp_path: Path, setting: str):
    first, other = (SETTINGS[setting](tree, tmp_path / tree) for tree in (FIRST, OTHER))
    assert first == other


@each_tree
def test_every_key_is_logged_and_fresh(tree: str):
    rows = fit(tree, tiny_monitor()).rows
    assert all(row.keys() >= ALWAYS - {"gengap/overhead"} for row in rows)
    assert [row["gengap/status"] for row in rows] == [0, 0]
    assert all("gengap/actual_gap" in row for row in rows)


@each_tree
def test_a_checkpoint_that_looks_during_training_is_told(tree: str, tmp_path: Path):
    checkpoint = of(tree, "callbacks.ModelCheckpoint")(monitor=KEY, every_n_train_steps=2)
    arguments = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    with pytest.warns(UserWarning, match=r"looks during training.*GapMonitor\(every_n_train_steps=2\)"):
        fit(tree, tiny_monitor(), checkpoint, **arguments)


@each_tree
def test_a_stopper_that_looks_after_validation_reads_fresh_values(tree: str):
    stopper = of(tree, "callbacks.EarlyStopping")(KEY, mode="max", patience=9)
    rows = fit(tree, tiny_monitor(), stopper, val_check_interval=0.5).rows
    assert [row["gengap/status"] for row in rows] == [0, 0]
    assert stopper.best_score >= rows[0][KEY]


@each_tree
def test_a_key_that_is_never_logged_is_refused(tree: str):
    with pytest.raises(ConfigurationError, match="does not log with these arguments"):
        fit(tree, tiny_monitor(), of(tree, "callbacks.EarlyStopping")("gengap/predicted_gab"))


@each_tree
def test_a_sharded_strategy_is_refused(tree: str):
    trainer = trainer_of(tree, tiny_monitor())
    trainer.strategy.__class__ = type("FSDPStrategy", (type(trainer.strategy),), {})
    with pytest.raises(ConfigurationError, match="strategy=FSDPStrategy"):
        trainer.fit(module_of(tree), datamodule=data_module_of(tree))


@needs_both
@pytest.mark.parametrize(("tree", "foreign"), [(FIRST, OTHER), (OTHER, FIRST)])
def test_a_stopper_of_the_other_tree_is_refused_where_it_would_look_too_early(tree: str, foreign: str):
    def reader() -> Any:
        return of(foreign, "callbacks.EarlyStopping")(KEY, mode="max", patience=9)

    with pytest.raises(ConfigurationError, match=f"Use from {tree}.callbacks import EarlyStopping"):
        fit(tree, reader(), tiny_monitor())
    late = reader()
    rows = fit(tree, tiny_monitor(), late).rows
    assert float(late.best_score) == pytest.approx(max(row[KEY] for row in rows))


@each_tree
def test_our_callbacks_are_those_of_each_tree(tree: str):
    assert isinstance(GapMonitor(predictor=None), of(tree, "Callback"))
    assert isinstance(GapEarlyStopping(), of(tree, "callbacks.EarlyStopping"))


IMPORTED = """
import sys, warnings
warnings.simplefilter("error")
{first}
from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning.fabric.utilities.rank_zero import rank_zero_module
print(rank_zero_module.log.name, *(name for name in ("wandb", "mlflow", "tensorboard") if name in sys.modules))
"""


@each_tree
def test_importing_is_silent_and_leaves_lightnings_messages_to_the_tree_of_the_script(tree: str):
    command = [sys.executable, "-c", IMPORTED.format(first=f"import {tree}")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == [f"{tree}.utilities.rank_zero"]
    assert printed.stderr == ""


def test_a_second_tree_that_cannot_be_imported_is_left_alone(tmp_path: Path):
    (tmp_path / OTHER).mkdir()
    (tmp_path / OTHER / "__init__.py").write_text("raise AttributeError('too old for this torch')")
    script = "from lightning_gengap.monitor.namespaces import TREES; print(len(TREES))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["1"]
