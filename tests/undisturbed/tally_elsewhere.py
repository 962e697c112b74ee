"""A module of the user's in which a forward counts."""

CALLS = 0
SEEN = {"calls": 0}
