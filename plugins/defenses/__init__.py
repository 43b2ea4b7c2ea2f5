"""Defenses, one file a method."""
