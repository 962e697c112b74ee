"""LightningCLI of either tree finds the callbacks by name, in whatever order a script imports it and this package."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.namespaces import FIRST, OTHER

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
options = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.callbacks+=EarlyStopping"]
options += ["--trainer.callbacks.monitor=val_loss"]  # Lightning's own is still the only one of that name
trainer = LightningCLI(BoringModel, run=False, args=options, save_config_callback=None).trainer
print("own", *(type(callback).__module__ for callback in trainer.callbacks if hasattr(callback, "patience")))
"""
CONFIG = """
trainer:
  callbacks:
  - class_path: {prefix}GapMonitor
  - class_path: {prefix}GapEarlyStopping
    init_args: {{patience: 3}}
"""


CASES = [(FIRST, order) for order in ORDERS] + [(OTHER, order) for order in list(ORDERS)[:2]]


@pytest.mark.parametrize(("tree", "order"), CASES)
def test_callbacks_are_found_by_bare_name_and_by_class_path(tmp_path: Path, tree: str, order: str):
    pytest.importorskip(tree)
    for name, prefix in (("bare", ""), ("path", "lightning_gengap.")):
        (tmp_path / f"{name}.yaml").write_text(CONFIG.format(prefix=prefix))
    script = (ORDERS[order] + SCRIPT).replace(FIRST, tree)
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert [line for line in printed.splitlines() if line.startswith("found")] == ["found True 3"] * 4
    assert f"own {tree}.callbacks.early_stopping" in printed.splitlines()
