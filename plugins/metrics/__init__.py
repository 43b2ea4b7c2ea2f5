"""Metrics, one file a number."""
