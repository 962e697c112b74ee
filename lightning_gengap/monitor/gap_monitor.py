"""GapMonitor: the callback that measures a model in training and logs its predicted generalization gap."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_gengap.measures.agreement.mislabelled import Mislabelled, suspects
from lightning_gengap.monitor.arguments import check_arguments, check_source
from lightning_gengap.monitor.containment import contained, harmless
from lightning_gengap.monitor.continuation import begin, loaded_state
from lightning_gengap.monitor.estimation import best
from lightning_gengap.monitor.given_curves import take_curves
from lightning_gengap.monitor.held_out import HeldOut
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.loggers import Display
from lightning_gengap.monitor.moments import Moments
from lightning_gengap.monitor.namespaces import Callback
from lightning_gengap.monitor.notices import say_unpaid, say_unpredicted
from lightning_gengap.monitor.origin import weights_digest
from lightning_gengap.monitor.readers import check_readers
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import Selection
from lightning_gengap.monitor.start_up import StartUp
from lightning_gengap.monitor.trainer_facts import check_strategy, is_trial, validates_in_fit, was_reloaded
from lightning_gengap.predictors.choice import Best
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.given import Given
from lightning_gengap.predictors.predictor import Prediction, Predictor
from lightning_gengap.samples.batches import Forward, Target
from lightning_gengap.samples.reader import SampleReader


class GapMonitor(Callback):
    """Log the predicted generalization gap of the model in training, from its training data alone.

    All keys begin with `gengap/`: `predicted_gap` with `_lower` and `_upper`, `predicted_test_accuracy`, `in_support`,
    `train_accuracy`, `train_loss`, `actual_gap` (in epochs with validation), `status` and `overhead`. A predictor with
    a loss head adds `predicted_loss_gap`. Gaps and accuracies are fractions, losses are in nats. All units and ranges
    are in docs/measures.md.

    `estimated_gap` with `_lower` and `_upper`, and `estimated_test_accuracy`, are what the prediction and all evidence
    say together: held-out samples, the accuracies of validations, other models. Without evidence they are the
    prediction, and evidence never alters the prediction. `equivalent_hold_out` says how many held-out samples the
    estimate is worth.

    Loggers get values of the present weights only. Callbacks find a finite value under every key from the first step
    on; one that is not of now is no better than the worst value so far. A prediction is always made at the last epoch,
    in the epoch after an abstention, and wherever a callback or a scheduler reads a key.

    Training is bit-identical with and without the monitor. The weights measured are the raw ones, also where another
    callback averages them. A second monitor in one Trainer, with another predictor, logs under
    `gengap/<name of its predictor>/`. The prediction costs at most 5 % of the training time, or half a second an epoch.
    Where it would cost more, fewer samples are measured, at least 256, and the interval is wider; beyond that, fewer
    epochs are. Nothing of the monitor's ends a training: what fails is one warning.

    Args:
        predictor: name of a bundled predictor, path of a predictor file, a `Predictor`, or None to only measure.
            `default` takes the image predictor wherever the inputs are images.
        every_n_epochs: measure at the end of the first and of every n-th epoch.
        every_n_train_steps: measure after every n-th optimizer step instead, for trainings of few long epochs. All
            measurements of an epoch share its allowance. Step-wise checkpoints with a multiple of it read fresh values.
        samples: how many training samples to monitor, at least 20.
        budget: the largest share of the training time that all measuring may take, in (0, 1]. The prediction takes
            5 % at most, or half a second an epoch. Measures that the predictor does not need share the rest, start-up
            deducted: they are taken when it has paid for them. Classifiers that describe the data are fitted on more
            and more of them, in slices. None measures everything whenever it is due.
        probe_data: an un-augmented view of the training set: a dataset, a list of samples, a DataLoader or batches.
        layers: one to three module names to watch as h1, h2 and h3, instead of the automatic choice.
        validation_accuracy: the logged key that `actual_gap` compares with; its value is taken as it is in [0, 1]. By
            default the one like `val_acc`, if it is a number of right samples divided by that of the validation, or
            such a number in percent, or a torchmetrics accuracy of single labels with any average. Others are refused.
        verbosity: `quiet` logs the scalars above. `normal` takes and logs normalized margins with their histograms,
            weight norms and the soft rank too, as the budget allows. `full` takes and logs every measure.
        on_error: `warn` keeps training when anything fails, also before the first step, and nothing is then shown as
            fresh. Where a measure fails that the predictor does not need, only its own keys are missing. `raise` is
            for debugging.
        measures: names of measures to take and log, whether or not the predictor needs them.
        forward: maps (module, batch) to logits, for batches that are neither `(x, y)` nor a mapping with usual keys,
            and for a `training_step` that calls the network on other inputs than the batch's.
        target: maps a batch to class indices, for batches whose targets have no usual name.
        seed: draws the samples and the perturbations.
        held_out: samples that are never trained on, ten or more, in the forms of `probe_data`. Their accuracy is
            measured whenever the prediction is, and counts in the estimate by how many they are.
        evidence: a list of what is known from elsewhere: pairs (values, gap, number of held-out samples, "recipe" or
            "task") of other models, see `ObservedGap`; a `LearningCurve` of this module on these samples, or another
            `EstimatedAccuracy` of the last epoch.
        source: name of the training data, where it is a data set that the predictor was fitted on (`gengap predictors
            NAME` lists them): beside evidence, its prediction then counts as one on known data.

    Raises:
        PredictorError, MeasureError, LayerError, BatchError, DataError, ConfigurationError: an argument cannot work.
        ConfigurationError: in `setup`, a Trainer that cannot be watched. Nothing is raised later: a task or data that
            cannot be watched, and whatever else fails, are one warning, and training goes on unchanged.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from torch import nn
        >>> from lightning_gengap import GapMonitor
        >>> class Classifier(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
        ...     def forward(self, images):
        ...         return self.net(images)
        ...     def training_step(self, batch, batch_idx):
        ...         return nn.functional.cross_entropy(self(batch[0]), batch[1])
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
        every_n_train_steps: int | None = None,
        held_out: Any = None,
        evidence: Sequence[Any] | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__()
        check_arguments(
            predictor=predictor,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            samples=samples,
            budget=budget,
            probe_data=probe_data,
            layers=layers,
            validation_accuracy=validation_accuracy,
            verbosity=verbosity,
            on_error=on_error,
            measures=measures,
            forward=forward,
            target=target,
            seed=seed,
            held_out=held_out,
            evidence=evidence,
        )
        self.predictor = load_predictor(predictor) if isinstance(predictor, str | Path) else predictor
        check_source(source, self.predictor)
        self.source = source
        self.every_n_epochs, self.every_n_train_steps = every_n_epochs, every_n_train_steps
        self.budget, self.validation_accuracy, self.on_error = budget, validation_accuracy, on_error
        self._selection = Selection.of(self.predictor, measures, verbosity == "full", verbosity != "quiet")
        self.measures = self._selection.measures
        self._given = Given.of(self.predictor, evidence)
        reader = SampleReader(samples, seed, target, forward)
        self._start_up, self._held_out = StartUp(reader, probe_data, layers), HeldOut(held_out, reader)
        display = Display(self._selection, verbosity)
        self._moments = Moments(
            display, self._start_up, self._held_out, every_n_epochs, every_n_train_steps, validation_accuracy
        )
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

    @property
    def best(self) -> Best | None:
        """The epoch with the highest estimated test accuracy so far; None before an estimate.

        Its interval allows for the choice: the highest of many estimates has also been lucky with the held-out samples.
        `ModelCheckpoint(monitor="gengap/estimated_test_accuracy", mode="max")` keeps the weights of that epoch, if it
        looks after every epoch: `save_on_train_epoch_end=True`, where only some are validated.
        """
        return None if self._state is None else best(self._state)

    def mislabelled(self) -> list[Mislabelled]:
        """The monitored samples that look mislabelled, most suspicious first.

        Each has its index in the data set that it was read from: the loader's, or `probe_data`; its place among the
        monitored samples where these were not read by index. It is what the measure `reference` found; there are none
        where that was not taken.
        """
        state = self._state
        if state is None:
            return []
        found, drawn = suspects(state.memory.warm_starts, "initial_weights" not in state.flags), state.drawn
        return found if drawn is None else [each._replace(sample=int(drawn[each.sample])) for each in found]

    def is_fresh(self, key: str) -> bool:
        """Whether the value under this full key, with its prefix, is of the present weights."""
        state = self._state
        return state is not None and key.removeprefix(state.prefix) in (*state.readout.fresh, "status", "overhead")

    # In `setup`, arguments that cannot work are raised while the user is still at the keyboard.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse sharded strategies, and callbacks that would read a key that is never there."""
        if stage != "fit" or trainer.barebones:
            return
        check_strategy(trainer)
        if self is monitors_of(trainer)[0]:
            prefixes = [(each._moments, each._prefix(trainer)) for each in monitors_of(trainer)]
            check_readers(trainer, lambda key: any(each.logs(key, prefix, trainer) for each, prefix in prefixes))

    # From here on nothing raises: whatever fails is said once, and training goes on unchanged.

    @harmless
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
        state.prefix, state.given, state.source = self._prefix(trainer), self._given, self.source
        self._start_up.run(trainer, pl_module, state)
        self._held_out.watch(trainer, pl_module, state)
        take_curves(trainer, pl_module, state, self._start_up.reader.target)
        self._moments.start(trainer, pl_module, state)
        state.clock = time.perf_counter()
        state.budget.start_up += state.clock - started

    @harmless
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Copy initial weights that a lazy module made in its first forward; replay the first batch of training."""
        if self._state is not None:
            self._moments.before_backward(trainer, pl_module, self._state, loss)

    @harmless
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether a loader that Lightning asks for again has the same samples."""
        if self._state is not None and was_reloaded(trainer):
            self._start_up.reload(trainer, pl_module, self._state)

    @harmless
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the first batches where the data cannot be indexed; watch the step's logits where they are needed."""
        if self._state is not None:
            self._moments.batch_start(trainer, pl_module, self._state, batch, batch_idx)

    @harmless
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step's loss to the running means; measure where a number of steps makes it due."""
        if self._state is not None:
            self._moments.batch_end(trainer, pl_module, self._state, outputs, batch)

    @harmless
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure where somebody reads our keys right after this validation."""
        if self._state is not None and validates_in_fit(trainer):
            self._moments.validation_start(trainer, pl_module, self._state)

    @harmless
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the samples of the batch."""
        if self._state is not None and validates_in_fit(trainer):
            self._moments.validation_batch_end(pl_module, self._state, batch, (batch_idx, dataloader_idx))

    @harmless
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare a prediction of these weights with the validation."""
        if self._state is not None and validates_in_fit(trainer):
            self._moments.validation_end(trainer, pl_module, self._state)

    @harmless
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan, measure, compare, log and draw."""
        if self._state is not None:
            self._moments.epoch_end(trainer, pl_module, self._state)

    @harmless
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the final weights if that is not done, and say what was asked for and never there."""
        if self._state is not None:
            self._moments.end(trainer, pl_module, self._state)
            say_unpaid(self._state)
            say_unpredicted(self._state)

    # State: tensors and primitives; nothing stays registered between measurements.

    @property
    def state_key(self) -> str:
        """One key per predictor, so that two monitors can share a Trainer."""
        return self._generate_state_key(predictor=None if self.predictor is None else self.predictor.name)

    def state_dict(self) -> dict[str, Any]:
        """Initial weights, difficulty, training loss, budget, what was last shown and observed, and its origin."""
        kept = {} if self._loaded is None else dict(self._loaded)
        if self._loaded is None and self._state is not None:
            with contained(self._state, "saving its state"):
                kept = self._state.state()
        return kept

    @harmless
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember these weights as ones of this training, in case that they are loaded before the next `fit`."""
        if self._state is not None and self._training:
            self._state.seen.add(weights_digest(pl_module))

    @harmless
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the own state until training resumes, or what another monitor's holds for any predictor."""
        if self._training or is_trial(trainer):
            return  # whoever goes back in training, as the learning rate finder does, does so with the same data
        self._loaded = loaded_state(checkpoint["callbacks"], self.state_key, type(self).__qualname__)

    @harmless
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what a step in progress had registered; Lightning does not call `teardown` then."""
        self.teardown(trainer, pl_module, "fit")

    @harmless
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the samples."""
        self._loaded = None
        if self._state is not None and self._training:
            self._state.let_go()
            self._state.seen.add(weights_digest(pl_module))
        self._training = False

    def _prefix(self, trainer: Trainer) -> str:
        """Of all keys: `log` would average equal ones, so that every further monitor has a prefix of its own."""
        if self is monitors_of(trainer)[0]:
            return PREFIX
        return f"{PREFIX}{'measures' if self.predictor is None else self.predictor.name}/"


def monitors_of(trainer: Trainer) -> list[GapMonitor]:
    """The monitors of a Trainer, in the order of its callbacks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]  # type: ignore[attr-defined]
