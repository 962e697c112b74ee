"""GapMonitor: the callback that decides when to measure, on which samples, and what to log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_gengap.monitor.arguments import check_arguments, select
from lightning_gengap.monitor.budget import Budget
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.loggers import Display
from lightning_gengap.monitor.measuring import measure_together, say_unpaid
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.start_up import StartUp, tolerate_start_failures
from lightning_gengap.monitor.trainer_facts import check_readers, check_strategy, minimised_loss
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.predictor import Prediction, Predictor
from lightning_gengap.samples.batches import Forward, Target
from lightning_gengap.samples.first_batches import FirstBatches
from lightning_gengap.samples.reader import SampleReader


class GapMonitor(Callback):
    """Log the predicted generalization gap of the model in training, from its training data alone.

    Keys, all under `gengap/`: `predicted_gap` with `_lower` and `_upper`, `predicted_test_accuracy`, `in_support`,
    `train_accuracy`, `train_loss`, `actual_gap` (epochs with validation), `status` and `overhead`; `predicted_loss_gap`
    where the predictor has a loss head; `recalibrated_gap` once a validation could be compared with a prediction, which
    it never alters. Units and ranges are in `lightning_gengap.measures.keys`. Training is bit-identical with and
    without it. The weights measured are the raw ones, also where another callback averages them. A second monitor in
    one Trainer, with another predictor, logs under `gengap/<name of its predictor>/`.

    Args:
        predictor: name of a bundled predictor, path of a predictor file, a `Predictor`, or None to only measure.
            `default` takes the image predictor wherever the inputs are images.
        every_n_epochs: measure at the end of the first and of every n-th epoch.
        samples: how many training samples to monitor.
        budget: largest share of the training time that measuring may take; None measures everything whenever due.
            Dear measures that the predictor does not need are taken more rarely, as what the others leave pays for
            them; their keys hold the last value, `age/<measure>` says for how many epochs.
        probe_data: an un-augmented view of the training set: a dataset, a DataLoader or batches.
        layers: up to three module names to watch as h1, h2 and h3, instead of the automatic choice.
        validation_accuracy: the logged key that `actual_gap` compares with; by default the one like `val_acc`.
        verbosity: `quiet` logs the scalars above, `normal` adds histograms, `full` takes and logs every measure.
        on_error: `warn` keeps training and the last values when a measurement fails, of all keys (from the start: there
            are none then) or of one measure that the predictor does not need; `raise` is for debugging.
        measures: names of further measures to take and log.
        forward: maps (module, batch) to logits, for batches that are neither `(x, y)` nor a mapping with usual keys.
        target: maps a batch to class indices.
        seed: draws the samples and the perturbations.

    Raises:
        PredictorError, MeasureError, ConfigurationError: an argument that cannot work.

    Example::

        trainer = Trainer(callbacks=[GapMonitor()])
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
        check_arguments(predictor, every_n_epochs, samples, budget, verbosity, on_error)
        self.predictor = load_predictor(predictor) if isinstance(predictor, str | Path) else predictor
        self.every_n_epochs, self.budget, self.verbosity, self.on_error = every_n_epochs, budget, verbosity, on_error
        selection = select(self.predictor, measures, every=verbosity == "full")
        self.measures = selection.measures
        self._start_up = StartUp(SampleReader(samples, seed, target, forward), selection, probe_data, layers)
        self._display = Display(
            verbosity, tuple(measures), self.predictor is not None, validation_accuracy, raises=on_error == "raise"
        )
        self._display.predicts_loss = self.predictor is not None and self.predictor.loss_head is not None
        if budget is not None:
            self._display.sparse = tuple(selection.schedule().dear)
        self._session: RunState | None = None
        self._restored: dict[str, Any] | None = None
        self._first_batches: FirstBatches | None = None
        self._validated = False
        self._clock = 0.0

    @property
    def values(self) -> dict[str, float]:
        """The last measured values by key, without the `gengap/` prefix; empty before training."""
        return {} if self._session is None else dict(self._session.values)

    @property
    def prediction(self) -> Prediction | None:
        """The last prediction, with its contributions; None before training or without a predictor."""
        return None if self._session is None else self._session.prediction

    # Before the first step: everything that cannot work is raised while the user is still at the keyboard.

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse sharded strategies and callbacks that would read a value before it exists."""
        if stage != "fit" or trainer.barebones:
            return
        check_strategy(trainer)
        monitors = [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]  # type: ignore[attr-defined]
        for monitor in monitors[1:]:  # equal keys would be averaged by `log`
            monitor._display.prefix = f"{PREFIX}{'measures' if monitor.predictor is None else monitor.predictor.name}/"
        if self is monitors[0]:
            self._display.prefix = PREFIX
            check_readers(trainer, lambda key: any(monitor._display.logs(key, trainer) for monitor in monitors))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the samples, choose the layers, measure the task's difficulty."""
        started = time.perf_counter()
        self._first_batches = None
        self._validated = self._display.noticed = False
        self._session = session = self._begin(trainer, pl_module)
        if session is None:
            return
        with tolerate_start_failures(session, trainer):
            self._first_batches = self._start_up.watch(trainer, pl_module, session)
        self._display.lay_out(trainer)
        session.budget.start_up += time.perf_counter() - started
        self._clock = time.perf_counter()

    def _begin(self, trainer: Trainer, module: LightningModule) -> RunState | None:
        """A fresh session, or the one that a checkpoint or the last `fit` of this Trainer left; None if off."""
        if trainer.barebones:
            rank_zero_info("GapMonitor is switched off: Trainer(barebones=True) logs nothing.")
            return None
        restored, self._restored = self._restored, None
        session = RunState(self.predictor, Budget(self.budget), raises=self.on_error == "raise")
        return self._start_up.begin(session, trainer, module, restored, self._session)

    # During training: nothing raises, whatever fails is said once.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the first batches where the data cannot be indexed; watch the step's logits where they are needed."""
        session = self._session
        if session is None:
            return
        if self._first_batches is not None:
            self._start_up.copy(batch, self._first_batches, session, pl_module)
        if session.measurer is not None:
            session.speed.begin_step(pl_module, session.measurer.classes, trainer.current_epoch, batch_idx)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step's loss to the training speed."""
        if self._session is None:
            return
        loss = minimised_loss(trainer, pl_module, outputs)
        self._session.speed.step(loss, lambda: self._start_up.reading.batch(batch).targets)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that this epoch has a validation accuracy."""
        self._validated = self._validated or not trainer.sanity_checking

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure if due, then log the same keys on every rank."""
        session = self._session
        if session is None:
            return
        now = time.perf_counter()
        session.budget.trained += now - self._clock
        due = not session.measured or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        needed = self._start_up.selection.needed
        measurement = measure_together(trainer, pl_module, session, needed, due, self._catch_up)
        # Copied batches and training speed differ between ranks, and so may the keys: rank 0 speaks for all.
        agree = trainer.strategy.reduce_boolean_decision
        validated = self._validated and agree("train_accuracy" in session.readout.shown, all=True)
        shown = trainer.strategy.broadcast(self._display.scalars(session, trainer, validated))
        pl_module.log_dict(shown, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        if measurement is not None:
            started = time.perf_counter()
            self._display.draw(trainer, measurement, session)
            session.budget.spent += time.perf_counter() - started
        self._validated = False
        self._clock = time.perf_counter()

    def _catch_up(self, trainer: Trainer, module: LightningModule, session: RunState) -> None:
        """Watch the copied batches, all of them, once the first epoch has ended; or what failed before it."""
        started = time.perf_counter()
        if self._first_batches is not None:
            self._start_up.start(self._first_batches.checked(), session, module, trainer)
            self._first_batches = None
        elif session.measurer is None:
            self._first_batches = self._start_up.watch(trainer, module, session)
        session.budget.start_up += time.perf_counter() - started

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which measures were asked for and never paid for."""
        if self._session is not None:
            say_unpaid(self._session)

    # State: tensors and primitives; nothing stays registered between measurements.

    @property
    @override
    def state_key(self) -> str:
        """One key per predictor, so that two monitors can share a Trainer."""
        return self._generate_state_key(predictor=None if self.predictor is None else self.predictor.name)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Initial weights, difficulty, training speed, budget and the values last shown."""
        return {} if self._session is None else self._session.state()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training resumes."""
        self._restored = state_dict or None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what a step in progress had registered; Lightning does not call `teardown` then."""
        self._let_go()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the samples."""
        self._let_go()

    def _let_go(self) -> None:
        self._first_batches = None
        if self._session is not None:
            self._session.speed.close()
            self._session.measurer = None
