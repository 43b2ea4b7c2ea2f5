"""Checks of the fields that have a meaning of their own: training, seeds, grants and the bounds of
`established`.
"""

from __future__ import annotations

from typing import Any

from harness.grid.checks import (
    Report,
    is_number,
    limited,
    raws,
    string,
    table,
    values,
    wrong_type,
)
from harness.grid.model import Seeds
from harness.grid.nodes import Node

GRANTS = ("clean", "clean-labelled", "clean-unlabelled")
"""The sorts of clean images that a defender may get."""

MOST_SEEDS = 10_000
"""The most replicates of a cell."""

_SPELT_OUT = 10
"""The most seeds that a hint lists."""
_SEEDS = "write seeds = [0, 1, 2], or seeds = {victim = [0], defense = [0, 1, 2]}"
_SEED = "a seed is a whole number, 0 or more"
_AMOUNT = "write a count of images (2500) or a fraction of the training images (0.05)"
_GRANT = f'{_AMOUNT}, or {{dataset = "gtsrb", count = 2500}}'


def training(report: Report, node: Node | None) -> dict[str, Any]:
    """Return a training table: `recipe` is a string, or left out where it is none; everything else
    is kept raw.
    """
    settings = table(report, node, hint='write training.recipe = "..." or training.epochs = 20')
    recipe = string(
        report, settings.get("recipe"), "name a recipe; `bench list recipes` shows them"
    )
    kept = raws(report, settings)
    if recipe is None:
        kept.pop("recipe", None)
    return kept


def established(report: Report, node: Node | None) -> dict[str, float]:
    """Return the bounds that a victim must reach, each between 0 and 1."""
    bounds = {}
    known = table(report, node, ("asr", "acc"), "write established.asr = 0.9")
    for key, child in known.items():
        bound = _fraction(report, child)
        if bound is not None:
            bounds[key] = bound
    return bounds


def _fraction(report: Report, node: Node) -> float | None:
    """Return a number between 0 and 1, both allowed."""
    hint = "write a fraction between 0 and 1, such as 0.95"
    value = node.value
    if not is_number(value):
        wrong_type(report, node, "a fraction", hint)
        return None
    if 0 <= value <= 1:
        return float(value)
    # Out of range, or nan, which compares false.
    if 1 < value <= 100:
        hint = f"{value} % is {value / 100:g}; {hint}"
    report.add(node.place, f"{value} is out of range", hint)
    return None


def seeds(report: Report, node: Node | None) -> Seeds | None:
    """Return the seeds of `[0, 1]`, which moves victim and defense together, or of
    `{victim = [...], defense = [...]}`, their product.
    """
    if node is None:
        return None
    if isinstance(node.value, dict):
        pairs = _seed_product(report, node)
    else:
        listed = _seed_list(report, node)
        limited(report, node.place, len(listed), MOST_SEEDS, "replicates")
        pairs = [(seed, seed) for seed in listed]
    if not pairs:
        return None
    return Seeds(tuple(pairs))


def _seed_product(report: Report, node: Node) -> list[tuple[int, int]]:
    sides = table(report, node, ("victim", "defense"))
    if not node.value:
        report.add(node.place, "the table names no seeds", _SEEDS)
    victim_seeds = [0]
    if "victim" in sides:
        victim_seeds = _seed_list(report, sides["victim"])
    defense_seeds = [0]
    if "defense" in sides:
        defense_seeds = _seed_list(report, sides["defense"])
    count = len(victim_seeds) * len(defense_seeds)
    if not limited(report, node.place, count, MOST_SEEDS, "replicates"):
        return []
    pairs = []
    for victim_seed in victim_seeds:
        for defense_seed in defense_seeds:
            pairs.append((victim_seed, defense_seed))
    return pairs


def _seed_list(report: Report, node: Node) -> list[int]:
    seeds = []
    for item in values(report, node, "one seed", _SEEDS, _so_many(node.value)):
        seed = item.value
        if isinstance(seed, bool) or not isinstance(seed, int):
            wrong_type(report, item, "a seed", _SEED)
        elif seed < 0:
            report.add(item.place, f"{seed} is out of range", _SEED)
        else:
            seeds.append(seed)
    return seeds


def _so_many(value: Any) -> str:
    """Return what would be right for a number that may have meant so many seeds, else ""."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _SPELT_OUT:
        return ""
    return f"write {list(range(value))} for so many replicates, or [{value}] for this one"


def grant(report: Report, node: Node | None) -> dict[str, Any]:
    """Return what a defender gets of each sort of clean images: a count, a fraction, or images of
    another dataset. What is wrong is left out, since nobody can be asked about it.
    """
    amounts = table(report, node, GRANTS, hint="write grant.clean = 2500")
    granted = {}
    for key, amount in amounts.items():
        if isinstance(amount.value, dict):
            sound = _check_foreign(report, amount)
        else:
            sound = _check_amount(report, amount, _GRANT)
        if sound:
            granted[key] = amount.plain()
    return granted


def _check_foreign(report: Report, node: Node) -> bool:
    """Check a grant of images of another dataset; return whether it can be used."""
    known = table(report, node, ("dataset", "count"))
    sound = len(known) == len(node.table)
    for key in ("dataset", "count"):
        if key not in known:
            report.add(node.place, f"{key} is missing", 'write {dataset = "gtsrb", count = 2500}')
            sound = False
    if "count" in known:
        sound &= _check_amount(report, known["count"], _AMOUNT)
    if "dataset" in known:
        sound &= _check_dataset(report, known["dataset"])
    return sound


def _check_dataset(report: Report, node: Node) -> bool:
    hint = 'write "gtsrb", or {name = "gtsrb", ...} with parameters'
    if not isinstance(node.value, dict):
        return string(report, node, hint) is not None
    if "name" not in node.table:
        report.add(node.place, "name is missing", hint)
        return False
    raws(report, node.table)
    return string(report, node.table["name"], hint) is not None


def _check_amount(report: Report, node: Node, hint: str) -> bool:
    """Check a count of images, or a fraction above 0 and up to 1; return whether it is one."""
    value = node.value
    if not is_number(value):
        wrong_type(report, node, "a count or a fraction", hint)
        return False
    if isinstance(value, int):
        in_range = value >= 1
    else:
        in_range = 0 < value <= 1
    if in_range:
        return True
    if isinstance(value, float) and value > 1 and value.is_integer():
        hint = f"write {int(value)} for a count"
    report.add(node.place, f"{value} is out of range", hint)
    return False
