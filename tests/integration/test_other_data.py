"""Values that are measured once belong to their samples: other data, other weights, tuners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_gengap import GapMonitor
from lightning_gengap.predictors.observations import Observation
from tests.lightning_models import EpochValues, TinyModel, blobs, fitted, quiet_trainer
from tests.streams import Parts, Stream
from tests.tiny_predictors import tiny_monitor

pytestmark = [
    pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent"),  # small samples lack some measures
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # Lightning's, of a tuner's trial
]

RIDGE = "difficulty/ridge_accuracy"


def easy() -> TensorDataset:
    return blobs()


def relabelled() -> TensorDataset:
    """The same inputs with labels that say nothing."""
    inputs, targets = blobs().tensors
    return TensorDataset(inputs, targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))])


def other_inputs() -> TensorDataset:
    """The same labels on inputs that say nothing."""
    inputs, targets = blobs().tensors
    return TensorDataset(torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1)), targets)


def fewer() -> TensorDataset:
    return blobs(48)


def batches(data: Any, **arguments: Any) -> DataLoader[Any]:
    if isinstance(data, DataLoader):
        return data
    return DataLoader(data, **({"batch_size": 16, "shuffle": True} | arguments))


def difficulty_of(data: Any, model: LightningModule, **arguments: Any) -> float:
    """What a monitor measures that sees these data alone, at these weights."""
    monitor = tiny_monitor(**arguments)
    fitted(monitor, model=model, data=batches(data), max_epochs=1)
    return monitor.values[RIDGE]


def shuffled(data: TensorDataset, seed: int) -> Stream:
    """The samples in an order of their own, which cannot be indexed."""
    return Stream(data, lambda count: torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())


def seeded_model() -> TinyModel:
    torch.manual_seed(5)
    return TinyModel()


def fit_twice(
    monitor: GapMonitor, first: Any, second: Any, between: Callable[[TinyModel], LightningModule | None] | None = None
) -> tuple[TinyModel, EpochValues, dict[str, Any]]:
    """Fit two epochs on each with one Trainer; the model, the values, and the monitor's state after the first."""
    values, model = EpochValues(), seeded_model()
    trainer = quiet_trainer(monitor, values)
    trainer.fit(model, batches(first))
    state = monitor.state_dict()
    model = model if between is None else between(model) or model
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model.train(), batches(second))
    return model, values, state


@pytest.mark.parametrize("other", [relabelled, other_inputs, fewer])
def test_a_second_fit_on_other_data_is_measured_anew(other: Callable[[], TensorDataset], caplog: Any):
    monitor = tiny_monitor()
    _, _, state = fit_twice(monitor, easy(), other())
    after = monitor.state_dict()
    assert monitor.values[RIDGE] == pytest.approx(difficulty_of(other(), seeded_model()))
    assert after["training_loss"]["sums"][1] == 2 * len(batches(other()))
    assert after["began"] == 8
    initial = state["memory"]["initial_state"]
    assert all(torch.equal(value, after["memory"]["initial_state"][name]) for name, value in initial.items())
    said = [message for message in caplog.messages if "starts anew" in message]
    assert len(said) == 1


def test_a_second_fit_on_the_same_data_goes_on(caplog: Any):
    monitor = tiny_monitor()
    _, values, state = fit_twice(monitor, easy(), easy())
    after = monitor.state_dict()
    assert after["memory"]["per_training"] == state["memory"]["per_training"]
    assert after["training_loss"]["sums"][1] == 16
    assert values("gengap/in_support") == [1, 1, 1, 1]
    assert "anew" not in caplog.text


def test_observations_and_worst_values_of_another_task_are_dropped():
    monitor = tiny_monitor()
    trainer, model = quiet_trainer(monitor), seeded_model()
    trainer.fit(model, batches(easy()))
    monitor._state.observations.append(Observation(0.5, 0.7, 0.1, 40))
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model.train(), batches(relabelled()))
    assert monitor.state_dict()["observations"] == []


