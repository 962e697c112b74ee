"""LightningCLI finds the callbacks by name, in whatever order a script imports Lightning and this package."""

import subprocess
import sys
from pathlib import Path

import pytest

ORDERS = {
    "the package first": "import lightning_gengap\nfrom lightning.pytorch.cli import LightningCLI",
    "Lightning first": "from lightning.pytorch.cli import LightningCLI\nimport lightning_gengap",
    "Lightning first, its command line last": "import lightning, lightning_gengap\n"
    "from lightning.pytorch.cli import LightningCLI",
}
SCRIPT = """
import sys
from lightning.pytorch.demos.boring_classes import BoringModel

sys.argv[1:] = []
for callbacks in (
    ["--trainer.callbacks+=GapMonitor", "--trainer.callbacks+=GapEarlyStopping", "--trainer.callbacks.patience=3"],
    ["--trainer.callbacks+=lightning_gengap.GapMonitor",
     "--trainer.callbacks+=lightning_gengap.GapEarlyStopping", "--trainer.callbacks.patience=3"],
    ["--config=bare.yaml"],
    ["--config=path.yaml"],
):
    options = ["--trainer.accelerator=cpu", "--trainer.logger=false", *callbacks]
    trainer = LightningCLI(BoringModel, run=False, args=options, save_config_callback=None).trainer
    found = {type(callback): callback for callback in trainer.callbacks}
    print("found", lightning_gengap.GapMonitor in found, found[lightning_gengap.GapEarlyStopping].patience)
"""
CONFIG = """
trainer:
  callbacks:
  - class_path: {prefix}GapMonitor
  - class_path: {prefix}GapEarlyStopping
    init_args: {{patience: 3}}
"""


@pytest.mark.parametrize("imports", ORDERS.values(), ids=ORDERS)
def test_callbacks_are_found_by_bare_name_and_by_class_path(tmp_path: Path, imports: str):
    for name, prefix in (("bare", ""), ("path", "lightning_gengap.")):
        (tmp_path / f"{name}.yaml").write_text(CONFIG.format(prefix=prefix))
    command = [sys.executable, "-c", imports + SCRIPT]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert [line for line in printed.splitlines() if line.startswith("found")] == ["found True 3"] * 4
