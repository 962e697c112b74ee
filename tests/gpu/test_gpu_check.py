"""The script that checks a machine with a GPU, tried on the CPU."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.cases import CASES

ROOT = Path(__file__).parents[2]
LIBRARIES = ("pytest", "sklearn", "pandas", "jinja2", "typer", "joblib", "tensorboard", "wandb")
WITHOUT = (*LIBRARIES, "lightning_gengap.pretrained_predictors")


def checked(folder: Path, *arguments: str, path: Path = ROOT) -> str:
    """What the script prints."""
    environment = os.environ | {"OUT": str(folder), "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("bare", [False, True], ids=["with pytest", "with torch and Lightning alone"])
def test_it_runs_the_cases_and_writes_the_tables(tmp_path: Path, bare: bool) -> None:
    path = tmp_path / "path"
    path.mkdir()
    if bare:
        hidden = f"import sys\nsys.modules.update(dict.fromkeys({WITHOUT!r}))\n"
        (path / "sitecustomize.py").write_text(hidden, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    printed = checked(out, "--device", "cpu", "--cases", "*bfloat16*", "--conditions", "*largest norm", path=path)
    assert "Tests: 1 passed." in printed
    assert "Identity conditions: 2 identical." in printed
    assert "Left out" not in printed
    assert ("not installed" in (out / "tests.txt").read_text(encoding="utf-8")) == bare
    assert {file.name for file in out.iterdir()} == {
        *("report.md", "tests.txt", "conditions.txt"),
        *("costs.csv", "soft_rank.csv", "overhead.csv"),
    }
    for name in ("costs", "soft_rank", "overhead"):
        header, *rows = csv.reader((out / f"{name}.csv").read_text(encoding="utf-8").splitlines())
        assert rows
        assert all(len(row) == len(header) for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    assert checked(tmp_path).strip() == f"no GPU here: {len(CASES)} tests skipped"
    assert not list(tmp_path.iterdir())
