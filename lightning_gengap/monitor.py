"""GapMonitor: the callback that decides when to measure, on which samples, and what to log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_gengap.batches import Forward, Target, read_batch
from lightning_gengap.budget import Budget
from lightning_gengap.derived import with_ingredients
from lightning_gengap.display import Display
from lightning_gengap.errors import ConfigurationError, GapError
from lightning_gengap.keys import MEASURED, PREFIX
from lightning_gengap.measures import MEASURES, known
from lightning_gengap.measuring import account, measure_together, say_failure
from lightning_gengap.predictor import Prediction, Predictor
from lightning_gengap.predictor_files import load_predictor
from lightning_gengap.probe import copy_state
from lightning_gengap.samples import FirstBatches, Reading, Samples, draw_samples
from lightning_gengap.schedule import DEAR, Schedule
from lightning_gengap.session import Session
from lightning_gengap.wiring import (
    check_readers,
    check_strategy,
    placed_as_in_training,
    planned_share,
)


class GapMonitor(Callback):
    """Log the predicted generalization gap of the model in training, from its training data alone.

    Keys, all under `gengap/`: `predicted_gap` with `_lower` and `_upper`, `predicted_test_accuracy`, `in_support`,
    `train_accuracy`, `train_loss`, `actual_gap` (epochs with validation), `status` and `overhead`; `predicted_loss_gap`
    where the predictor has a loss head; `recalibrated_gap` once a validation could be compared with a prediction, which
    it never alters. Units and ranges are in `lightning_gengap.keys`. Training is bit-identical with and without it. The
    weights measured are the raw ones, also where another callback averages them. A second monitor in one Trainer, with
    another predictor, logs under `gengap/<name of its predictor>/`.

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
        on_error: `warn` keeps training and the last values when a measurement fails, of all keys or of one measure that
            the predictor does not need; `raise` is for debugging.
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
        kinds = str | Path | Predictor | None
        _require("predictor", predictor, isinstance(predictor, kinds), "a name, a path, a Predictor or None")
        _require("every_n_epochs", every_n_epochs, every_n_epochs >= 1, "at least 1")
        _require("samples", samples, samples >= 20, "at least 20")
        _require("budget", budget, budget is None or 0 < budget <= 1, "a share in (0, 1], or None")
        _require("verbosity", verbosity, verbosity in ("quiet", "normal", "full"), "'quiet', 'normal' or 'full'")
        _require("on_error", on_error, on_error in ("warn", "raise"), "'warn' or 'raise'")
        self.predictor = load_predictor(predictor) if isinstance(predictor, str | Path) else predictor
        self.every_n_epochs, self.budget, self.verbosity, self.on_error = every_n_epochs, budget, verbosity, on_error
        _require("measures", measures, not isinstance(measures, str), "a sequence of names")
        needed = () if self.predictor is None else self.predictor.measures
        names = ("margin", "fit", *needed, *measures, *(MEASURES if verbosity == "full" else ()))
        self.measures = tuple(name for name in dict.fromkeys(names) if known(name))
        self._needed = tuple(dict.fromkeys(("margin", "fit", *needed)))
        self._wanted: frozenset[str] | None = None
        if self.predictor is not None and verbosity != "full":
            named = (key for key, declared in MEASURED.items() if declared.measure in measures)
            self._wanted = with_ingredients((*self.predictor.needs, *named))
        self._probe_data, self._layers, self._samples, self._seed = probe_data, layers, samples, seed
        self._forward, self._target = forward, target
        self._display = Display(
            verbosity, tuple(measures), self.predictor is not None, validation_accuracy, raises=on_error == "raise"
        )
        self._display.predicts_loss = self.predictor is not None and self.predictor.loss_head is not None
        if budget is not None:
            self._display.sparse = tuple(self._schedule().dear)
        self._session: Session | None = None
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
        reading = Reading(self._samples, self._seed, self._target, self._forward)
        placed = replace(reading, place=placed_as_in_training(trainer))
        samples = draw_samples(trainer.train_dataloader, placed, self._probe_data, trainer.num_training_batches)
        if samples is None:
            self._first_batches = FirstBatches(reading)  # they are on their device already
        else:
            self._start(trainer, pl_module, session, samples)
        self._display.lay_out(trainer)
        session.budget.start_up += time.perf_counter() - started
        self._clock = time.perf_counter()

    def _begin(self, trainer: Trainer, module: LightningModule) -> Session | None:
        """A fresh session, or the one that a checkpoint or the last `fit` of this Trainer left; None if off."""
        if trainer.barebones:
            rank_zero_info("GapMonitor is switched off: Trainer(barebones=True) logs nothing.")
            return None
        session = Session(self.predictor, Budget(self.budget), self._schedule(), raises=self.on_error == "raise")
        session.wanted = self._wanted
        if trainer.ckpt_path is None and trainer.global_step == 0:
            session.initial_state, self._restored = copy_state(module), None
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

    def _schedule(self) -> Schedule:
        """What is measured once per training belongs to its start-up, which the budget does not count."""
        costs = {name: 0.0 if known(name).once else known(name).forwards for name in self.measures}
        extras = {name: forwards for name, forwards in costs.items() if name not in self._needed}
        return Schedule(extras, sum(forwards for name, forwards in costs.items() if extras.get(name, 0.0) <= DEAR))

    def _start(self, trainer: Trainer, module: LightningModule, session: Session, samples: Samples) -> None:
        """Watch the samples, and measure what describes the task: once per training."""
        observer = session.watch(module, samples, self._forward, self._layers, self._seed)
        taps = ", ".join(f"{tap.layer} = {tap}" for tap in observer.layout.taps) or "no hidden layer"
        known_size = "an unknown number of" if samples.train_samples is None else samples.train_samples
        rank_zero_info(f"GapMonitor watches {taps} on {len(samples)} of {known_size} training samples.")
        if samples.augmented:
            rank_zero_warn(
                "GapMonitor reads different inputs when it reads an index twice, so the training set is augmented. "
                "Pass probe_data=<the same training set without augmentation>; until then intervals are wider."
            )
        missing = [name for name in self.measures if known(name).once and name not in session.taken]
        needed = [name for name in missing if name in self._needed]
        try:
            if missing:
                extras = [name for name in missing if name not in needed]
                observation = session.observe(module, ["fit", *needed], extras)
                account(session, observation, list(observation.failures), trainer.current_epoch)
                session.show(observation, planned_share(trainer, trainer.current_epoch))
        except Exception as error:
            say_failure(session, error, "the difficulty of the task")

    # During training: nothing raises, whatever fails is said once.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the first batches where the data cannot be indexed; watch the step's logits where they are needed."""
        session = self._session
        if session is None:
            return
        if self._first_batches is not None:
            self._copy(self._first_batches, batch, pl_module, session)
        if session.observer is not None:
            session.speed.begin_step(pl_module, session.observer.classes, trainer.current_epoch, batch_idx)

    def _copy(self, first_batches: FirstBatches, batch: Any, module: LightningModule, session: Session) -> None:
        if session.observer is None:  # before the first step: a batch that cannot be watched is raised
            first_batches.add(batch)
            session.watch(module, first_batches.samples(), self._forward, self._layers, self._seed)
            return
        try:
            first_batches.add(batch)
        except GapError as error:
            if not session.warned:
                say_failure(session, error, "while copying the first batches")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step's loss to the training speed."""
        if self._session is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and pl_module.automatic_optimization:
            loss = loss.detach() * trainer.accumulate_grad_batches  # Lightning reports it divided
        else:
            loss = None  # what a manual step returns need not be what it minimised
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
        due = not session.measured or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        observation = measure_together(trainer, pl_module, session, self._needed, due, self._end_copying)
        # Copied batches and training speed differ between ranks, and so may the keys: rank 0 speaks for all.
        shown = trainer.strategy.broadcast(self._display.scalars(session, trainer, self._validated))
        pl_module.log_dict(shown, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        if observation is not None:
            started = time.perf_counter()
            self._display.draw(trainer, observation, session)
            session.budget.spent += time.perf_counter() - started
        self._validated = False
        self._clock = time.perf_counter()

    def _end_copying(self, trainer: Trainer, module: LightningModule, session: Session) -> None:
        """Watch the copied batches, all of them, once the first epoch has ended."""
        if self._first_batches is not None:
            started = time.perf_counter()
            self._start(trainer, module, session, self._first_batches.checked())
            self._first_batches = None
            session.budget.start_up += time.perf_counter() - started

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which measures were asked for and never paid for."""
        unpaid = [] if self._session is None or self.budget is None else self._session.schedule.unpaid()
        if unpaid:
            rank_zero_warn(
                f"GapMonitor never measured {', '.join(unpaid)}: {self.budget:.2g} of the time of this training did "
                "not pay for it. Pass a larger budget, or budget=None."
            )

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
            self._session.observer = None


def _require(argument: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"GapMonitor({argument}=)", got=repr(value), expected=expected, remedy="See its docs.")
