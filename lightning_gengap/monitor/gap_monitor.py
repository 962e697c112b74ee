"""GapMonitor: the callback that measures a model in training and logs its predicted generalization gap."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.epoch_measurement import compare_with_validation, measure, plan
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.loggers import Display
from lightning_gengap.monitor.notices import say_unpaid
from lightning_gengap.monitor.origin import weights_digest
from lightning_gengap.monitor.run_state import RunState, shared_part
from lightning_gengap.monitor.schedule import Selection
from lightning_gengap.monitor.start_up import StartUp, begin
from lightning_gengap.monitor.trainer_facts import check_readers, check_strategy, is_trial, minimised_loss, was_reloaded
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.predictor import Prediction, Predictor
from lightning_gengap.samples.batches import Forward, Target
from lightning_gengap.samples.reader import SampleReader


class GapMonitor(Callback):
    """Log the predicted generalization gap of the model in training, from its training data alone.

    All keys begin with `gengap/`: `predicted_gap` with `_lower` and `_upper`, `predicted_test_accuracy`, `in_support`,
    `train_accuracy`, `train_loss`, `actual_gap` (in epochs with validation), `status` and `overhead`. A predictor with
    a loss head adds `predicted_loss_gap`. Once a validation could be compared with a prediction, `recalibrated_gap` is
    there too; it never alters the prediction. Gaps and accuracies are fractions, losses are in nats. All units and
    ranges are in docs/measures.md.

    Training is bit-identical with and without the monitor. The weights measured are the raw ones, also where another
    callback averages them. A second monitor in one Trainer, with another predictor, logs under
    `gengap/<name of its predictor>/`. Measuring takes 5 % of the training time at most, unless `budget` says otherwise.

    Args:
        predictor: name of a bundled predictor, path of a predictor file, a `Predictor`, or None to only measure.
            `default` takes the image predictor wherever the inputs are images.
        every_n_epochs: measure at the end of the first and of every n-th epoch.
        samples: how many training samples to monitor, at least 20.
        budget: the largest share of the training time that measuring may take, in (0, 1]. None measures everything
            whenever it is due. With a budget, expensive measures that the predictor does not need are taken more
            rarely, whenever the rest of the budget has paid for them. Their keys hold the last value, and
            `age/<measure>` says for how many epochs.
        probe_data: an un-augmented view of the training set: a dataset, a DataLoader or batches.
        layers: one to three module names to watch as h1, h2 and h3, instead of the automatic choice.
        validation_accuracy: the logged key that `actual_gap` compares with. By default the one like `val_acc`.
        verbosity: `quiet` logs the scalars above, `normal` adds histograms, `full` takes and logs every measure.
        on_error: `warn` keeps training when a measurement fails, and holds the last values of all keys. Where a measure
            fails that the predictor does not need, only its own keys are held. `raise` is for debugging.
        measures: names of measures to take and log, whether or not the predictor needs them.
        forward: maps (module, batch) to logits, for batches that are neither `(x, y)` nor a mapping with usual keys.
        target: maps a batch to class indices.
        seed: draws the samples and the perturbations.

    Raises:
        PredictorError, MeasureError, ConfigurationError: an argument that cannot work.
        GapError: before the first step, a task, data or Trainer that cannot be watched.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from torch import nn
        >>> from lightning_gengap import GapMonitor
        >>> class Classifier(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
        ...
        ...     def forward(self, images):
        ...         return self.net(images)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         return nn.functional.cross_entropy(self(batch[0]), batch[1])
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), 0.1)
        >>> images = torch.randn(64, 1, 8, 8)
        >>> data = torch.utils.data.TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
        >>> options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
        >>> trainer = Trainer(callbacks=[GapMonitor()], max_epochs=1, enable_model_summary=False, **options)
        >>> trainer.fit(Classifier(), torch.utils.data.DataLoader(data, batch_size=16))
        >>> 0 <= trainer.callback_metrics["gengap/predicted_gap"] <= 1
        tensor(True)
    """

    def __init__(
        self,
        predictor: str | Path | Predictor | None = "default",
        every_n_epochs: int = 1,
        samples: int = 1024,
        budget: float | None = 0.05,
        probe_data: Any = None,
        layers: Sequence[str] | None = None,
        validation_accuracy: str | None = None,
        verbosity: Literal["quiet", "normal", "full"] = "normal",
        on_error: Literal["warn", "raise"] = "warn",
        measures: Sequence[str] = (),
        forward: Forward | None = None,
        target: Target | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        kinds = str | Path | Predictor | None
        _require("predictor", predictor, isinstance(predictor, kinds), "a name, a path, a Predictor or None")
        _require("every_n_epochs", every_n_epochs, every_n_epochs >= 1, "at least 1")
        _require("samples", samples, samples >= 20, "at least 20")
        _require("budget", budget, budget is None or 0 < budget <= 1, "a share in (0, 1], or None")
        _require("verbosity", verbosity, verbosity in ("quiet", "normal", "full"), "'quiet', 'normal' or 'full'")
        _require("on_error", on_error, on_error in ("warn", "raise"), "'warn' or 'raise'")
        _require("measures", measures, not isinstance(measures, str), "a sequence of names")
        self.predictor = load_predictor(predictor) if isinstance(predictor, str | Path) else predictor
        self.every_n_epochs, self.budget, self.validation_accuracy = every_n_epochs, budget, validation_accuracy
        self.on_error = on_error
        self._selection = Selection.of(self.predictor, measures, everything=verbosity == "full")
        self.measures = self._selection.measures
        self._start_up = StartUp(SampleReader(samples, seed, target, forward), probe_data, layers)
        self._display = Display(self._selection, verbosity, budgeted=budget is not None)
        self._state: RunState | None = None
        self._training = False
        self._loaded: Mapping[str, Any] | None = None

    @property
    def values(self) -> dict[str, float]:
        """The last measured values by key, without the `gengap/` prefix; empty before training."""
        return {} if self._state is None else dict(self._state.values)

    @property
    def prediction(self) -> Prediction | None:
        """The last prediction, with its contributions; None before training or without a predictor."""
        return None if self._state is None else self._state.prediction

    # Before the first step: everything that cannot work is raised while the user is still at the keyboard.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse sharded strategies and callbacks that would read a value before it exists."""
        if stage != "fit" or trainer.barebones:
            return
        check_strategy(trainer)
        monitors = monitors_of(trainer)
        if self is monitors[0]:
            check_readers(trainer, lambda key: any(monitor._logs(key, trainer) for monitor in monitors))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the samples, choose the layers, measure the task's difficulty."""
        started = time.perf_counter()
        previous, self._state = self._state, None
        loaded, self._loaded = self._loaded, None
        if trainer.barebones:
            rank_zero_info("GapMonitor is switched off: Trainer(barebones=True) logs nothing.")
            return
        raises = self.on_error == "raise"
        state = begin(trainer, pl_module, self._selection, self.budget, raises, loaded, previous)
        self._state, self._training = state, True
        self._start_up.run(trainer, pl_module, state)
        self._display.lay_out(trainer, self._prefix(trainer), state)
        state.clock = time.perf_counter()
        state.budget.start_up += state.clock - started

    # During training: nothing raises, whatever fails is said once.

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether a loader that Lightning asks for again has the same samples."""
        if self._state is not None and was_reloaded(trainer):
            self._start_up.reload(trainer, pl_module, self._state)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the first batches where the data cannot be indexed; watch the step's logits where they are needed."""
        state = self._state
        if state is None:
            return
        self._start_up.copy(batch, pl_module, state)
        if state.measurer is not None:
            state.training_loss.begin_step(pl_module, state.measurer.classes, trainer.current_epoch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step's loss to the running means."""
        if self._state is not None:
            loss = minimised_loss(trainer, pl_module, outputs)
            self._state.training_loss.step(loss, lambda: self._start_up.reader.batch(batch).targets)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that this epoch has a validation accuracy."""
        if self._state is not None and not trainer.sanity_checking:
            self._state.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan, measure, compare, log and draw."""
        state = self._state
        if state is None:
            return
        state.budget.trained += time.perf_counter() - state.clock
        optional = plan(trainer, state, self.every_n_epochs)
        measurement = None if optional is None else measure(trainer, pl_module, state, self._start_up, optional)
        actual_gap = compare_with_validation(trainer, state, self.validation_accuracy)
        # Copied batches and the training loss differ between ranks, and so may the keys: rank 0 speaks for all.
        shown = trainer.strategy.broadcast(self._display.scalars(state, actual_gap, trainer.current_epoch))
        prefix = self._prefix(trainer)
        logged = {f"{prefix}{key}": value for key, value in shown.items()}
        pl_module.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        if measurement is not None:
            started = time.perf_counter()
            self._display.draw(trainer, prefix, state, measurement)
            state.budget.spent += time.perf_counter() - started
        state.validated, state.clock = False, time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which measures were asked for and never paid for."""
        if self._state is not None:
            say_unpaid(self._state)

    # State: tensors and primitives; nothing stays registered between measurements.

    @property
    def state_key(self) -> str:
        """One key per predictor, so that two monitors can share a Trainer."""
        return self._generate_state_key(predictor=None if self.predictor is None else self.predictor.name)

    def state_dict(self) -> dict[str, Any]:
        """Initial weights, difficulty, training loss, budget, the values last shown, and what they belong to."""
        if self._loaded is not None:
            return dict(self._loaded)
        return {} if self._state is None else self._state.state()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember these weights as ones of this training, in case that they are loaded before the next `fit`."""
        if self._state is not None and self._training:
            self._state.seen.add(weights_digest(pl_module))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the own state until training resumes, or what another monitor's holds for any predictor."""
        if self._training or is_trial(trainer):
            return  # whoever goes back in training, as the learning rate finder does, does so with the same data
        kept = checkpoint["callbacks"]
        others = (state for key, state in kept.items() if key.startswith(f"{type(self).__qualname__}{{"))
        own = kept.get(self.state_key) or shared_part(next(others, {}))
        self._loaded = own if isinstance(own, Mapping) else {"format": type(own).__name__}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what a step in progress had registered; Lightning does not call `teardown` then."""
        self._let_go(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the samples."""
        self._let_go(pl_module)

    def _let_go(self, model: LightningModule) -> None:
        self._loaded = None
        if self._state is not None and self._training:
            self._state.training_loss.close()
            self._state.measurer = self._state.first_batches = None
            self._state.seen.add(weights_digest(model))
        self._training = False

    # Keys: equal ones would be averaged by `log`, so that every further monitor has a prefix of its own.

    def _prefix(self, trainer: Trainer) -> str:
        if self is monitors_of(trainer)[0]:
            return PREFIX
        return f"{PREFIX}{'measures' if self.predictor is None else self.predictor.name}/"

    def _logs(self, key: str, trainer: Trainer) -> bool:
        """Whether this full key will be logged in every epoch."""
        prefix = self._prefix(trainer)
        return key.startswith(prefix) and self._display.logs(key.removeprefix(prefix), trainer)


def monitors_of(trainer: Trainer) -> list[GapMonitor]:
    """The monitors of a Trainer, in the order of its callbacks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]  # type: ignore[attr-defined]


def _require(argument: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"GapMonitor({argument}=)", got=repr(value), expected=expected, remedy="See its docs.")
