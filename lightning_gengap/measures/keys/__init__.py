"""Keys of the measures that do not declare them in their own file yet."""

from __future__ import annotations

from dataclasses import replace

from lightning_gengap.measures.invariances import invariance_of
from lightning_gengap.measures.key import Key
from lightning_gengap.measures.keys.curvature import CURVATURE
from lightning_gengap.measures.keys.noise import NOISE
from lightning_gengap.measures.keys.norms import NORMS

OLD_KEYS: dict[str, Key] = {
    key: replace(declared, invariances=invariance_of(key)) for key, declared in (NORMS | NOISE | CURVATURE).items()
}
