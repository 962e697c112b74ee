"""The conditions of the identity harness, with a device as accelerator. They need no pytest.

    python -m tests.gpu.conditions cuda "*"

One line of JSON for each condition, as it ends: its name, what came of it, and why.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROCESSES = 8
REPEATS = 3  # of a plain training, which may repeat itself by chance
OF_THE_MONITOR = ("changed", "not measured", "ended")
Outcomes = dict[str, tuple[str, str]]


def outcomes(device: str, pattern: str, seconds: float) -> Outcomes:
    """What came of each condition that matches, and why. What runs when the time is over is ended."""
    command = [sys.executable, "-m", "tests.gpu.conditions", device, pattern]
    found = dict.fromkeys(chosen(pattern), ("left out", "no time is left"))
    with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
        # Workers of loaders may wait for each other for ever: the whole group of processes ends at once.
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=lines, stderr=subprocess.DEVNULL, start_new_session=True, env=os.environ
        )
        try:
            process.wait(max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lines.seek(0)
        for line in lines:
            if line.startswith("[") and line.endswith("\n"):  # the last one may be cut
                name, outcome, why = json.loads(line)
                found[name] = outcome, why
    return found


def chosen(pattern: str) -> list[str]:
    """The names of the conditions that match."""
    from tests.integration.identity.conditions import CONDITIONS

    return [name for name in CONDITIONS if fnmatchcase(name, pattern)]


def counted(found: Outcomes) -> str:
    """How often each outcome came."""
    counts = Counter(outcome for outcome, _ in found.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) or "none"


def main(device: str, pattern: str) -> None:
    """Try them in several processes."""
    names = chosen(pattern)
    workers = max(min(PROCESSES, os.cpu_count() or 1, len(names)), 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(device,)) as pool:
        futures = {pool.submit(tried, name): name for name in names}
        for future in as_completed(futures):
            error = future.exception()
            row = future.result() if error is None else ("ended", f"{type(error).__name__}: {error}")
            sys.stdout.write(json.dumps([futures[future], *row]) + "\n")
            sys.stdout.flush()


def _prepare(device: str) -> None:
    """Let every Trainer of the tests take the device; arithmetic repeats itself where it can."""
    os.environ["GENGAP_ACCELERATOR"] = "gpu" if device == "cuda" else device
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def tried(name: str) -> tuple[str, str]:
    """The outcome of one condition, and why."""
    from tests.integration.identity.conditions import CONDITIONS
    from tests.integration.identity.twins import differences, trained
    from tests.outcomes import different

    condition = CONDITIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plain = trained(condition)
        except Exception as error:
            return "not for this device", f"its plain training raises {type(error).__name__}: {error}"[:300]
        try:
            changed, measured, failed = differences(condition)
        except Exception as error:
            return "ended", f"{type(error).__name__}: {error}"[:300]
        if changed:
            itself = next(filter(None, (different(plain, trained(condition)) for _ in range(REPEATS))), None)
            if itself:
                return "not repeatable", f"two plain trainings differ in {len(itself)} values"
            return "changed", ", ".join(changed)[:300]
    return ("identical", "") if measured and not failed else ("not measured", " | ".join(failed)[:300])


if __name__ == "__main__":
    main(*sys.argv[1:])
