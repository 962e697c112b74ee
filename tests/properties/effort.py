"""How many examples a property is tried on."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

FACTOR = float(os.environ.get("PROPERTY_EXAMPLES", "1"))  # times the usual number, and others in every run


def examples(count: int) -> settings:
    """So many fixed examples; with PROPERTY_EXAMPLES=20 twenty times as many, drawn anew or by `--hypothesis-seed`."""
    return settings(
        max_examples=max(1, round(count * FACTOR)),
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
