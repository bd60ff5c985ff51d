"""Benchmark suites (YAML), published figures, and the speed benchmark."""
