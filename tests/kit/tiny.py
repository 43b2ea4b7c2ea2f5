"""A grid that takes seconds, for tests of what surrounds a run."""

from __future__ import annotations

GRID = """
[[dataset]]
name = "signs"
train = 200
test = 60
pool = 40
[[model]]
name = "small-cnn"
width = 4
[[attack]]
name = "badnets"
[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 1
[training]
recipe = "signs"
epochs = 1
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""
