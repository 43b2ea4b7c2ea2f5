"""Metrics, one file for each number."""
