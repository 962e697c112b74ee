from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_warning_is_swallowed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The monitor's warnings end no training, also where warnings are errors as in these tests: they fail here."""
    yield
    swallowed = [record.message for record in caplog.get_records("call") if record.name.endswith("monitor.warning")]
    assert not swallowed
