"""Titles of stages: the cell that a stage belongs to, as tables label it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.grid import Cell, Entry

SEPARATOR = " · "


class Titles:
    """Titles for the stages of `cells`. Dataset, model and seed are told only where they vary."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        datasets = set()
        models = set()
        seeds = set()
        for cell in cells:
            datasets.add(cell.dataset)
            models.add(cell.model)
            seeds.add((cell.victim_seed, cell.defense_seed))
        self._datasets = len(datasets) > 1
        self._models = len(models) > 1
        self._seeds = len(seeds) > 1

    def cell(self, dataset: Entry, model: Entry | None, attack: Entry) -> str:
        """Name a victim, or what is made for several models: `gtsrb · resnet18 · badnets`."""
        labels = []
        if self._datasets:
            labels.append(dataset.label)
        if self._models and model is not None:
            labels.append(model.label)
        labels.append(attack.label)
        return SEPARATOR.join(labels)

    def seeded(self, title: str, victim_seed: int, defense_seed: int | None = None) -> str:
        """Add the seed to a title: `badnets · nad, seed 0`, with two seeds that differ `0.1`."""
        if not self._seeds:
            return title
        if defense_seed is None or defense_seed == victim_seed:
            return f"{title}, seed {victim_seed}"
        return f"{title}, seed {victim_seed}.{defense_seed}"
