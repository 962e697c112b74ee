"""Jobs side by side: local processes, a dask cluster of two workers, and a stand-in for ray."""

import os
import subprocess
import sys
import types

import joblib
import pytest
from joblib._parallel_backends import MultiprocessingBackend

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.train.parallel import in_parallel

JOBS = [joblib.delayed(bool)(number % 3) for number in range(7)]  # four of them return True

ON_A_CLUSTER = """
import os
from distributed import LocalCluster
from tests.zoo.train.test_parallel import JOBS, in_parallel
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
        print(in_parallel(JOBS, -1, "dask", "job"))
"""


def test_local_processes_count_what_returned_true():
    assert in_parallel(JOBS, 2, "loky", "job") == 4


def test_a_dask_cluster_counts_the_same():
    pytest.importorskip("distributed")
    command = [sys.executable, "-W", "ignore", "-c", ON_A_CLUSTER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=True)
    assert done.stdout.split() == ["4"]


def test_a_backend_without_generators_counts_the_same(monkeypatch: pytest.MonkeyPatch):
    """Like ray's own backend, which returns a list and which is too large to be installed for a test."""
    module = types.ModuleType("ray.util.joblib")
    module.register_ray = lambda: joblib.register_parallel_backend("ray", MultiprocessingBackend)  # type: ignore[attr-defined]
    for name in ("ray", "ray.util", "ray.util.joblib"):
        monkeypatch.setitem(sys.modules, name, module)
    assert not MultiprocessingBackend.supports_return_generator
    assert in_parallel(JOBS, 2, "ray", "job") == 4


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_backend_that_is_not_installed_is_named(backend: str, monkeypatch: pytest.MonkeyPatch):
    for module in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, module, None)  # as if not installed
    with pytest.raises(ConfigurationError, match=f"expected {backend} in this environment"):
        in_parallel(JOBS, 2, backend, "job")
