"""GapMonitor: the callback that decides when to measure, on which samples, and what to log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_gengap.batches import Forward, Target, read_batch
from lightning_gengap.budget import Budget
from lightning_gengap.charts import draw, lay_out
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.keys import MEASURED, PREFIX
from lightning_gengap.measures import MEASURES, known
from lightning_gengap.observer import Observation
from lightning_gengap.predictor import Prediction, Predictor, load_predictor
from lightning_gengap.probe import copy_state
from lightning_gengap.readout import Status
from lightning_gengap.samples import Reading, Samples, copied, draw_samples, take_batches
from lightning_gengap.session import Session
from lightning_gengap.wiring import check_readers, check_strategy, find_validation_accuracy

MOST_FAILURES = 3


class GapMonitor(Callback):
    """Log the predicted generalization gap of the model in training, from its training data alone.

    Keys, all under `gengap/`: `predicted_gap` with `_lower` and `_upper`, `predicted_test_accuracy`, `in_support`,
    `train_accuracy`, `train_loss`, `actual_gap` (epochs with validation), `status` and `overhead`; their units and
    ranges are in `lightning_gengap.keys`. Training is bit-identical with and without it. The weights measured are
    the raw ones, also where another callback averages them.

    Args:
        predictor: name of a bundled predictor, path of a predictor file, a `Predictor`, or None to only measure.
        every_n_epochs: measure at the end of the first and of every n-th epoch.
        samples: how many training samples to monitor.
        budget: largest share of the training time that measuring may take; None measures whenever due.
        probe_data: an un-augmented view of the training set: a dataset, a DataLoader or batches.
        layers: up to three module names to watch as h1, h2 and h3, instead of the automatic choice.
        validation_accuracy: the logged key that `actual_gap` compares with; by default the one like `val_acc`.
        verbosity: `quiet` logs the scalars above, `normal` adds histograms, `full` takes and logs every measure.
        on_error: `warn` keeps training and the last values when a measurement fails; `raise` is for debugging.
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
        _require("every_n_epochs", every_n_epochs, every_n_epochs >= 1, "at least 1")
        _require("samples", samples, samples >= 20, "at least 20")
        _require("budget", budget, budget is None or 0 < budget <= 1, "a share in (0, 1], or None")
        _require("verbosity", verbosity, verbosity in ("quiet", "normal", "full"), "'quiet', 'normal' or 'full'")
        _require("on_error", on_error, on_error in ("warn", "raise"), "'warn' or 'raise'")
        self.predictor = load_predictor(predictor) if isinstance(predictor, str | Path) else predictor
        self.every_n_epochs, self.budget, self.verbosity, self.on_error = every_n_epochs, budget, verbosity, on_error
        self._extra = tuple(measures)
        needed = () if self.predictor is None else self.predictor.measures
        names = ("margin", "fit", *needed, *measures, *(MEASURES if verbosity == "full" else ()))
        self.measures = tuple(name for name in dict.fromkeys(names) if known(name))
        self._probe_data, self._layers, self._samples, self._seed = probe_data, layers, samples, seed
        self._forward, self._target, self._validation_accuracy = forward, target, validation_accuracy
        self._session: Session | None = None
        self._restored: dict[str, Any] | None = None
        self._first_batches: list[Any] | None = None
        self._validated = self._noticed = False
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
        if stage == "fit" and not trainer.barebones:
            check_strategy(trainer)
            check_readers(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the samples, choose the layers, measure the task's difficulty."""
        started = time.perf_counter()
        self._first_batches, self._noticed = None, False
        self._session = self._begin(trainer, pl_module)
        if self._session is None:
            return
        samples = draw_samples(
            trainer.train_dataloader, self._reading(trainer), self._probe_data, trainer.num_training_batches
        )
        if samples is None:
            self._first_batches = []
        else:
            self._watch(pl_module, samples)
            self._session.measure(pl_module, ["fit", *filter(_once, self.measures)], self._progress(trainer))
            self._session.measured = False
        if self.verbosity != "quiet" and trainer.is_global_zero:
            for logger in trainer.loggers:
                lay_out(logger)
        self._session.budget.start_up += time.perf_counter() - started
        self._clock = time.perf_counter()

    def _begin(self, trainer: Trainer, module: LightningModule) -> Session | None:
        """A fresh session, or the one that a checkpoint or the last `fit` of this Trainer left; None if off."""
        if trainer.barebones:
            rank_zero_info("GapMonitor is switched off: Trainer(barebones=True) logs nothing.")
            return None
        session = Session(self.predictor, Budget(self.budget))
        if trainer.ckpt_path is None and trainer.global_step == 0:
            session.initial_state = copy_state(module)
            return session
        state = self._restored or (self._session.state() if self._session is not None else None)
        self._restored = None
        if state is not None:
            session.resume(state)
        if session.initial_state is None:
            rank_zero_warn(
                "GapMonitor has no initial weights, because the checkpoint was written without it: features that need "
                "them are missing, and a predictor that uses them abstains."
            )
        return session

    def _reading(self, trainer: Trainer) -> Reading:
        def place(batch: Any) -> Any:
            """The way of a training batch to the device, with the module's transfer hooks."""
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

        return Reading(self._samples, self._seed, self._target, self._forward, place)

    def _watch(self, module: LightningModule, samples: Samples) -> None:
        assert self._session is not None
        observer = self._session.watch(module, samples, self._forward, self._layers, self._seed)
        taps = ", ".join(f"{tap.layer} = {tap}" for tap in observer.layout.taps) or "no hidden layer"
        known_size = "an unknown number of" if samples.train_samples is None else samples.train_samples
        rank_zero_info(f"GapMonitor watches {taps} on {len(samples)} of {known_size} training samples.")
        if samples.augmented:
            rank_zero_warn(
                "GapMonitor reads different inputs when it reads an index twice, so the training set is augmented. Pass "
                "probe_data=<the same training set without augmentation>; until then intervals are wider."
            )

    # During training: nothing raises, whatever fails is said once.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the first batches where the data cannot be indexed; check one step's loss per epoch."""
        session = self._session
        if session is None:
            return
        if self._first_batches is not None:
            self._first_batches.append(copied(batch))
            if session.observer is None:  # before the first step: a batch that cannot be watched is raised
                self._watch(pl_module, self._samples_so_far())
        if batch_idx == 0 and session.observer is not None:
            session.speed.begin_check(pl_module, session.observer.classes)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step's loss to the training speed."""
        if self._session is not None:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if isinstance(loss, torch.Tensor):
                loss = loss.detach() * trainer.accumulate_grad_batches  # Lightning reports it divided
            else:
                loss = None
            self._session.speed.step(loss, lambda: read_batch(batch, self._target, self._forward).targets)

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
        observation = self._measure_if_due(trainer, pl_module, session)
        self.log_dict(self._shown(trainer, session), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        if observation is not None and self.verbosity != "quiet" and trainer.is_global_zero:
            self._draw(trainer, observation)
        self._validated = False
        self._clock = time.perf_counter()

    def _measure_if_due(self, trainer: Trainer, module: LightningModule, session: Session) -> Observation | None:
        if session.failures >= MOST_FAILURES:
            session.readout.hold(Status.OFF)
            return None
        due = not session.measured or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        # The clock differs between ranks: rank 0 decides for all.
        if not (due and trainer.strategy.broadcast(session.budget.allows())):
            session.readout.hold(Status.HELD)
            return None
        started = time.perf_counter()
        observation = None
        try:
            self._take_first_batches(module, session)
            observation = session.measure(module, self.measures, self._progress(trainer))
            for note in observation.notes:
                rank_zero_warn(f"GapMonitor: {note}.")
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._say_failure(error, trainer, session)
        session.budget.record(time.perf_counter() - started)
        if not trainer.strategy.reduce_boolean_decision(observation is not None, all=True):
            session.failures += 1
            session.readout.hold(Status.FAILED)
            return None
        return observation

    def _take_first_batches(self, module: LightningModule, session: Session) -> None:
        if self._first_batches is not None:
            samples = self._samples_so_far()
            self._watch(module, samples)
            if len(samples) >= self._samples:
                self._first_batches = None

    def _samples_so_far(self) -> Samples:
        """The batches copied so far, which are on their device already."""
        reading = Reading(self._samples, self._seed, self._target, self._forward)
        return Samples(take_batches(self._first_batches or [], reading), None, augmented=False, source="first batches")

    def _say_failure(self, error: Exception, trainer: Trainer, session: Session) -> None:
        if session.failures == 0:
            rank_zero_warn(
                f"GapMonitor could not measure in epoch {trainer.current_epoch}: {type(error).__name__}: {error} "
                f"Training goes on and the last values are held; after {MOST_FAILURES} failures in a row the monitor "
                "switches itself off. GapMonitor(on_error='raise') shows the traceback."
            )

    def _shown(self, trainer: Trainer, session: Session) -> dict[str, float]:
        """The epoch's values by full key: finite, and the same keys on every rank."""
        shown = dict(session.readout.shown) | {"overhead": session.budget.overhead}
        if self._validated:
            accuracy, notice = find_validation_accuracy(trainer.callback_metrics, self._validation_accuracy)
            if accuracy is not None:
                shown["actual_gap"] = shown["train_accuracy"] - accuracy
            elif not self._noticed:
                rank_zero_info(str(notice))
                self._noticed = True
        extra = MEASURES if self.verbosity == "full" else self._extra
        for key, value in session.values.items():
            if key in MEASURED and key not in shown and (self.verbosity == "full" or MEASURED[key].measure in extra):
                shown[key] = value
        return {f"{PREFIX}{key}": value for key, value in shown.items()}

    def _draw(self, trainer: Trainer, observation: Observation) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1  # where `log` puts this epoch's scalars
        contributions = {} if self.prediction is None else self.prediction.contributions
        for logger in trainer.loggers:
            try:
                draw(logger, observation.margins, contributions, step)
            except Exception as error:
                if self.on_error == "raise":
                    raise
                rank_zero_warn(f"GapMonitor could not draw in {type(logger).__name__}: {type(error).__name__}: {error}")

    @staticmethod
    def _progress(trainer: Trainer) -> float | None:
        """The share of the planned training that is done; None without a plan."""
        if trainer.max_steps is not None and trainer.max_steps > 0:
            return min(trainer.global_step / trainer.max_steps, 1.0)
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            done = trainer.fit_loop.epoch_progress.current.processed
            return min(done / trainer.max_epochs, 1.0)
        return None

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
        """Remove what a step in progress had registered."""
        if self._session is not None:
            self._session.speed.close()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove what a step in progress had registered."""
        if self._session is not None:
            self._session.speed.close()


def _require(argument: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"GapMonitor({argument}=)", got=repr(value), expected=expected, remedy="See its docs.")


def _once(name: str) -> bool:
    return known(name).once
