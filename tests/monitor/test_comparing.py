"""Trainings compared as users hold them: monitors, checkpoints, values; and what a monitor remembers for that."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor, compare
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.comparing import ranking
from lightning_gengap.predictors.comparison import Answers
from tests.lightning_models import TinyModel, blobs, fitted, resumed, saved
from tests.tiny_predictors import abstaining_predictor, tiny_monitor, tiny_predictor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures
VALUES = {"train_accuracy": 0.95, "train_loss": 0.5, "classes": 4.0, "difficulty/ridge_accuracy": 0.4}


def held_out(seed: int = 1) -> TensorDataset:
    return blobs(40, seed=seed)


def trained(epochs: int = 2, wrong: int = 0, **arguments: Any) -> GapMonitor:
    """A monitor after a training that saw held-out samples; so many of the 64 trained ones have wrong labels."""
    monitor = tiny_monitor(**({"held_out": held_out()} | arguments))
    images, labels = blobs().tensors
    labels = (labels + (torch.arange(len(labels)) < wrong)) % 4
    fitted(monitor, data=DataLoader(TensorDataset(images, labels), batch_size=16), max_epochs=epochs)
    return monitor


def test_the_answers_of_the_last_measured_weights_are_remembered():
    torch.manual_seed(5)  # with these weights two samples are wrong
    monitor, model, data = tiny_monitor(held_out=held_out()), TinyModel(), held_out()
    fitted(monitor, model=model, max_epochs=2)
    standing = monitor._state.standing
    model.eval()
    with torch.no_grad():
        right = model(data.tensors[0]).argmax(1) == data.tensors[1]
    assert standing.answers.right().sum() == right.sum() < 40  # they are read in an order of their own
    assert (standing.predictor, standing.classes, standing.epoch) == ("tiny_v1", 4, 2.0)
    assert standing.predicted == pytest.approx(monitor.values["train_accuracy"] - monitor.prediction.gap)
    assert standing.deviation == monitor.prediction.deviation
    assert monitor._state.observations[-1].accuracy == pytest.approx(float(right.double().mean()))


def test_a_training_with_right_labels_is_better_and_held_out_samples_make_it_surer():
    (right, wrong), blind = ([trained(2, wrong=n, **other) for n in (0, 48)] for other in ({}, {"held_out": None}))
    found = compare(right, wrong)
    assert found.probability > 0.99
    assert found.probability == pytest.approx(1 - compare(wrong, right).probability)
    assert found.lower < found.difference < found.upper
    assert (found.shared, compare(*blind).shared) == (40, 0)
    assert 0.5 < compare(*blind).probability < found.probability


def test_a_checkpoint_says_what_its_monitor_does(tmp_path: Path):
    first, second = tiny_monitor(held_out=held_out()), trained(6)
    path = saved(tmp_path, first, epochs=2)
    assert compare(path, second) == compare(first, second) == compare(str(path), second)


def test_a_resumed_training_stands_as_a_whole_one(tmp_path: Path):
    whole = tiny_monitor(held_out=held_out())
    saved(tmp_path, whole, epochs=4)
    path = saved(tmp_path, tiny_monitor(held_out=held_out()), epochs=2)
    again = tiny_monitor(held_out=held_out())
    resumed(path, again, epochs=4)
    assert again._state.standing.answers == whole._state.standing.answers
    assert compare(path, again, same="run").probability == pytest.approx(compare(path, whole, same="run").probability)


def test_the_samples_of_another_set_or_with_other_labels_or_in_another_order_are_not_paired():
    images, labels = held_out().tensors
    data = {
        "the same": TensorDataset(images.clone(), labels.clone()),
        "others": held_out(seed=2),
        "labels": TensorDataset(images, (labels + (torch.arange(40) == 0)) % 4),
        "order": TensorDataset(images.flip(0), labels.flip(0)),
    }
    digests = {name: trained(1, held_out=given)._state.standing.answers.samples for name, given in data.items()}
    assert digests["the same"] == trained(1)._state.standing.answers.samples
    assert len(set(digests.values())) == 4


def test_measured_values_are_compared_by_their_predictions():
    better = VALUES | {"train_accuracy": 0.99}
    found = compare(better, VALUES, predictor=tiny_predictor())
    assert found.probability > 0.5
    assert compare(VALUES, VALUES, predictor=tiny_predictor()).probability == 0.5
    monitor = trained(2, held_out=None)
    again = compare(monitor.values, monitor, predictor=tiny_predictor())
    assert again.probability == pytest.approx(0.5)


def test_measured_values_can_be_of_two_epochs_of_one_run():
    better, predictor = VALUES | {"train_accuracy": 0.99}, tiny_predictor()
    found = compare(better, VALUES, same="run", predictor=predictor)
    assert found.lower < found.difference < found.upper
    assert 0.5 < compare(better, VALUES, predictor=predictor).probability < found.probability < 1
    same = compare(VALUES, VALUES, same="run", predictor=predictor)
    assert (same.probability, same.difference) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("part", "number"),
    [
        ("predicted", math.nan),
        ("predicted", 7.0),
        ("deviation", -1.0),
        ("scale", 0.0),
        ("scale", math.inf),
        ("epoch", math.nan),
        ("observed accuracy", 5.0),
        ("observed accuracy", math.nan),
        ("observed samples", -3),
    ],
)
def test_numbers_that_no_measurement_gives_are_refused(tmp_path: Path, part: str, number: float):
    monitor = tiny_monitor(held_out=held_out())
    path = saved(tmp_path, monitor, epochs=1)
    checkpoint = torch.load(path, weights_only=True)
    (state,) = (state for state in checkpoint["callbacks"].values() if "standing" in state)
    of_observation = part.startswith("observed")
    (state["observations"][-1] if of_observation else state["standing"])[part.split()[-1]] = number
    torch.save(checkpoint, path)
    with pytest.raises(ConfigurationError, match="out of range"):
        compare(path, monitor)


def test_a_checkpoint_with_objects_among_its_hyperparameters_is_read_once_their_class_is_allowed(tmp_path: Path):
    monitor = tiny_monitor(held_out=held_out())
    path = saved(tmp_path, monitor, epochs=1)
    torch.save(torch.load(path, weights_only=True) | {"hyper_parameters": {"options": Namespace(width=3)}}, path)
    with pytest.raises(ConfigurationError, match="add_safe_globals"):
        compare(path, monitor)
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Namespace])
    try:
        assert compare(path, monitor).probability == pytest.approx(0.5)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def test_an_abstention_is_compared_by_its_held_out_samples():
    right, wrong = (trained(2, wrong=n, predictor=abstaining_predictor()) for n in (0, 48))
    assert compare(right, wrong).probability > 0.99


def test_checkpoints_are_ranked_by_how_probably_each_is_better(tmp_path: Path):
    paths = []
    for name, epochs in (("a", 1), ("b", 6)):
        (tmp_path / name).mkdir()
        paths.append(saved(tmp_path / name, tiny_monitor(held_out=held_out()), epochs=epochs))
    title, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ranking(paths, "task").splitlines()]
    assert title[-1] == "better than the first"
    first = compare(*paths).probability
    assert [row[0] for row in rows] == [str(path) for path in (paths if first > 0.5 else reversed(paths))]
    assert [row[1] for row in rows] == (["1", "6"] if first > 0.5 else ["6", "1"])
    assert rows[0][-1] == ""
    assert float(rows[1][-1]) == pytest.approx(min(first, 1 - first), abs=0.005)
    assert rows[0][3].endswith(" of 40")


def test_a_table_shows_no_prediction_where_there_is_none(tmp_path: Path):
    path = saved(tmp_path, tiny_monitor(predictor=abstaining_predictor(), held_out=held_out()), epochs=1)
    assert [cell.strip() for cell in ranking([path], "task").splitlines()[-1].split("|")][3] == "abstains"


def test_what_is_remembered_of_many_samples_is_small():
    kept = Answers.of("0" * 32, torch.ones(1000, dtype=torch.bool).numpy())
    assert len(kept.bits) + len(kept.samples) < 300


def test_the_state_of_a_users_own_monitor_is_found_and_of_two_the_one_that_predicts(tmp_path: Path):
    class Own(GapMonitor):
        pass

    own = Own(tiny_predictor(), budget=None, verbosity="quiet")
    path = saved(tmp_path, GapMonitor(predictor=None, budget=None), own, epochs=1)
    assert compare(path, own).difference == pytest.approx(0.0)
