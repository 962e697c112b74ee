"""The estimate in training: it is the prediction until there is evidence, is kept, and alters no prediction."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, random_split

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.errors import BatchError, ConfigurationError, DataError, PredictorError
from lightning_gengap.monitor.estimation import MOST, Observed, _remember, observe, show_estimate
from lightning_gengap.monitor.logged_keys import ESTIMATED
from lightning_gengap.monitor.readout import LARGE
from lightning_gengap.predictors.estimate import Estimate, EstimatedAccuracy, estimate
from lightning_gengap.predictors.parts import LossHead, Scales
from lightning_gengap.predictors.recalibration import ObservedGap, recalibrate
from tests.lightning_models import (
    MemoryLogger,
    TinyModel,
    ValidatedModel,
    blobs,
    fitted,
    loader,
    quiet_trainer,
    resumed,
    saved,
    stream,
    validation_loader,
    watched,
)
from tests.tiny_predictors import (
    abstaining_predictor,
    hopeless_predictor,
    tiny_monitor,
    tiny_predictor,
    wide_feature,
)

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures
GAP, TEST = "gengap/estimated_gap", "gengap/estimated_test_accuracy"
PREDICTED = ("predicted_gap", "predicted_gap_lower", "predicted_gap_upper", "predicted_test_accuracy", "status")
FEATURES = {"train_accuracy": 0.95, "train_loss": 0.5, "classes": 4.0, "difficulty/ridge_accuracy": 0.4}


def held_out() -> TensorDataset:
    """Other draws of the same blobs."""
    return blobs(40, seed=1)


def accuracy_of(module: torch.nn.Module, data: TensorDataset) -> float:
    """In eval mode."""
    module.eval()
    with torch.no_grad():
        return float((module(data.tensors[0]).argmax(1) == data.tensors[1]).double().mean())


def test_without_evidence_it_is_the_prediction():
    values = fitted(tiny_monitor(), max_epochs=3)
    for end in ("", "_lower", "_upper"):
        assert values(f"{GAP}{end}") == pytest.approx(values(f"gengap/predicted_gap{end}"))
    assert values(TEST) == pytest.approx(values("gengap/predicted_test_accuracy"))
    assert all(worth > 0 for worth in values("gengap/equivalent_hold_out"))


def test_the_accuracy_on_held_out_samples_is_measured_with_every_prediction():
    monitor, model = tiny_monitor(held_out=held_out()), TinyModel()
    fitted(monitor, model=model, max_epochs=4)
    seen = monitor._state.observations
    assert [one.epoch for one in seen] == [1, 2, 3, 4]
    assert {(one.samples, one.source) for one in seen} == {(40, "held_out")}
    assert seen[-1].accuracy == pytest.approx(accuracy_of(model, held_out()))
    prediction, values = monitor.prediction, monitor.values
    assert seen[-1].predicted == pytest.approx(values["train_accuracy"] - prediction.gap)
    assert seen[-1].deviation == prediction.deviation
    found = estimate(prediction, values, seen, 4.0)
    assert monitor._state.readout.fresh[TEST.removeprefix("gengap/")] == found.test_accuracy


def test_held_out_samples_alter_no_prediction_and_narrow_the_estimate():
    blind, seeing = fitted(tiny_monitor(), max_epochs=3), fitted(tiny_monitor(held_out=held_out()), max_epochs=3)
    for key in PREDICTED:
        assert seeing(f"gengap/{key}") == blind(f"gengap/{key}")
    assert seeing(GAP) != blind(GAP)
    for more, less in zip(seeing("gengap/equivalent_hold_out"), blind("gengap/equivalent_hold_out"), strict=True):
        assert more > less


@pytest.mark.parametrize("form", ["data set", "list", "loader", "batches", "stream"])
def test_held_out_samples_come_in_the_forms_of_probe_data(form: str):
    data = held_out()
    given: Any = {
        "data set": data,
        "list": [(image, int(label)) for image, label in data],
        "loader": DataLoader(data, batch_size=7),
        "batches": [tuple(data[i : i + 8]) for i in range(0, 40, 8)],
        "stream": data,
    }[form]
    monitor = tiny_monitor(held_out=given)
    fitted(monitor, data=stream() if form == "stream" else None)
    assert [one.samples for one in monitor._state.observations] == [40, 40]


def test_each_validation_moves_the_estimate_towards_what_it_saw():
    monitor = tiny_monitor()
    values = fitted(monitor, validate=True, max_epochs=4)
    predicted, shown, seen = values("gengap/predicted_test_accuracy"), values(TEST), values("val_acc")
    for before, after, observed in zip(predicted[:1], shown, seen, strict=False):
        assert abs(after - observed) < abs(before - observed)
    assert [(one.samples, one.source) for one in monitor._state.observations] == [(32, "val_acc")] * 4


def test_the_prediction_is_the_same_whether_its_gap_is_observed_or_not():
    blind = fitted(tiny_monitor(validation_accuracy="another"), validate=True, max_epochs=3)
    seeing = fitted(tiny_monitor(), validate=True, max_epochs=3)
    for key in PREDICTED:
        assert seeing(f"gengap/{key}") == blind(f"gengap/{key}")
    assert blind(GAP) == pytest.approx(blind("gengap/predicted_gap"))


def test_an_old_validation_counts_less():
    values = fitted(tiny_monitor(), validate=True, max_epochs=5, check_val_every_n_epoch=2)
    worth = values("gengap/equivalent_hold_out")
    assert worth[1] > worth[0]
    assert worth[1] > worth[2]
    assert values(GAP)[2] != pytest.approx(values("gengap/predicted_gap")[2])


def test_a_validation_beside_a_held_prediction_teaches_nothing():
    monitor = tiny_monitor(every_n_epochs=3)
    values = fitted(monitor, validate=True, max_epochs=5)
    assert values("gengap/status") == [0, 1, 0, 1, 0]
    assert [one.epoch for one in monitor._state.observations] == [1, 3, 5]
    assert values(GAP)[3] == max(values(GAP)[:3])  # what is not of now is the worst so far


def test_held_out_and_validation_are_two_sources_unless_they_are_the_same_samples():
    data = blobs(72, seed=1)
    for own, sources in (
        (Subset(data, range(32, 72)), ["held_out", "val_acc"]),
        (Subset(data, range(32)), ["held_out"]),
    ):
        monitor = tiny_monitor(held_out=own)
        torch.manual_seed(0)
        validation = DataLoader(Subset(data, range(32)), batch_size=16)
        quiet_trainer(monitor, max_epochs=2).fit(ValidatedModel(), loader(), validation)
        assert [one.source for one in monitor._state.observations] == sources * 2


def test_a_validation_on_a_part_of_the_held_out_samples_does_not_count_in_place_of_all():
    data, seen = blobs(72, seed=1), []
    for validated in (range(1), range(8), range(32)):
        monitor = tiny_monitor(held_out=Subset(data, range(32)))
        torch.manual_seed(0)
        validation = DataLoader(Subset(data, validated), batch_size=16)
        quiet_trainer(monitor, max_epochs=2).fit(ValidatedModel(), loader(), validation)
        seen.append(monitor._state.observations)
    assert [one.samples for one in seen[0]] == [32, 32]
    assert seen[0] == seen[1] == seen[2]


def test_what_a_validation_has_is_known_by_content_too():
    own, training = blobs(40, seed=1), loader()
    for validated, sources in ((blobs(40, seed=1), ["held_out"]), (blobs(40, seed=2), ["held_out", "val_acc"])):
        monitor = tiny_monitor(held_out=own)
        torch.manual_seed(0)
        quiet_trainer(monitor, max_epochs=2).fit(ValidatedModel(), training, DataLoader(validated, batch_size=16))
        assert [one.source for one in monitor._state.observations] == sources * 2
    monitor = tiny_monitor()
    with pytest.warns(UserWarning, match="val_acc is of 64 samples that are trained on"):
        quiet_trainer(monitor, max_epochs=2).fit(ValidatedModel(), training, DataLoader(blobs(), batch_size=16))
    assert monitor._state.observations == []


def test_a_validation_on_training_samples_is_no_evidence():
    data = blobs()
    monitor = tiny_monitor()
    torch.manual_seed(0)
    trainer = quiet_trainer(monitor, max_epochs=2)
    training, validation = (DataLoader(Subset(data, part), batch_size=8) for part in (range(56), range(40, 64)))
    with pytest.warns(UserWarning, match="val_acc is of 16 samples that are trained on"):
        trainer.fit(ValidatedModel(), training, validation)
    assert monitor._state.observations == []
    assert "gengap/actual_gap" in trainer.callback_metrics


def test_an_abstention_with_held_out_samples_still_has_an_estimate():
    monitor = tiny_monitor(predictor=abstaining_predictor(), held_out=held_out())
    values = fitted(monitor, validate=False)
    assert values("gengap/status") == [3, 3]
    seen = [one.accuracy for one in monitor._state.observations]
    assert values(TEST) == pytest.approx(seen, abs=0.05)
    assert 30 < values("gengap/equivalent_hold_out")[-1] < 80


def test_so_has_one_for_good_and_whoever_reads_it_is_not_called_blind(tmp_path: Path):
    reader = ModelCheckpoint(tmp_path, monitor=TEST, mode="max", save_on_train_epoch_end=True)
    monitor = tiny_monitor(predictor=hopeless_predictor(), held_out=held_out())
    values, said = watched(monitor, reader, enable_checkpointing=True, max_epochs=1)
    assert values("gengap/status") == [5]
    assert 0 < values(TEST)[0] <= 1
    assert not any("finds no value" in message for message in said)


def test_without_evidence_an_abstention_has_no_estimate():
    logger = MemoryLogger()
    values = fitted(tiny_monitor(predictor=abstaining_predictor()), logger=logger)
    assert values(TEST) == [0.0, 0.0]  # what wins nothing
    assert logger.series(GAP) == []


def test_what_was_observed_survives_a_resume(tmp_path: Path):
    first, monitor = tiny_monitor(held_out=blobs(40, seed=2)), tiny_monitor()
    path = saved(tmp_path, first, epochs=2, validate=True)
    assert torch.load(path, weights_only=True)  # the observations are primitives
    values = resumed(path, monitor, epochs=3, validate=False)
    assert monitor._state.observations == first._state.observations
    assert len(first._state.observations) == 4
    assert values(GAP)[0] != pytest.approx(values("gengap/predicted_gap")[0])


def test_a_resumed_training_estimates_like_a_whole_one(tmp_path: Path):
    whole = tiny_monitor(held_out=held_out())
    saved(tmp_path, whole, epochs=4)
    path = saved(tmp_path, tiny_monitor(held_out=held_out()), epochs=2)
    again = tiny_monitor(held_out=held_out())
    resumed(path, again, epochs=4)
    assert again._state.observations == whole._state.observations
    assert again._state.readout.fresh == pytest.approx(whole._state.readout.fresh, rel=1e-6)


def test_other_training_data_forget_what_was_observed():
    monitor = tiny_monitor(held_out=held_out())
    trainer = quiet_trainer(monitor, max_epochs=2)
    model = TinyModel()
    trainer.fit(model, loader())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model.train(), DataLoader(blobs(48, seed=7), batch_size=16))
    assert [one.epoch for one in monitor._state.observations] == [3]


def test_of_very_many_observations_those_are_kept_that_are_spread_over_the_training():
    monitor = tiny_monitor()
    fitted(monitor)
    state = monitor._state
    state.observations, state.shown = [], []
    observe(Observed(0.4, 30, "val_acc"), state)
    for epoch in range(1, 3 * MOST):
        state.epochs = float(epoch)
        observe(Observed(0.5, 40, "held_out"), state)
        accuracy = 0.9 if epoch == 300 else 0.6
        observe(Observed(accuracy, 40, "held_out"), state)  # the same samples at the same epoch
        _remember(Estimate(1 - accuracy, 0.0, 1.0, accuracy, 40.0), 0.05, state)
    assert len(state.observations) == len(state.shown) == MOST
    assert state.observations[0].source == "val_acc"  # the last of its source
    epochs = [one.epoch for one in state.observations[1:]]
    assert epochs[0] == 1.0
    assert epochs[-1] == 3 * MOST - 1
    assert epochs == sorted(set(epochs))
    later = [after / before for before, after in pairwise(epochs) if before > 100]
    assert max(later) < 1.2
    assert {one.accuracy for one in state.observations} <= {0.4, 0.6, 0.9}
    assert 300.0 in [one.epoch for one in state.shown]  # the best one
    assert state.shown[-1].epoch == 3 * MOST - 1


def test_the_first_rank_speaks_for_all(monkeypatch: pytest.MonkeyPatch):
    monitor = tiny_monitor()
    trainer = quiet_trainer(monitor, max_epochs=1)
    own = trainer.strategy.broadcast

    def from_first(obj: Any, src: int = 0) -> Any:
        return Observed(0.25, 8, "val_acc") if isinstance(obj, Observed) else own(obj, src)

    monkeypatch.setattr(trainer.strategy, "broadcast", from_first)
    trainer.fit(ValidatedModel(), loader(), validation_loader())
    assert [(one.accuracy, one.samples) for one in monitor._state.observations] == [(0.25, 8)]


def test_a_mid_epoch_validation_draws_one_estimate(tmp_path: Path):
    logger = MemoryLogger()
    reader = ModelCheckpoint(tmp_path, monitor=TEST, mode="max", save_on_train_epoch_end=False)
    fitted(tiny_monitor(), reader, validate=True, val_check_interval=0.5, logger=logger, enable_checkpointing=True)
    steps = [step for step, _ in logger.series(TEST)]
    assert len(steps) == len(set(steps)) == 4


def test_early_stopping_and_checkpoints_may_go_by_the_estimate(tmp_path: Path):
    stopping = GapEarlyStopping(TEST, patience=1, min_delta=1.0)
    reader = ModelCheckpoint(tmp_path, monitor=TEST, mode="max", save_on_train_epoch_end=True)
    values = fitted(tiny_monitor(held_out=held_out()), stopping, reader, enable_checkpointing=True, max_epochs=9)
    assert len(values.rows) == 2
    assert stopping.reason is not None
    assert float(reader.best_model_score) == pytest.approx(max(values(TEST)))


def test_the_best_epoch_is_that_of_the_highest_estimate_and_its_interval_allows_for_the_choice(tmp_path: Path):
    inputs, labels = held_out().tensors
    monitor = tiny_monitor(
        held_out=TensorDataset(inputs, torch.where(torch.arange(40) % 4 > 0, labels, (labels + 1) % 4))
    )
    assert monitor.best is None
    reader = ModelCheckpoint(tmp_path, monitor=TEST, mode="max", save_on_train_epoch_end=True)
    values = fitted(monitor, reader, enable_checkpointing=True, max_epochs=6)
    shown, best = values(TEST), monitor.best
    place = shown.index(max(shown))
    assert best.epoch == place + 1
    assert torch.load(reader.best_model_path, weights_only=True)["epoch"] == place
    assert best.test_accuracy == pytest.approx(max(shown), abs=1e-6)
    assert best.gap == pytest.approx(values(GAP)[place], abs=1e-6)
    assert best.optimism > 0
    assert best.lower < values(f"{GAP}_lower")[place] <= values(f"{GAP}_upper")[place] <= best.upper
    assert best.equivalent_hold_out < values("gengap/equivalent_hold_out")[place]


def test_the_best_epoch_survives_a_resume_and_a_validation_may_take_it_back(tmp_path: Path):
    whole = tiny_monitor(held_out=held_out())
    saved(tmp_path, whole, epochs=4)
    again = tiny_monitor(held_out=held_out())
    resumed(saved(tmp_path, tiny_monitor(held_out=held_out()), epochs=2), again, epochs=4)
    assert again.best == whole.best
    state = whole._state
    state.shown = [state.shown[0], replace(state.shown[-1], epoch=4.0)]
    state.prediction = replace(state.prediction, gap=0.0)
    show_estimate(state)
    assert whole.best.epoch == 4.0  # the estimate of these weights is replaced by a higher one
    state.prediction = replace(state.prediction, gap=0.9)
    show_estimate(state)
    assert whole.best.epoch == state.shown[0].epoch
    assert len(state.shown) == 2


def test_without_evidence_the_best_epoch_is_that_of_the_highest_prediction():
    monitor = tiny_monitor()
    values = fitted(monitor, max_epochs=4)
    predicted = values("gengap/predicted_test_accuracy")
    assert monitor.best.epoch == predicted.index(max(predicted)) + 1
    assert monitor.best.optimism == 0.0


def test_a_named_data_set_that_was_fitted_has_its_own_scale():
    known = replace(tiny_predictor(), scales=Scales(0.5, 1.0, 2.0), provenance={"lacking": [], "sources": ["blobs"]})
    scales = {}
    for source in ("blobs", None):
        monitor = tiny_monitor(predictor=known, held_out=held_out(), source=source)
        values = fitted(monitor, max_epochs=1)
        scales[source] = (monitor._state.scale, values("gengap/equivalent_hold_out")[0])
    assert scales["blobs"][0] == 0.5
    assert scales[None][0] == 1.0
    assert scales["blobs"][1] > scales[None][1]


@pytest.mark.parametrize("source", ["spirals", 5, ["blobs"], np.array(["blobs"]), np.array(["blobs", "spirals"])])
def test_a_data_set_that_was_not_fitted_is_refused_at_once(source: Any):
    known = replace(tiny_predictor(), provenance={"lacking": [], "sources": ["blobs"]})
    with pytest.raises(ConfigurationError, match="was fitted on"):
        GapMonitor(predictor=known, source=source)


def test_gaps_of_other_models_count_from_the_start():
    own = tiny_monitor(evidence=[(FEATURES, 0.4, 1000, "recipe")])
    values, plain = fitted(own, max_epochs=2), fitted(tiny_monitor(), max_epochs=2)
    assert values("gengap/predicted_gap") == plain("gengap/predicted_gap")
    assert all(moved > gap for moved, gap in zip(values(GAP), plain(GAP), strict=True))


def test_a_recalibrated_predictor_is_the_prediction_with_its_pairs_as_evidence():
    pairs = [ObservedGap(FEATURES, 0.4, 1000, "recipe")]
    values = fitted(tiny_monitor(predictor=recalibrate(tiny_predictor(), pairs)), max_epochs=2)
    same = fitted(tiny_monitor(evidence=pairs), max_epochs=2)
    for key in (*PREDICTED, *ESTIMATED):
        assert values(f"gengap/{key}") == same(f"gengap/{key}")


def test_an_estimate_of_the_final_accuracy_counts_at_the_last_epoch():
    values = fitted(tiny_monitor(evidence=[EstimatedAccuracy(0.3, 0.001)]), max_epochs=3)
    assert values(TEST)[:2] == pytest.approx(values("gengap/predicted_test_accuracy")[:2])
    assert values(TEST)[2] == pytest.approx(0.3, abs=0.02)


def test_the_time_for_held_out_samples_is_paid_by_the_allowance():
    monitor = tiny_monitor(held_out=held_out(), budget=0.05)
    fitted(monitor, max_epochs=1)
    (price,), state = monitor._state.budget.prices, monitor._state
    assert state.observations
    assert price * state.values["probe_samples"] > 0


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no data": (lambda: GapMonitor(held_out=3), BatchError, "held_out: got int"),
    "nine samples": (lambda: GapMonitor(held_out=blobs(9)), DataError, "held_out: got 9 samples; expected at least 10"),
    "no predictor": (
        lambda: GapMonitor(predictor=None, held_out=blobs(20)),
        ConfigurationError,
        r"GapMonitor\(held_out=\): got no predictor",
    ),
    "evidence without a predictor": (
        lambda: GapMonitor(predictor=None, evidence=[]),
        ConfigurationError,
        r"GapMonitor\(evidence=\): got no predictor",
    ),
    "no list": (lambda: GapMonitor(evidence={"gap": 0.1}), ConfigurationError, "expected a list of pairs"),
    "a pair without samples": (
        lambda: tiny_monitor(evidence=[(FEATURES, 0.1)]),
        PredictorError,
        "observed gaps: got a tuple of 2 items",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_cannot_work_are_refused_at_once(case: str):
    make, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        make()


def subset_of_training() -> tuple[Any, Any]:
    return Subset(blobs(), range(32, 52)), DataLoader(blobs(), batch_size=16)


def overlapping() -> tuple[Any, Any]:
    data = blobs()
    return Subset(Subset(data, range(20, 64)), range(20)), DataLoader(Subset(data, range(32)), batch_size=16)


def unknown_label() -> tuple[Any, Any]:
    data = held_out()
    return TensorDataset(data.tensors[0], data.tensors[1] + 1), loader()


def few_batches() -> tuple[Any, Any]:
    return [tuple(blobs(8, seed=1)[:8])], loader()


def another_shape() -> tuple[Any, Any]:
    data = held_out()
    return TensorDataset(data.tensors[0][:, :, :3], data.tensors[1]), loader()


UNUSED = {
    "equal content": (subset_of_training, "held_out: got 20 of 20 samples that are trained on"),
    "the same indices": (overlapping, "held_out: got 12 of 20 samples that are trained on"),
    "another label space": (unknown_label, "held_out: got class indices from 1 to 4 for 4 logits"),
    "too few in batches": (few_batches, "held_out: got 8 samples; expected at least 10"),
    "one class": (lambda: (TensorDataset(*held_out()[::4]), loader()), "held_out: got 10 samples, all of class 0"),
    "another shape": (another_shape, "does not use held_out=: MeasureError"),
}


@pytest.mark.parametrize("case", UNUSED)
def test_samples_that_are_no_evidence_are_said_once_and_not_used(case: str):
    make, words = UNUSED[case]
    own, data = make()
    monitor = tiny_monitor(held_out=own)
    values, said = watched(monitor, data=data, max_epochs=3)
    assert values("gengap/status") == [0, 0, 0]
    assert values(GAP) == pytest.approx(values("gengap/predicted_gap"))
    assert monitor._state.observations == []
    (message,) = [one for one in said if "held_out" in one]
    assert words in message


def test_what_is_no_evidence_is_raised_where_failures_are_errors():
    own, data = overlapping()
    with pytest.raises(DataError, match="samples that are trained on"):
        fitted(tiny_monitor(held_out=own, on_error="raise"), data=data)


def test_a_split_of_one_data_set_and_duplicates_that_it_has_anyway_are_taken():
    train, own = random_split(blobs(84), [64, 20], generator=torch.Generator().manual_seed(0))
    twins = ConcatDataset([blobs(32), blobs(32)])  # every sample has its double
    for data, given in ((train, own), (twins, Subset(blobs(32), range(20)))):
        monitor = tiny_monitor(held_out=given)
        _, said = watched(monitor, data=DataLoader(data, batch_size=16), max_epochs=1)
        assert len(monitor._state.observations) == 1
        assert not any("held_out" in one for one in said)


def test_a_failure_in_one_epoch_leaves_the_others():
    class Sometimes(TinyModel):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if not self.training and len(images) == 40 and self.trainer.current_epoch == 1:
                raise ArithmeticError("broken")
            return super().forward(images)

    monitor = tiny_monitor(held_out=held_out())
    values, said = watched(monitor, model=Sometimes(), max_epochs=3)
    assert values("gengap/status") == [0, 0, 0]
    assert [one.epoch for one in monitor._state.observations] == [1, 3]
    assert ["broken" in one for one in said if "held_out" in one] == [True]


def test_logits_that_are_not_finite_on_held_out_samples_are_no_evidence_and_said_once():
    class Overflowing(TinyModel):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) / (images.mean((1, 2, 3)) < 5)[:, None]

    images, targets = held_out().tensors
    monitor = tiny_monitor(held_out=TensorDataset(images + 10 * (torch.arange(40) == 3)[:, None, None, None], targets))
    with pytest.warns(UserWarning, match="held_out: got logits with NaN or infinity") as said:
        values = fitted(monitor, model=Overflowing())
    assert sum("NaN or infinity" in str(each.message) for each in said) == 1
    assert values("gengap/status") == [0, 0]
    assert monitor._state.observations == []


def test_evidence_that_contradicts_the_prediction_is_said_once_and_believed(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    images, targets = held_out().tensors
    monitor = tiny_monitor(held_out=TensorDataset(images, (targets + 1) % 4))
    values = fitted(monitor, max_epochs=4)
    assert sum("evidence contradicts the prediction" in record.message for record in caplog.records) == 1
    seen = monitor._state.observations[-1]
    assert abs(values(TEST)[-1] - seen.accuracy) < abs(values(TEST)[-1] - seen.predicted) / 3


def test_callbacks_find_a_loss_gap_that_wins_nothing_though_a_feature_of_its_head_is_missing():
    head = LossHead(-1.0, (wide_feature("perturbation/mix_accuracy", "identity", 1.0),), below=-1.0, above=1.0)
    values = fitted(tiny_monitor(predictor=replace(tiny_predictor(), loss_head=head)))
    assert values("gengap/status") == [0, 0]
    assert values("gengap/predicted_loss_gap") == [LARGE] * 2
