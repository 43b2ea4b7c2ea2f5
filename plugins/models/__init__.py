"""Classifiers, one file for each architecture."""
