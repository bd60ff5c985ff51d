"""Benchmark suites (YAML), published figures, and speed benchmarks."""
