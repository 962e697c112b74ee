"""The situations of docs/refusals.md, one case for each row."""
