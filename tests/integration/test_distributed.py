"""Two gloo processes under DDP: the same keys and values on both ranks, and nothing hangs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.integration.processes import needs_gloo, run_processes
from tests.integration.refusals.page import is_said, rows
from tests.namespaces import FIRST, OTHER, needs_both

pytestmark = needs_gloo


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks saw, by setting."""
    return run_processes("ddp_worker", 2, tmp_path_factory.mktemp("ranks"))


SETTINGS = (
    "with",
    "full",
    "stream",
    "rank stream",
    "subset",
    "budget",
    "expensive",
    "optional",
    "fails on rank 0",
    "fails on rank 1",
    "stopping",
    "held out",
    "held out from a stream",
    "held out fails on rank 0",
    "held out fails on rank 1",
)


@pytest.mark.parametrize("setting", SETTINGS)
def test_both_ranks_log_the_same_finite_values(ranks: list[dict[str, Any]], setting: str):
    first, second = (monitored(rank[setting]["rows"]) for rank in ranks)
    assert first == second
    assert all(math.isfinite(value) for row in first for value in row.values())
    assert all("gengap/predicted_gap" in row for row in first)


def monitored(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key.startswith("gengap/")} for row in rows]


def test_training_is_the_same_with_and_without(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["with"]["weights"] == rank["without"]["weights"] == rank["full"]["weights"]
        users = [{key: value for key, value in row.items() if "gengap" not in key} for row in rank["with"]["rows"]]
        assert users == rank["without"]["rows"]
    assert ranks[0]["with"]["weights"] == ranks[1]["with"]["weights"]


def test_a_wrapped_sampler_does_not_leak(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["subset"]["train_samples"] == 32
        assert rank["subset"]["probe"] == 32


def statuses(rank: dict[str, Any], setting: str) -> list[float]:
    return [row["gengap/status"] for row in rank[setting]["rows"]]


def test_a_validation_counts_the_samples_of_both_ranks(ranks: list[dict[str, Any]]):
    first, second = (rank["validation"] for rank in ranks)
    assert first == second
    assert first["samples"] == {"0": 50}
    right, total = first["figure"]
    assert total == 50
    assert right / total == pytest.approx(first["right"])


def test_held_out_samples_are_counted_once_by_both_ranks(ranks: list[dict[str, Any]]):
    first, second = (rank["held out"] for rank in ranks)
    assert first["observations"] == second["observations"]
    assert [(one["epoch"], one["samples"]) for one in first["observations"]] == [(1, 50), (2, 50), (3, 50)]
    assert first["said"] == second["said"] == []
    assert first["standing"] == second["standing"]
    answers = first["standing"]["answers"]
    right = int(answers["bits"], 16).bit_count()
    assert right / answers["count"] == pytest.approx(first["observations"][-1]["accuracy"])
    shown = [row["gengap/estimated_gap"] for row in first["rows"]]
    assert shown != [row["gengap/predicted_gap"] for row in first["rows"]]


@pytest.mark.parametrize("failing", [0, 1])
def test_held_out_samples_that_one_rank_cannot_read_are_used_by_none(ranks: list[dict[str, Any]], failing: int):
    setting = f"held out fails on rank {failing}"
    assert statuses(ranks[0], setting) == statuses(ranks[1], setting) == [0, 0, 0]
    assert ranks[0][setting]["observations"] == ranks[1][setting]["observations"] == []
    (said,) = ranks[0][setting]["said"]
    assert ("no such file" in said) if failing == 0 else ("another rank failed" in said)
    assert ranks[0][setting]["weights"] == ranks[0]["held out"]["weights"]


def test_rank_zero_decides_on_the_budget(ranks: list[dict[str, Any]]):
    assert statuses(ranks[0], "budget") == statuses(ranks[1], "budget") == [0, 1, 1, 0]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_on_one_rank_holds_and_switches_off_both(ranks: list[dict[str, Any]], failing: int):
    setting = f"fails on rank {failing}"
    assert statuses(ranks[0], setting) == statuses(ranks[1], setting) == [2, 2, 2, 4, 4]
    (said,) = ranks[0][setting]["said"]
    assert ("broken measure" in said) if failing == 0 else ("another rank failed" in said)
    assert ranks[1][setting]["said"] == []


ODD = {
    "odd forward": (
        [2, 2, 2, 4, 4],
        "in epoch 0: RuntimeError: another rank failed (rank 1): ArithmeticError: broken forward",
    ),
    "odd hook": ([0] * 5, None),  # the second rank copies its first batches
    "odd targets": (
        [4] * 5,
        "is switched off: RuntimeError: another rank failed (rank 1): TargetError: targets: got torch",
    ),
    "odd display": (
        [0, 4, 4, 4, 4],
        "is switched off: RuntimeError: another rank failed (rank 1): AttributeError: 'None",
    ),
}


@pytest.mark.parametrize("setting", ODD)
def test_what_fails_on_one_rank_is_said_with_its_cause_and_ends_no_training(ranks: list[dict[str, Any]], setting: str):
    expected, words = ODD[setting]
    assert statuses(ranks[0], setting) == statuses(ranks[1], setting) == expected
    said = ranks[0][setting]["said"]
    assert [words in message for message in said] == ([] if words is None else [True]), said
    for rank in ranks:
        assert rank[setting]["weights"] == rank["fails on rank 0"]["weights"]


def test_the_message_of_another_process_is_the_documented_one(ranks: list[dict[str, Any]]):
    (said,) = ranks[0]["odd forward"]["said"]
    assert is_said(rows()["a failure of another process"], said)


def test_another_function_on_one_rank_ends_the_predictions_of_both(ranks: list[dict[str, Any]]):
    (first,), (second,) = (rank["another function"]["never"] for rank in ranks)
    assert "on another rank" in first
    assert "training_step calls module(prepared(batch))" in second


def test_an_optional_measure_that_fails_on_one_rank_fails_alone_and_on_both(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert statuses(rank, "optional") == [0] * 5
        assert rank["optional"]["failures"] == {"norm": 3, "perturbation": 3, "calibration": 0}
        assert all("gengap/calibration/error_15" in row for row in rank["optional"]["rows"])
        assert not any("gengap/norm/spectral_change" in row for row in rank["optional"]["rows"])
    first, second = ranks[0]["optional"]["said"]
    assert "measure norm in epoch 0: measure 'norm': got RuntimeError: broken measure" in first
    assert "measure perturbation in epoch 0: another rank failed." in second
    assert ranks[1]["optional"]["said"] == []


def test_rank_zero_decides_on_expensive_measures(ranks: list[dict[str, Any]]):
    ages = [[row.get("gengap/age/gradient_noise") for row in rank["expensive"]["rows"]] for rank in ranks]
    assert ages[0] == ages[1]


def test_both_ranks_stop_together(ranks: list[dict[str, Any]]):
    assert [rank["stopping"]["epochs"] for rank in ranks] == [1, 1]


@needs_both
def test_both_trees_give_the_same_on_both_ranks(ranks: list[dict[str, Any]]):
    first, *others = (rank[tree] for rank in ranks for tree in (FIRST, OTHER))
    assert (first["epochs"], first["train_samples"]) == (2, 32)
    assert all("gengap/predicted_gap" in row for row in first["rows"])
    for other in others:
        assert (other["epochs"], other["train_samples"]) == (2, 32)
        assert [monitored([row]) for row in other["rows"]] == [monitored([row]) for row in first["rows"]]
