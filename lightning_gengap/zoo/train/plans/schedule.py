"""How long the runs of the third zoo train, and when a snapshot is taken."""

from __future__ import annotations

SNAPSHOTS = 16  # and one after the first epoch, where this is none of them
MOST_EPOCHS = 480


def scheduled(passes: float, samples: int) -> tuple[int, int]:
    """Epochs and `snapshot_every` for about so many passes of single samples, in 16 snapshots at equal distances."""
    every = max(round(min(passes / samples, MOST_EPOCHS) / SNAPSHOTS), 1)
    return SNAPSHOTS * every, every


def shrunk(samples: int, share: float, fewest: int) -> int:
    """A share of the samples, in tens, but not fewer than `fewest` if there are as many."""
    return min(max(int(round(samples * share, -1)), fewest), samples)