def test_weights_that_know_the_new_data_are_flagged():
    monitor = tiny_monitor()
    fit_twice(monitor, easy(), fewer())
    assert "initial_weights" in monitor.prediction.outside
    fit_twice(monitor, easy(), relabelled())
    assert "initial_weights" not in monitor.prediction.outside


def test_another_module_or_new_weights_are_a_new_training():
    def another(model: TinyModel) -> TinyModel:
        torch.manual_seed(6)
        return TinyModel()

    def reset(model: TinyModel) -> None:
        model.load_state_dict(another(model).state_dict())

    for between in (another, reset):
        monitor = tiny_monitor()
        model, _, _ = fit_twice(monitor, easy(), easy(), between)
        initial = monitor.state_dict()["memory"]["initial_state"]
        assert torch.equal(initial["head.weight"], another(model).head.weight)
        assert monitor.prediction.outside == ()
        assert monitor.state_dict()["training_loss"]["sums"][1] == 8


def test_trained_weights_from_elsewhere_keep_the_known_initial_ones():
    def trained(model: TinyModel) -> None:
        other = TinyModel()
        fitted(model=other)
        model.load_state_dict(other.state_dict())

    monitor = tiny_monitor()
    _, _, state = fit_twice(monitor, easy(), easy(), trained)
    initial = monitor.state_dict()["memory"]["initial_state"]
    assert torch.equal(initial["head.weight"], state["memory"]["initial_state"]["head.weight"])
    assert monitor.prediction.outside == ("initial_weights",)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_weights_of_a_checkpoint_of_this_training_go_on(tmp_path: Path):
    monitor, model = tiny_monitor(), seeded_model()
    trainer = quiet_trainer(monitor, enable_checkpointing=True, default_root_dir=tmp_path, max_epochs=1)
    trainer.fit(model, batches(easy()))
    state = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model.train(), batches(easy()))
    model.load_state_dict(state)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model.train(), batches(easy()))
    assert monitor.prediction.outside == ()
    assert monitor.state_dict()["training_loss"]["sums"][1] == 12


class WithData(TinyModel):
    """A model with its own data, as the tuners need it."""

    batch_size = 4

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(blobs(), batch_size=self.batch_size, shuffle=True)


TUNERS: dict[str, Callable[[], Any]] = {
    "learning rate": lambda: LearningRateFinder(num_training_steps=12, attr_name="learning_rate"),
    "batch size": lambda: BatchSizeFinder(steps_per_trial=2, init_val=4, max_trials=2),
}


