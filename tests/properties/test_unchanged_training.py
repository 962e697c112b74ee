"""Whatever a training is made of, it leaves behind what its plain twin leaves, to the last bit."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from hypothesis import given
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping

from lightning_gengap import GapEarlyStopping
from tests.integration.identity.twins import leaves, same, trained
from tests.properties.effort import examples
from tests.properties.trainings import Training, trainings
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore")
FAILURE = re.compile("GapMonitor (cannot|could not)|switched off")


def left_behind(chosen: Training, *monitors: Callback) -> dict[str, Any]:
    """All values that stay, by path, but what callbacks keep for themselves."""
    found = dict(leaves(trained(chosen.condition(), *monitors)))
    return {path: value for path, value in found.items() if not path.startswith(".checkpoint.callbacks")}


def assert_unchanged(chosen: Training, *readers: Callback, **changes: Any) -> None:
    plain = left_behind(chosen)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched = left_behind(chosen, tiny_monitor(**(chosen.monitor | changes)), *readers)
    assert [
        path for path in sorted(plain.keys() | watched.keys()) if not same(plain.get(path), watched.get(path))
    ] == []
    assert [str(each.message) for each in caught if FAILURE.search(str(each.message))] == []


@examples(30)
@given(trainings())
def test_training_is_unchanged(chosen: Training) -> None:
    assert_unchanged(chosen)


@examples(10)
@given(trainings())
def test_training_is_unchanged_where_callbacks_read(chosen: Training) -> None:
    assert_unchanged(chosen, GapEarlyStopping(patience=99), EarlyStopping("gengap/predicted_gap", patience=99))


@examples(10)
@given(trainings())
def test_training_is_unchanged_where_everything_is_measured(chosen: Training) -> None:
    assert_unchanged(chosen, verbosity="full")
