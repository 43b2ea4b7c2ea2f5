"""Grids from Python: plan them, run them, read their results and open what they left. The command
line stands on this room, too.
"""
