"""Defenses, one file for each method."""
