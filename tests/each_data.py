"""Tests that run on data that can be indexed, and on a stream of the same."""

from __future__ import annotations

import pytest

from tests.lightning_models import loader, stream

each_data = pytest.mark.parametrize("data", [loader, stream], ids=["indexed", "stream"])
