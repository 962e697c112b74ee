"""The cases on the device that GENGAP_DEVICE names, or on CUDA where it is; skipped elsewhere."""

from __future__ import annotations

import os

import pytest
import torch

from tests.gpu.cases import CASES, NotHereError, chosen

DEVICE = os.environ.get("GENGAP_DEVICE") or ("cuda" if torch.cuda.is_available() else "")


@pytest.mark.gpu
@pytest.mark.skipif(not DEVICE, reason="no GPU here")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", chosen(os.environ.get("GENGAP_CASES", "*")))
def test_on_the_device(name: str) -> None:
    try:
        CASES[name](DEVICE)
    except NotHereError as reason:
        pytest.skip(str(reason))
