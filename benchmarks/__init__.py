"""Measurements and the demo: `python -m benchmarks.bench [--quick]`, `python -m benchmarks.demo`. Imported by no other folder."""
