"""Helpers without knowledge of models: files, hashes, statistics, renamed names."""
