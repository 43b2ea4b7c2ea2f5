"""Carry out a plan: choose the next stage, run it in a process of its own, account for the end."""
