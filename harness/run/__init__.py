"""Carry out a plan: which stage next, in which process, and what became of it."""
