"""The real peak of the dearest measures, in processes of their own, against what their forms allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gengap.measures.curvature.leave_one_out import needed
from tests.integration.peak_worker import CLASSES, IMAGES, ROWS, SIDE

MEBI = 2**20
LIBRARIES = 100  # MiB of code and threads that a first call of an operation loads
OF_IMAGES = IMAGES * 3 * SIDE**2 * 4 / MEBI

MOST = {
    # All leverages at once would be 24 x 500^2 float64 numbers a dozen times: 550 MiB.
    "leave_one_out": needed(ROWS, 33, CLASSES) / MEBI + LIBRARIES,
    "perturbation": 5 * OF_IMAGES + LIBRARIES,
    "input_difficulty": 1200,  # the convolution's own workspace included; all responses at once would be 3 GiB
}


@pytest.mark.parametrize("name", MOST)
def test_the_peak_is_within_the_estimate(name: str) -> None:
    if not Path("/proc/self/statm").is_file():
        pytest.skip("the unit of the peak is another elsewhere")
    command = [sys.executable, "-m", "tests.integration.peak_worker", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MOST[name]
