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
from tests.integration.identity.twins import trained
from tests.outcomes import different
from tests.properties.effort import examples
from tests.properties.trainings import Training, trainings
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore")
FAILURE = re.compile("GapMonitor (cannot|could not)|switched off")


def assert_unchanged(chosen: Training, *readers: Callback, **changes: Any) -> None:
    """Nothing differs in what stays, but what callbacks keep for themselves."""
    plain = trained(chosen.condition())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched = trained(chosen.condition(), tiny_monitor(**(chosen.monitor | changes)), *readers)
    assert [path for path in different(plain, watched) if not path.startswith(".checkpoint.callbacks")] == []
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
