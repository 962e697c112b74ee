"""Memory that is left, from files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_gengap.free_memory import available

MEMINFO = "MemTotal:       24000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\n"
KIB = 1024


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_limits_it_is_the_machines(tmp_path: Path) -> None:
    assert available(written(tmp_path, {"proc/meminfo": MEMINFO})) == 8000 * KIB
    written(tmp_path, {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"})
    assert available(tmp_path) == 8000 * KIB


def test_where_linux_is_not_nothing_is_known(tmp_path: Path) -> None:
    assert available(tmp_path) is None


@pytest.mark.parametrize("group", ["a/b", "a", ""])
def test_the_tightest_control_group_counts(group: str, tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "12:cpu:/x\n0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": str(10**7),
        "sys/fs/cgroup/a/b/memory.current": "0",
        f"sys/fs/cgroup/{group}/memory.max": str(5000 * KIB),
        f"sys/fs/cgroup/{group}/memory.current": str(3000 * KIB),
        f"sys/fs/cgroup/{group}/memory.stat": f"anon 7\ninactive_file {500 * KIB}\nactive_file 9\n",
    }
    assert available(written(tmp_path, files)) == 2500 * KIB


def test_control_groups_of_the_first_version(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:cpu,memory:/job\n2:cpuset:/other\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(4000 * KIB),
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(4500 * KIB),
        "sys/fs/cgroup/memory/job/memory.stat": f"total_inactive_file {600 * KIB}\n",
    }
    assert available(written(tmp_path, files)) == 100 * KIB


def test_here_it_is_a_plausible_number() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("no Linux")
    left = available()
    assert left is not None
    assert 0 < left < 2**50
