"""What GapMonitor measures when, on which samples, and what it logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap import GapError, GapMonitor
from lightning_gengap.errors import BatchError, ConfigurationError, LayerError, MeasureError, PredictorError
from lightning_gengap.measures import BY_DEFAULT, MEASURED
from lightning_gengap.predictors.parts import Feature
from tests.lightning_models import (
    Iterated,
    MemoryLogger,
    Stepping,
    TinyModel,
    ValidatedModel,
    fitted,
    loader,
    stream,
    watched,
)
from tests.tiny_predictors import tiny_monitor, tiny_predictor, wide_feature


def dictionaries(items: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    images, targets = (torch.stack(part) for part in zip(*items, strict=True))
    return {"picture": images, "truth": targets + 7}


class OddModel(Stepping):
    """Unusual batches, and a forward that wants more than inputs."""

    def __init__(self) -> None:
        super().__init__(lambda self, batch: cross_entropy(self(batch["picture"], 1.0)[0], batch["truth"] - 7))

    def forward(self, images: Tensor, scale: float) -> tuple[Tensor, float]:  # type: ignore[override]
        return super().forward(images) * scale, scale


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"predictor": "no_such"}, PredictorError, "predictor: got 'no_such'; expected one of .*gengap predictors"),
        ({"predictor": 3}, ConfigurationError, r"GapMonitor\(predictor=\): got 3; expected a name, a path,"),
        ({"measures": ["mergin"]}, MeasureError, "measure: got 'mergin'; expected one of margin, fit, norm"),
        (
            {"measures": "norm"},
            ConfigurationError,
            r"GapMonitor\(measures=\): got 'norm'; expected a sequence of names",
        ),
        (
            {"every_n_epochs": 0},
            ConfigurationError,
            r"every_n_epochs=\): got 0; expected a whole number",
        ),
        (
            {"every_n_train_steps": 0},
            ConfigurationError,
            r"every_n_train_steps=\): got 0; expected a whole number of",
        ),
        (
            {"every_n_train_steps": 5, "every_n_epochs": 2},
            ConfigurationError,
            r"every_n_train_steps=\): got 5; expected None beside every_n_epochs=2",
        ),
        ({"samples": 5}, ConfigurationError, r"GapMonitor\(samples=\): got 5; expected a whole number of at least 20"),
        ({"budget": 0}, ConfigurationError, r"GapMonitor\(budget=\): got 0; expected a share in \(0, 1\], or None"),
        ({"budget": 5}, ConfigurationError, "budget"),
        ({"verbosity": "loud"}, ConfigurationError, "got 'loud'; expected 'quiet', 'normal' or 'full'"),
        ({"on_error": "ignore"}, ConfigurationError, "got 'ignore'; expected 'warn' or 'raise'"),
        *(
            ({argument: value}, ConfigurationError, rf"GapMonitor\({argument}=\): got .* For example {argument}=")
            for argument, values in {
                "samples": (100.5, True, "many"),
                "every_n_epochs": (1.0, None),
                "budget": (float("nan"), True, "5 %"),
                "measures": (None, [7], 7),
                "validation_accuracy": (7,),
                "forward": ("forward",),
                "target": (1,),
                "seed": (0.5, None),
            }.items()
            for value in values
        ),
        ({"layers": "neck"}, LayerError, "layers: got 'neck'; expected one to three module names"),
        ({"layers": []}, LayerError, "one to three"),
        ({"probe_data": 7}, BatchError, "probe_data: got int; expected a dataset, a DataLoader"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], error: type[GapError], message: str):
    with pytest.raises(error, match=message):
        tiny_monitor(**arguments)


def test_the_measures_a_predictor_needs_are_taken():
    assert tiny_monitor().measures == ("fit", "difficulty")
    assert tiny_monitor(measures=["norm"]).measures == ("fit", "difficulty", "norm")
    assert set(tiny_monitor(verbosity="full").measures) == {*BY_DEFAULT, "soft_rank"}
    assert GapMonitor(predictor=None).measures == ("fit", "margin", "norm", "soft_rank")


@pytest.mark.parametrize("streamed", [False, True], ids=["indexed", "stream"])
def test_hooks_read_unusual_batches(streamed: bool):
    monitor = tiny_monitor(
        measures=["margin"],
        forward=lambda module, batch: module(batch["picture"], 1.0)[0],
        target=lambda batch: batch["truth"] - 7,
    )
    data = loader(collate_fn=dictionaries)
    values = fitted(monitor, model=OddModel(), data=Iterated(data) if streamed else data)
    assert values("gengap/status") == [0, 0]
    assert values("gengap/train_accuracy")[-1] > 0.9
    assert {"margin/input/median", "speed/train_loss_mean"} <= set(monitor.values)


def test_the_actual_gap_is_train_minus_validation_accuracy():
    values = fitted(tiny_monitor(), validate=True)
    for row in values.rows:
        assert row["gengap/actual_gap"] == pytest.approx(row["gengap/train_accuracy"] - row["val_acc"])


def test_the_actual_gap_is_there_in_epochs_with_validation_only():
    logger = MemoryLogger()
    fitted(tiny_monitor(), validate=True, check_val_every_n_epoch=2, max_epochs=4, logger=logger)
    assert [step for step, _ in logger.series("gengap/actual_gap")] == [7, 15]


class TwoAccuracies(ValidatedModel):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("valid_accuracy", 0.25)


def test_several_validation_accuracies_give_one_warning():
    with pytest.warns(UserWarning, match="actual_gap is absent") as warned:
        values = fitted(tiny_monitor(), model=TwoAccuracies(), validate=True, max_epochs=3)
    assert not any("gengap/actual_gap" in row for row in values.rows)
    notices = [str(warning.message) for warning in warned if "actual_gap is absent" in str(warning.message)]
    assert len(notices) == 1
    assert "2 logged metrics match" in notices[0]
    logged = fitted(tiny_monitor(validation_accuracy="valid_accuracy"), model=TwoAccuracies(), validate=True).rows[-1]
    assert logged["gengap/actual_gap"] == pytest.approx(logged["gengap/train_accuracy"] - 0.25)


def test_the_schedule_measures_first_every_nth_and_last_epoch():
    values = fitted(tiny_monitor(every_n_epochs=3), max_epochs=8)
    assert values("gengap/status") == [0, 1, 0, 1, 1, 0, 1, 0]
    gaps = values("gengap/predicted_gap")
    assert len(set(gaps)) == 4
    assert gaps[3] == gaps[4] == max(gaps[0], gaps[2])


@pytest.mark.parametrize(
    ("feature", "data", "status"),
    [
        (wide_feature("perturbation/mix_accuracy", "identity", 1.0), loader, 5),
        (wide_feature("train_samples", "log", -0.1), loader, 0),
        (wide_feature("train_samples", "log", -0.1), stream, 5),  # its size is unknown
        (wide_feature("train_samples", "log", -0.1, high=1.0), loader, 5),  # it stays too far beyond the range
        (wide_feature("train_loss", "log", -0.1, high=-30.0), loader, 3),  # it may come nearer
    ],
)
def test_a_predictor_whose_features_are_missing_abstains(feature: Feature, data: Callable[[], Any], status: int):
    monitor = tiny_monitor(predictor=tiny_predictor(features=(feature,)))
    values, said = watched(monitor, data=data())
    assert values("gengap/status") == [status, status]
    assert monitor.prediction.outside == ((feature.name,) if status else ())
    assert len(said) == (status == 5)
    assert all("the prediction always abstains, because " in message for message in said)


def test_what_is_absent_is_said_once():
    class Frozen(TinyModel):
        """No gradient reaches the input."""

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach() * 1.0)

    monitor = tiny_monitor(verbosity="normal")
    _, said = watched(monitor, model=Frozen(), max_epochs=3)  # its histogram cannot be drawn
    reason = "no gradient of the logits arrives there; the forward detaches it, or has no gradients in eval mode"
    assert said == [f"GapMonitor: margin/input* is absent: {reason}."]


def test_measures_asked_for_by_name_give_all_their_keys_and_needed_ones_the_predictors_alone():
    needed = tiny_predictor(
        measures=("perturbation",), features=(wide_feature("perturbation/augment_accuracy", "identity", 0.1),)
    )
    taken = {}
    for measures in ((), ("perturbation",)):
        monitor = tiny_monitor(predictor=needed, measures=measures)
        fitted(monitor)
        taken[measures] = {key for key in monitor.values if key.startswith("perturbation/")}
    # What follows from them costs nothing; `excess_by_size` needs another measure.
    assert taken[()] == {"perturbation/augment_accuracy", "perturbation/discounted_accuracy"}
    every = {key for key in MEASURED if key.startswith("perturbation/")}
    assert taken[("perturbation",)] == every - {"perturbation/excess_by_size"}
