"""Attacks, one file for each method."""
