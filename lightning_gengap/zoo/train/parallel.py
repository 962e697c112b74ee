"""Independent jobs side by side, in local processes or on a cluster, through joblib's backends."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from lightning_gengap.errors import ConfigurationError


def in_parallel(jobs: Sequence[Any], processes: int, backend: str, unit: str) -> int:
    """Run `joblib.delayed` calls, with a progress bar on terminals; the number of them that returned True.

    The backend is loky, dask or ray. dask connects to the scheduler at DASK_SCHEDULER_ADDRESS, ray to the cluster at
    RAY_ADDRESS; each starts a cluster on this machine if there is no address.
    """
    from joblib import Parallel
    from tqdm import tqdm

    bar = partial(tqdm, total=len(jobs), unit=unit, disable=None)
    with _backend(backend):
        if backend == "ray":  # it returns all results at the end, so that the bar shows the jobs handed out
            return sum(Parallel(n_jobs=processes, batch_size=1)(bar(jobs)))
        return sum(bar(Parallel(n_jobs=processes, batch_size=1, return_as="generator_unordered")(jobs)))


@contextmanager
def _backend(name: str) -> Iterator[None]:
    from joblib import parallel_config

    if name == "loky":
        yield
        return
    try:
        module = importlib.import_module("distributed" if name == "dask" else "ray.util.joblib")
    except ImportError as error:
        raise ConfigurationError(
            f"--backend {name}",
            got=str(error),
            expected=f"{name} in this environment",
            remedy=f"pip install {'dask distributed' if name == 'dask' else 'ray'}, or use --backend loky.",
        ) from None
    if name == "ray":
        module.register_ray()
    client = module.Client() if name == "dask" else nullcontext()
    with client, parallel_config(backend=name):
        yield
