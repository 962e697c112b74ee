import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_gengap.monitor.logged_keys import PREDICTED, PREFIX
from lightning_gengap.predictors.files import available_predictors, loads

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = Path(tmp_path_factory.mktemp("wheel"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_carries_every_predictor_whole(wheel: zipfile.ZipFile):
    names = set(available_predictors()) - {"default"}
    assert names
    for name in names:
        text = wheel.read(f"lightning_gengap/pretrained_predictors/{name}.json").decode()
        assert loads(text, name).name == name


def test_wheel_is_typed_and_carries_no_tests_or_tables(wheel: zipfile.ZipFile):
    names = wheel.namelist()
    assert "lightning_gengap/py.typed" in names
    assert not [name for name in names if "tests" in name or name.endswith(".csv.gz")]


def test_readme_lists_every_key_that_is_always_logged():
    readme = (ROOT / "README.md").read_text()
    for key in PREDICTED:
        shown = key if key not in ("predicted_gap_lower", "predicted_gap_upper") else "predicted_gap_lower`, `_upper"
        assert f"`{PREFIX}{shown}`" in readme


def test_importing_the_package_imports_neither_wandb_nor_tensorboard():
    code = "import sys, lightning_gengap; print([m for m in ('wandb', 'tensorboard') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_measures_know_nothing_of_lightning():
    for path in [path for room in ("measures", "network") for path in (ROOT / "lightning_gengap" / room).rglob("*.py")]:
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.startswith(("import lightning", "from lightning "))], path
        assert not [line for line in lines if line.startswith(("from lightning.", "from tensorboard", "from wandb"))], (
            path
        )
