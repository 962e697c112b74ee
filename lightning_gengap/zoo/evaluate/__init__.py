"""Held-out scores of a specification under the protocol (`zoo.splits`). May import zoo.fit and what it may import."""
