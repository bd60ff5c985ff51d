"""Suites of `kind: tuning`: ways of tuning prompts on labelled data."""
