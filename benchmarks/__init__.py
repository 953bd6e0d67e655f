"""Measurements of the project itself, run as `python -m benchmarks.inference` and so on."""
