"""Two and three gloo processes share the forwards of a measurement, and get the values of one process."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.integration.processes import needs_gloo, run_processes, run_spawning

pytestmark = needs_gloo
CHUNK, SAMPLES = 128, 576  # five chunks, the last one of 64 samples
CHUNKS_EACH = {2: 3, 3: 2}
COPIES = 5  # of the perturbations


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What all ranks saw, by setting."""
    return run_processes("sharing_worker", request.param, tmp_path_factory.mktemp("ranks"))


def rows_of(ranks: list[dict[str, Any]], setting: str) -> list[list[dict[str, Any]]]:
    """The rows of all ranks, epoch by epoch."""
    return [list(rows) for rows in zip(*(rank[setting]["rows"] for rank in ranks), strict=True)]


@pytest.mark.parametrize("setting", ["five chunks", "one chunk"])
def test_the_values_are_those_of_one_process(ranks: list[dict[str, Any]], setting: str):
    for rows in rows_of(ranks, setting):
        alone = rows[0]["alone"]  # running means are those of rank 0
        assert len(alone) > 15
        found = [{key: row["values"][key] for key in alone} for row in rows]
        assert found == [found[0]] * len(rows)
        assert found[0] == pytest.approx(alone, rel=1e-12, abs=1e-15)


def test_each_rank_takes_its_share_of_the_samples(ranks: list[dict[str, Any]]):
    most = CHUNKS_EACH[len(ranks)] * CHUNK
    for rows in rows_of(ranks, "with"):
        seen = [row["seen"] / (1 + COPIES) for row in rows]
        assert max(seen) == most
        assert SAMPLES <= sum(seen) < SAMPLES + len(ranks) * CHUNK  # what is computed twice is dropped


def test_more_ranks_than_chunks_all_run_the_same_forwards(ranks: list[dict[str, Any]]):
    for rows in rows_of(ranks, "one chunk"):
        assert [row["seen"] for row in rows] == [row["seen alone"] for row in rows] == [96 * (1 + COPIES)] * len(rows)


def test_training_is_the_same_with_and_without(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["with"]["tensors"] == rank["without"]["tensors"]
    assert ranks[0]["with"]["tensors"] != ranks[1]["with"]["tensors"]  # the running means of each rank stay its own


def test_other_samples_on_every_rank_are_measured_by_each_and_rank_zero_speaks(ranks: list[dict[str, Any]]):
    for rows in rows_of(ranks, "rank stream"):
        assert all(row["seen"] >= row["values"]["probe_samples"] for row in rows)
        assert len({row["values"]["train_loss"] for row in rows}) == len(rows)
        assert all(row["shown"] == rows[0]["shown"] for row in rows)
        assert rows[0]["shown"]["gengap/train_loss"] == pytest.approx(rows[0]["values"]["train_loss"])


def test_every_n_train_steps_measures_on_all_ranks(ranks: list[dict[str, Any]]):
    first, *others = (rank["steps"] for rank in ranks)
    assert [step for step, _ in first["logged"]] == [2, 5]
    assert all(math.isfinite(value) for _, value in first["logged"])
    for other in others:
        assert [row["shown"] for row in other["rows"]] == [row["shown"] for row in first["rows"]]


def test_a_reader_after_a_validation_finds_the_same_fresh_value_on_all_ranks(ranks: list[dict[str, Any]]):
    first, *others = (rank["reader"] for rank in ranks)
    assert [step for step, _ in first["logged"]] == [1, 3]
    assert first["best"] == pytest.approx(min(value for _, value in first["logged"]))
    assert [other["best"] for other in others] == [first["best"]] * len(others)


def statuses(rank: dict[str, Any], setting: str) -> list[float]:
    return [row["shown"]["gengap/status"] for row in rank[setting]["rows"]]


def test_a_forward_that_fails_once_on_one_rank_costs_all_one_measurement(ranks: list[dict[str, Any]]):
    assert [statuses(rank, "fit fails") for rank in ranks] == [[2, 0, 0]] * len(ranks)
    (said,) = ranks[0]["fit fails"]["said"]
    assert f"another rank failed (rank {len(ranks) - 1}): MeasureError" in said
    assert "ArithmeticError: broken forward" in said
    for rows in rows_of(ranks, "fit fails")[1:]:
        assert len({row["values"]["train_loss"] for row in rows}) == 1


def test_an_optional_measure_that_fails_once_on_one_rank_fails_alone(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert statuses(rank, "perturbation fails") == [0, 0, 0]
        taken = ["gengap/perturbation/mix_accuracy" in row["shown"] for row in rank["perturbation fails"]["rows"]]
        assert taken == [False, True, True]
        assert all("gengap/calibration/entropy" in row["shown"] for row in rank["perturbation fails"]["rows"])
        assert rank["perturbation fails"]["failures"] == {"perturbation": 0, "calibration": 0}
    assert len(ranks[0]["perturbation fails"]["said"]) == 1


def test_spawned_processes_share_too(tmp_path_factory: pytest.TempPathFactory):
    ranks = run_spawning("spawn_worker", 2, tmp_path_factory.mktemp("spawned"))
    for rows in zip(*ranks, strict=True):
        alone = rows[0]["alone"]
        for row in rows:
            assert {key: row["values"][key] for key in alone} == pytest.approx(alone, rel=1e-5)
            assert row["seen"] < row["seen alone"]