@pytest.mark.parametrize("kind", TUNERS)
@pytest.mark.parametrize("first", [True, False], ids=["tuner first", "monitor first"])
def test_a_tuner_among_the_callbacks_leaves_nothing(kind: str, first: bool, tmp_path: Path):
    monitor, tuner, values = tiny_monitor(), TUNERS[kind](), EpochValues()
    torch.manual_seed(0)
    model = WithData()
    before = {name: value.clone() for name, value in model.named_parameters()}
    callbacks = (tuner, monitor, values) if first else (monitor, tuner, values)
    quiet_trainer(*callbacks, default_root_dir=tmp_path).fit(model)
    _check_clean(monitor, before, 2 * -(-64 // model.batch_size))
    assert values("gengap/status") == [0, 0]


@pytest.mark.parametrize("kind", ["lr_find", "scale_batch_size"])
def test_a_tuner_before_training_leaves_nothing(kind: str, tmp_path: Path):
    monitor, model = tiny_monitor(), WithData()
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = quiet_trainer(monitor, default_root_dir=tmp_path)
    if kind == "lr_find":
        Tuner(trainer).lr_find(model, num_training=12, attr_name="learning_rate")
    else:
        Tuner(trainer).scale_batch_size(model, steps_per_trial=2, init_val=4, max_trials=2)
    assert monitor.values == {}
    trainer.fit(model.train())
    _check_clean(monitor, before, 2 * -(-64 // model.batch_size))


def _check_clean(monitor: GapMonitor, before: dict[str, Any], steps: int) -> None:
    state = monitor.state_dict()
    assert all(torch.equal(value, state["memory"]["initial_state"][name]) for name, value in before.items())
    assert state["training_loss"]["sums"][1] == steps
    assert state["began"] == 0
    assert monitor.prediction.outside == ()


def test_a_tuner_between_two_fits_does_not_hide_other_data(tmp_path: Path):
    class Searching(LearningRateFinder):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch:
                super().on_fit_start(trainer, pl_module)

    monitor, model = tiny_monitor(), seeded_model()
    tuner = Searching(num_training_steps=12, attr_name="learning_rate")
    trainer = quiet_trainer(monitor, tuner, default_root_dir=tmp_path)
    trainer.fit(model, batches(easy()))
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model.train(), batches(relabelled()))
    assert monitor.values[RIDGE] == pytest.approx(difficulty_of(relabelled(), seeded_model()))


def test_a_search_in_mid_training_changes_nothing(tmp_path: Path):
    class Searching(LearningRateFinder):
        def on_fit_start(self, *others: Any) -> None:
            pass

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                self.lr_find(trainer, pl_module)

    monitor, model = tiny_monitor(), seeded_model()
    tuner = Searching(num_training_steps=12, attr_name="learning_rate", update_attr=False)
    quiet_trainer(monitor, tuner, default_root_dir=tmp_path, max_epochs=3).fit(model, batches(easy()))
    assert monitor._loaded is None
    assert monitor.prediction.outside == ()


class Reloaded(TinyModel):
    """A model whose loader is asked for again: the data of each epoch in turn, then the last for ever."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts, self.asked = list(parts), 0

    def train_dataloader(self) -> Any:
        data = self.parts[min(self.asked, len(self.parts) - 1)]
        self.asked += 1
        return data if isinstance(data, DataLoader) else batches(data)


def reloaded(monitor: GapMonitor, *parts: Any, every: int = 2, epochs: int = 4) -> EpochValues:
    torch.manual_seed(5)
    values, model = EpochValues(), Reloaded(*parts)
    trainer = quiet_trainer(monitor, values, max_epochs=epochs, reload_dataloaders_every_n_epochs=every)
    trainer.fit(model)
    assert model.asked == -(-epochs // every)
    return values


@pytest.mark.parametrize("other", [relabelled, other_inputs, fewer])
def test_data_that_change_at_a_reload_are_measured_anew(other: Callable[[], TensorDataset]):
    monitor = tiny_monitor()
    values = reloaded(monitor, easy(), other())
    torch.manual_seed(5)
    assert monitor.values[RIDGE] == pytest.approx(difficulty_of(other(), Reloaded()))
    assert monitor.state_dict()["training_loss"]["sums"][1] == 2 * len(batches(other()))
    assert monitor.values["train_samples"] == len(other())
    assert values("gengap/status") == [0, 0, *values("gengap/status")[2:]]


def test_a_reload_of_the_same_data_reads_one_chunk_and_changes_nothing():
    counted: SimpleQueue[int] = SimpleQueue()

    class Counted(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            counted.put(index)
            return super().__getitem__(index)

        __getitems__ = None

    data, monitor = Counted(*blobs(400).tensors), tiny_monitor()
    reads = []

    class Reads(EpochValues):
        def on_train_epoch_end(self, *others: Any) -> None:
            reads.append(counted.qsize())

    torch.manual_seed(5)
    model = Reloaded(data)
    quiet_trainer(monitor, Reads(), max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(model)
    assert reads[2] - reads[1] == 400 + 128 + 16  # training, the first samples, those read twice
    assert monitor.state_dict()["training_loss"]["sums"][1] == 75
    assert monitor.prediction.outside == ()


def test_a_reloaded_stream_is_copied_again():
    def ordered(data: TensorDataset) -> DataLoader[Any]:
        return DataLoader(Stream(data), batch_size=16)

    same, other = tiny_monitor(), tiny_monitor()
    reloaded(same, ordered(easy()), ordered(easy()))
    reloaded(other, ordered(easy()), ordered(relabelled()))
    torch.manual_seed(5)
    assert same.values[RIDGE] == pytest.approx(difficulty_of(ordered(easy()), Reloaded()))
    assert same.state_dict()["training_loss"]["sums"][1] == 16
    torch.manual_seed(5)
    assert other.values[RIDGE] == pytest.approx(difficulty_of(ordered(relabelled()), Reloaded()))
    assert other.state_dict()["training_loss"]["sums"][1] in (7, 8)


def test_a_shuffled_stream_goes_on_and_its_difficulty_is_measured_anew():
    first, second = DataLoader(shuffled(easy(), 1), batch_size=16), DataLoader(shuffled(easy(), 2), batch_size=16)
    monitor = tiny_monitor(samples=32)
    values = reloaded(monitor, first, second)
    assert monitor.state_dict()["training_loss"]["sums"][1] == 16
    assert "initial_weights" not in monitor.prediction.outside
    assert values("gengap/in_support") == [1, 1, 1, 1]
    torch.manual_seed(5)
    assert monitor.values[RIDGE] == pytest.approx(difficulty_of(second, Reloaded(), samples=32))


LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any], list[int | None]]] = {
    "all": ({}, {}, [64, 64, 64]),
    "half, shuffled": ({}, {"limit_train_batches": 0.5}, [32, 48, 56]),
    "half, in order": ({"shuffle": False}, {"limit_train_batches": 0.5}, [32, 32, 32]),
    "overfit": ({"shuffle": False}, {"overfit_batches": 2}, [32, 32, 32]),
    "a part of an epoch": ({}, {"max_steps": 2}, [32]),
    "few of them": ({"sampler": RandomSampler(blobs(), num_samples=16), "shuffle": False}, {}, [16, 28, 37]),
    "weighted": ({"sampler": WeightedRandomSampler([1.0, 0.0] * 32, 64), "shuffle": False}, {}, [28, 31, 32]),
    "other ones in each epoch": ({"sampler": Parts(), "shuffle": False}, {}, [None] * 3),
}


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.filterwarnings("ignore:GapMonitor. train_samples is absent. the sampler takes other samples")
def test_the_size_is_what_was_trained_on(kind: str):
    of_loader, of_trainer, expected = LIMITS[kind]
    monitor, sizes = tiny_monitor(), []

    class Sizes(EpochValues):
        def on_train_epoch_end(self, *others: Any) -> None:
            sizes.append(monitor.values.get("train_samples"))

    fitted(monitor, Sizes(), data=batches(blobs(), **of_loader), **({"max_epochs": 3} | of_trainer))
    assert sizes == expected


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_a_shuffled_loader_takes_its_first_samples():
    monitor = tiny_monitor()
    fitted(monitor, data=batches(blobs()), overfit_batches=2)
    assert monitor.values["train_samples"] == 32


def test_trained_weights_in_another_trainer_keep_their_initial_ones_and_are_flagged():
    monitor, model = tiny_monitor(), seeded_model()
    fitted(monitor, model=model)
    initial = monitor.state_dict()["memory"]["initial_state"]
    fitted(monitor, model=model.train())
    after = monitor.state_dict()
    assert all(torch.equal(value, after["memory"]["initial_state"][name]) for name, value in initial.items())
    assert after["training_loss"]["sums"][1] == 8
    assert monitor.prediction.outside == ("initial_weights",)


def test_a_monitor_that_comes_late_uses_no_trained_weights_as_initial_ones():
    values, model, monitor = EpochValues(), seeded_model(), tiny_monitor()
    trainer = quiet_trainer(values)
    trainer.fit(model, batches(easy()))
    trainer.callbacks.insert(0, monitor)
    trainer.fit_loop.max_epochs = 4
    with pytest.warns(UserWarning, match="no initial weights, because the weights were trained before"):
        trainer.fit(model.train(), batches(easy()))
    assert monitor.state_dict()["memory"]["initial_state"] is None
    assert monitor.prediction.abstained
