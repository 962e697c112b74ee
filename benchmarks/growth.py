"""What repeated measurements leave in the process: tensors, objects, hooks, open files and memory.

    python benchmarks/growth.py [--times 1000] [--measures margin fit ...]

One line per tenth of the measurements. It fails where tensors, hooks or files are left, or memory grows steadily.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parent.parent))

from lightning_gengap import measure
from lightning_gengap.measures import BY_DEFAULT
from lightning_gengap.network.probe import copy_state
from tests.left_behind import Alive, alive

MEBI = 2**20
MOST = 16 * MEBI  # of memory from the first tenth to the last; the allocator's own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--measures", nargs="+", default=list(BY_DEFAULT))
    options = parser.parse_args()
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # what is absent is said at every call
    targets = torch.arange(64) % 4
    images = torch.randn(64, 3, 12, 12) + targets[:, None, None, None]
    convolution = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    model = nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)).eval()
    start, began = copy_state(model), time.perf_counter()
    print(f"{', '.join(options.measures)}; {len(targets)} samples, torch {torch.__version__}")
    print("measurements  tensors  objects  hooks  files   MiB  seconds")
    rows: list[Alive] = []
    for number in range(1, options.times + 1):
        measure(model, [(images, targets)], options.measures, initial_state=start)
        if number % max(options.times // 10, 1) == 0:
            rows.append(row := alive(model))
            counts = f"{row.tensors:8} {row.objects:8} {row.hooks:6} {row.files:6} {row.resident / MEBI:5.0f}"
            print(f"{number:12} {counts} {time.perf_counter() - began:8.0f}")
    first, last = rows[0], rows[-1]
    grown = last.resident - first.resident
    print(f"from the first tenth to the last: {last.tensors - first.tensors} tensors, {grown / MEBI:.1f} MiB")
    if last[0] > first[0] or last[2:5] != first[2:5] or grown > MOST:
        sys.exit("something is left behind")


if __name__ == "__main__":
    main()
