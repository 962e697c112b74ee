import re
import subprocess
import sys
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


def printed(example: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run in a folder of its own."""
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True).stdout


def test_cifar_example_runs_on_a_folder_of_arrays(tmp_path: Path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 256), ("test", 100)):
        np.save(tmp_path / f"cifar10_{split}_images.npy", rng.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8))
        np.save(tmp_path / f"cifar10_{split}_labels.npy", rng.integers(0, 10, count))
    arguments = ["--data", str(tmp_path), "--limit-train", "256", "--epochs", "2", "--width", "4"]
    said = printed("cifar10.py", tmp_path, *arguments)
    assert len(re.findall(r"^epoch +\d+  train [\d.]+  predicted gap [\d.]+", said, re.MULTILINE)) == 2
    assert "test accuracy" in said


def test_tabular_example_predicts_without_abstaining(tmp_path: Path):
    said = printed("tabular.py", tmp_path, "--samples", "500", "--epochs", "15")
    lines = re.findall(r"^epoch +(\d+)  .*predicted gap [\d.]+ .*actual -?[\d.]+  in support (\d)$", said, re.MULTILINE)
    assert [epoch for epoch, _ in lines] == ["5", "10", "15"]
    assert lines[-1][1] == "1"
