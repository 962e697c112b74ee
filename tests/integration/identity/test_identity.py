"""A training with the monitor leaves behind what its plain twin leaves, to the last bit, in every condition."""

from __future__ import annotations

import pytest

from tests.integration.identity.conditions import CONDITIONS
from tests.integration.identity.twins import differences

pytestmark = pytest.mark.filterwarnings("ignore")


def test_there_are_as_many_conditions_as_the_readme_says():
    assert len(CONDITIONS) > 180


@pytest.mark.parametrize("name", CONDITIONS)
def test_training_is_identical(name: str):
    condition = CONDITIONS[name]
    different, measured, failed = differences(condition)
    assert different == []
    assert (measured, failed) == (True, [])
