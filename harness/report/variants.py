"""Keys of the `variant` column in files of papers' numbers, and what a row has for each.

A few keys are words of these files for what rows say in the harness's words: `poison_rate` and
`poison_rate_target` (a share of the training set, or of the target's images), `target_mode` (the
label map), `clean_size` or `holdout` (images granted), `clean_frac` (a share of the training set),
`labels` and `unlabeled` (a data set). Every other key is the name of a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.report.results import Row

GREY_LEVELS = 255
_OTHER_SHARE = "a share of other images"
"""Stands for a poison rate that no number of the paper can be compared with."""


def agrees(key: str, printed: str, row: Row, owners: Sequence[str]) -> bool:
    """Return False if `key` is a setting of the row, and none of its values is the printed one.

    `owners` are the kinds of component that may have a parameter of this name, the first one
    first.
    """
    values = _WORDS[key](row) if key in _WORDS else _parameter(key, row, owners)
    tolerance = 0.05 if key == "clean_frac" else 1e-6
    return not values or any(_same(printed, value, tolerance) for value in values)


def _rate_of_training_set(row: Row) -> list[Any]:
    return _poison_rate(row, of_target=False)


def _rate_of_target(row: Row) -> list[Any]:
    return _poison_rate(row, of_target=True)


def _poison_rate(row: Row, of_target: bool) -> list[Any]:
    """Return the attack's rate if it is a share of the images that are asked about."""
    attack = _params(row, "attack")
    if "poison_rate" not in attack:
        return []
    is_of_target = attack.get("rate_of") == "eligible" and attack.get("eligible") == "target"
    if is_of_target == of_target:
        return [attack["poison_rate"]]
    return [_OTHER_SHARE]


def _label_map(row: Row) -> list[Any]:
    attack = _params(row, "attack")
    return [attack["label_map"]] if "label_map" in attack else []


def _grants(row: Row) -> list[Mapping[str, Any]]:
    return list(row.settings.get("grants", {}).values())


def _granted_images(row: Row) -> list[Any]:
    return [grant["count"] for grant in _grants(row)]


def _granted_share(row: Row) -> list[Any]:
    return [grant["count"] / grant["of"] for grant in _grants(row)]


def _are_labelled(row: Row) -> list[Any]:
    return [grant["labelled"] for grant in _grants(row)]


def _unlabelled_datasets(row: Row) -> list[Any]:
    return [grant["dataset"] for grant in _grants(row) if not grant["labelled"]]


_WORDS: Mapping[str, Callable[[Row], list[Any]]] = {
    "poison_rate": _rate_of_training_set,
    "poison_rate_target": _rate_of_target,
    "target_mode": _label_map,
    "clean_size": _granted_images,
    "holdout": _granted_images,
    "clean_frac": _granted_share,
    "labels": _are_labelled,
    "unlabeled": _unlabelled_datasets,
}


def _parameter(name: str, row: Row, owners: Sequence[str]) -> list[Any]:
    """Return the value of the first owner that has such a parameter.

    A share of the range of brightness, such as 8/255, may be printed in grey levels, too.
    """
    for owner in owners:
        params = _params(row, owner)
        if name not in params:
            continue
        value = params[name]
        values = [value]
        if isinstance(value, float) and 0 < value <= 1:
            levels = GREY_LEVELS * value
            if math.isclose(levels, round(levels), rel_tol=1e-6):
                values.append(levels)
        return values
    return []


def _params(row: Row, kind: str) -> Mapping[str, Any]:
    params: Mapping[str, Any] = row.settings.get(kind, {}).get("params", {})
    return params


def _same(printed: str, value: Any, tolerance: float) -> bool:
    if isinstance(value, bool):
        words = ("yes", "true") if value else ("no", "false")
        return printed in words
    if isinstance(value, int | float):
        number = _number(printed)
        return number is not None and math.isclose(number, value, rel_tol=tolerance)
    return printed == str(value)


def _number(printed: str) -> float | None:
    """Read `0.05` or `8/255`; None for anything else."""
    above, slash, below = printed.partition("/")
    try:
        if slash:
            return float(above) / float(below)
        return float(above)
    except (ValueError, ZeroDivisionError):
        return None
