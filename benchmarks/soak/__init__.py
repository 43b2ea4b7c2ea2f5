"""Campaigns that try to break the harness: `python -m benchmarks.soak`."""
