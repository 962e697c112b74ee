"""Held-out scores of a specification under the protocol. May import zoo.fit."""
