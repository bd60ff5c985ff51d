"""Suites of `kind: gain`: how much attention markers draw."""
