"""What memory is left on the CPU: a process that takes more is killed unwarned."""

from __future__ import annotations

from pathlib import Path

UNLIMITED = 2**60  # above it, a control group's limit means that there is none
SHARE = 0.75  # of what is left, which others want too


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take of the machine and of its control groups; None where there is no Linux.

    A control group counts the files that are cached for it. Those that are not in use are given back when needed, so
    that they count as free here.
    """
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, folder = ("memory.max", "memory.current", "inactive_file"), root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            folder = root / "sys/fs/cgroup/memory"
        else:
            continue
        parts = Path(path.lstrip("/"))
        found += [left for group in {parts, *parts.parents} if (left := _left(folder / group, *names)) is not None]
    return min(found) if found else None


def _left(group: Path, limit: str, usage: str, cached: str) -> int | None:
    most, used = "".join(_lines(group / limit)), "".join(_lines(group / usage))
    if not most.isdigit() or not used.isdigit() or int(most) > UNLIMITED:
        return None
    given_back = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith(f"{cached} ")]
    return max(int(most) - int(used) + sum(given_back), 0)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
