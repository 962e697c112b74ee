"""What is to be known of a machine with a GPU, in one go: tests on it, and tables of costs.

    python benchmarks/gpu_check.py [--out DIRECTORY] [--device cuda] [--minutes 8] [--cases "identity*"]
                                   [--conditions "*"]

It runs from the checkout, with torch and Lightning alone. Without pytest the same cases run one after the other.
Without a GPU it says so and does nothing; `--device cpu`, on one tiny network, shows that the script itself works.
DIRECTORY (else that of the environment variable OUT, else runs/gpu_check) gets report.md, tests.txt, conditions.txt and
one CSV file per table. The conditions are those of the identity harness in tests/integration.

The tables are those of gpu_costs.py. What is not begun before the time is over is left out, and the report says so.
"""

import argparse
import importlib.util
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
from gpu_costs import QUICK, SUBJECTS, Table, costs, overhead, soft_rank

from tests.gpu.cases import CASES, chosen, run
from tests.gpu.conditions import OF_THE_MONITOR, outcomes
from tests.gpu.conditions import counted as counted_conditions

ROOT = Path(__file__).resolve().parent.parent
RESERVE = 20.0  # seconds that are left for writing and for what is under way


@dataclass
class Clock:
    """How much time is left."""

    end: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic() - RESERVE


def tested(device: str, pattern: str, clock: Clock) -> tuple[str, str, bool]:
    """What the tests say in one line and in full, and whether none fails."""
    if importlib.util.find_spec("pytest") is not None:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-rpfEs", "-p", "no:cacheprovider"]
        more = {"GENGAP_DEVICE": device, "GENGAP_CASES": pattern, "PYTHONPATH": str(ROOT)}
        environment = os.environ | more
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(0.6 * clock.left, 1)
            )
        except subprocess.TimeoutExpired as late:
            return "the tests were not through in time", str(late.stdout), False
        kinds = ("PASSED", "FAILED", "ERROR", "SKIPPED")
        said = [line.split()[0].lower() for line in done.stdout.splitlines() if line.startswith(kinds)]
        return counted(said), done.stdout + done.stderr, done.returncode == 0
    lines, outcomes = ["pytest is not installed here: the cases run one after the other"], []
    for name in chosen(pattern):
        outcome, reason = run(name, device) if clock.left > 0 else ("left out", "no time is left")
        outcomes.append(outcome)
        lines.append(f"{outcome}: {name}" + (f" ({reason})" if reason else ""))
    return counted(outcomes), "\n".join(lines), set(outcomes) <= {"passed", "skipped"}


def counted(outcomes: Iterable[str]) -> str:
    found = list(outcomes)
    return ", ".join(f"{found.count(outcome)} {outcome}" for outcome in dict.fromkeys(found)) or "none"


def machine(device: str) -> str:
    card = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device} ({card}), torch {torch.__version__}, Python {sys.version.split()[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "runs" / "gpu_check"))
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="*", help="only the tests whose names match this pattern")
    parser.add_argument("--conditions", default="*", help="only the identity conditions whose names match this pattern")
    options = parser.parse_args()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there[options.device]:
        print(f"no GPU here: {len(CASES)} tests skipped")
        return
    clock = Clock(time.monotonic() + 60 * options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(machine(options.device), flush=True)
    summary, full, fine = tested(options.device, options.cases, clock)
    (options.out / "tests.txt").write_text(full, encoding="utf-8")
    print(f"tests: {summary}", flush=True)
    conditions = outcomes(options.device, options.conditions, 0.5 * clock.left)
    lines = [f"{outcome}: {name}" + (f" ({why})" if why else "") for name, (outcome, why) in conditions.items()]
    (options.out / "conditions.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    fine = fine and not any(outcome in OF_THE_MONITOR for outcome, _ in conditions.values())
    told = counted_conditions(conditions)
    print(f"identity conditions: {told}", flush=True)
    tables = [
        Table("costs", "Cost of a measurement", ("network", "what", "ms", "in forwards", "in steps")),
        Table("soft_rank", "Cost of a product of the soft rank", ("network", "samples", "ms", "in steps")),
        Table(
            "overhead",
            "Whole trainings with the default monitor",
            ("network", "epochs", "samples", "without (s)", "with (s)", "ratio"),
        ),
    ]
    quick = options.device == "cpu"
    rounds = 1 if quick else options.rounds
    left_out: list[str] = []
    for name, subject in (QUICK if quick else SUBJECTS).items():
        works: dict[str, Callable[[], None]] = {
            "costs": lambda s=subject, n=name: costs(tables[0], n, s, options.device, rounds),
            "soft rank": lambda s=subject, n=name: soft_rank(tables[1], n, s, options.device, rounds),
            "overhead": lambda s=subject, n=name: overhead(tables[2], n, s, options.device, min(rounds, 3), 2),
        }
        for what, work in works.items():
            if clock.left <= 0:
                left_out.append(f"{what} of {name}: no time is left")
                continue
            try:
                work()
            except Exception as error:  # one table that fails keeps nobody from the others
                left_out.append(f"{what} of {name}: {type(error).__name__}: {error}")
                fine = False
    head = [
        f"# Checks on {machine(options.device)}",
        "",
        f"Tests: {summary}.",
        f"Identity conditions: {told}.",
        *(f"Left out: {each}" for each in left_out),
    ]
    text = "\n".join([*head, "", *(table.markdown() for table in tables)])
    (options.out / "report.md").write_text(text, encoding="utf-8")
    for table in tables:
        table.write(options.out)
    print(text)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
