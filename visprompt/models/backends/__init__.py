"""Backends: one module per library that encoders come from."""
