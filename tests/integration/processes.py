"""Several gloo processes that run one worker, each as one rank of a distributed training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SECONDS = 240
needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo"
)


def run_processes(worker: str, size: int, folder: Path) -> list[Any]:
    """What every rank of a module of these tests writes to `<rank>.json` in the folder, which is its argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "NODE_RANK": "0"}
    ranks = [_started(worker, folder, shared | {"LOCAL_RANK": str(rank)}) for rank in range(size)]
    return _outcomes(ranks, size, folder)


def run_spawning(worker: str, size: int, folder: Path) -> list[Any]:
    """The same of a module that spawns so many ranks itself."""
    return _outcomes([_started(worker, folder, {})], size, folder)


def _started(worker: str, folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tests.integration.{worker}", str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, **pipes)


def _outcomes(processes: list[subprocess.Popen[str]], ranks: int, folder: Path) -> list[Any]:
    try:
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, output[-4000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
