"""Overhead of the default monitor on the CIFAR example: whole trainings with it and without it, in turn.

    python benchmarks/overhead.py --data DIRECTORY [--limit-train 50000] [--epochs 1] [--rounds 3]

Each round trains once without and once with GapMonitor. The ratio includes the measurement at the start.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cifar10.py"


def training_seconds(arguments: list[str]) -> tuple[float, float | None]:
    """Seconds of training and the monitor's own last `overhead`, as the example prints them."""
    printed = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], check=True, capture_output=True, text=True
    ).stdout
    seconds = re.search(r"trained \d+ epochs in ([\d.]+) s", printed)
    overheads = re.findall(r"overhead ([\d.]+)", printed)
    assert seconds is not None, printed
    return float(seconds[1]), float(overheads[-1]) if overheads else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit-train", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    shared = ["--limit-train", str(options.limit_train), "--epochs", str(options.epochs), "--width", str(options.width)]
    if options.data is not None:
        shared += ["--data", str(options.data)]
    ratios = []
    print("| round | without (s) | with (s) | ratio | overhead as logged |")
    print("|---|---|---|---|---|")
    for number in range(options.rounds):
        without, _ = training_seconds([*shared, "--no-monitor"])
        watched, overhead = training_seconds(shared)
        ratios.append(watched / without)
        print(f"| {number + 1} | {without:.1f} | {watched:.1f} | {ratios[-1]:.3f} | {overhead} |", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
