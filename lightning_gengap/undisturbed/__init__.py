"""The guard around training: measure a model and leave no trace.

`guard` is the door. What it keeps: the random streams, the settings of torch, and every object that the model reaches
(`snapshot`, in the ways of `kinds` and `tensors`). May import `errors`.
"""

from lightning_gengap.undisturbed.global_variables import global_variables, restore_variables
from lightning_gengap.undisturbed.guard import state_kept, undisturbed
from lightning_gengap.undisturbed.lasting_changes import find_lasting_changes
from lightning_gengap.undisturbed.random_streams import random_streams_kept

__all__ = [
    "find_lasting_changes",
    "global_variables",
    "random_streams_kept",
    "restore_variables",
    "state_kept",
    "undisturbed",
]
