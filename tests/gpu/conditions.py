"""The conditions of the identity harness, with a device as accelerator. They need no pytest."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase

PROCESSES = 8
REPEATS = 3  # of a plain training, which may repeat itself by chance
OF_THE_MONITOR = ("changed", "not measured", "ended")


def outcomes(device: str, pattern: str, seconds: float) -> dict[str, tuple[str, str]]:
    """What came of each condition that matches, and why: in several processes, until the time is over."""
    from tests.integration.identity.conditions import CONDITIONS

    names = [name for name in CONDITIONS if fnmatchcase(name, pattern)]
    end = time.monotonic() + seconds
    found = dict.fromkeys(names, ("left out", "no time is left"))
    workers = min(PROCESSES, os.cpu_count() or 1, len(names))
    if not workers:
        return {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(device,)) as pool:
        futures = {name: pool.submit(tried, name) for name in names}
        for name, future in futures.items():
            try:
                found[name] = future.result(timeout=max(end - time.monotonic(), 0.1))
            except TimeoutError:
                future.cancel()
            except Exception as error:  # of the pool: a process was killed
                found[name] = "ended", f"{type(error).__name__}: {error}"
    return found


def counted(found: dict[str, tuple[str, str]]) -> str:
    """How often each outcome came."""
    counts = Counter(outcome for outcome, _ in found.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) or "none"


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
