"""Saved prompts and their model cards."""
