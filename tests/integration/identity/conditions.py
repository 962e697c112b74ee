"""All conditions under which a training with the monitor is compared with its plain twin."""

from __future__ import annotations

from tests.integration.identity.callbacks import CALLBACKS
from tests.integration.identity.layers import LAYERS
from tests.integration.identity.loaders import LOADERS
from tests.integration.identity.loops import LOOPS
from tests.integration.identity.state import STATE
from tests.integration.identity.surroundings import SURROUNDINGS
from tests.integration.identity.twins import Condition

CONDITIONS: dict[str, Condition] = LAYERS | STATE | LOOPS | LOADERS | CALLBACKS | SURROUNDINGS
