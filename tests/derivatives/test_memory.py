"""Memory that is left, from files as Linux writes them, and what a graph keeps."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.memory import available, kept_by, room_for
from lightning_gengap.errors import out_of_memory

MEMINFO = "MemTotal:       24000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\n"
KIB = 1024
MESSAGES = {
    "cuda": "CUDA out of memory. Tried to allocate 20.00 GiB.",
    "cpu": "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ...",
    "cublas": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
}


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


def test_a_quarter_is_left_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for left, fitting in ((1000, [True, False]), (None, [True, True])):
        monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda left=left: left)
        assert [room_for(count) for count in (750, 751)] == fitting


def test_here_it_is_a_plausible_number() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("no Linux")
    left = available()
    assert left is not None
    assert 0 < left < 2**50


def test_a_graph_keeps_activations_once_and_weights_whatever_the_samples() -> None:
    model = nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 3), nn.Tanh())
    two, five = (kept_by(lambda count=count: model(torch.randn(count, 10))) for count in (2, 5))
    # Inputs of the layers (the ReLU's output is the second layer's input) and the output of tanh, in float32.
    assert five - two == 4 * 3 * (10 + 7 + 3)
    assert two == 4 * 2 * (10 + 7 + 3) + 4 * 7 * 3  # the gradient of the ReLU's output takes the second layer's weights


@pytest.mark.parametrize("own", [torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.sqrt, nn.Softmax(dim=1)])
def test_operations_that_save_their_own_output_are_freed(own: Callable[[Tensor], Tensor]) -> None:
    """The output holds its operation and, through the hook, the operation its output: no collector sees that circle."""
    outputs: list[weakref.ref[Tensor]] = []

    def forward() -> Tensor:
        output = own(torch.rand(3, 2).requires_grad_())
        outputs.append(weakref.ref(output))
        return output

    assert kept_by(forward) == 4 * 3 * 2
    gc.collect()
    assert outputs[0]() is None


def test_a_gradient_inside_the_forward_is_counted_too() -> None:
    """What was saved is read again there, with its own history."""
    inputs = torch.rand(3, 2).requires_grad_()

    def forward() -> Tensor:
        (slope,) = torch.autograd.grad(inputs.exp().sum(), inputs, create_graph=True)
        return slope * inputs

    assert kept_by(forward) >= 4 * 3 * 2


def test_without_a_graph_nothing_is_kept() -> None:
    def detached() -> Tensor:
        with torch.no_grad():
            return nn.Linear(4, 4)(torch.randn(2, 4))

    assert kept_by(detached) == 0


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_lack_of_memory_is_known_by_its_words(message: str) -> None:
    assert out_of_memory(RuntimeError(message))
    kind = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    assert out_of_memory(kind(message))


@pytest.mark.parametrize("text", ["a size mismatch", "memory format", "expected all tensors on one device"])
def test_other_texts_are_no_lack_of_memory(text: str) -> None:
    assert not out_of_memory(RuntimeError(text))
    assert not out_of_memory(ValueError("out of memory"))
