from __future__ import annotations

import tomllib

from harness.vocabulary import CELL_KINDS, ENTRY_KINDS, KEBAB, KINDS, PLUGINS, RESERVED
from tests.kit.places import ROOT


def test_a_grid_has_entries_of_every_kind_but_parts() -> None:
    assert {*ENTRY_KINDS, "part"} == set(KINDS)
    assert {*CELL_KINDS, "metric"} == set(ENTRY_KINDS)


def test_reserved_keys_belong_to_kinds_of_entries() -> None:
    assert all(kinds and set(kinds) <= set(ENTRY_KINDS) for kinds in RESERVED.values())


def test_the_box_registers_in_the_group_of_plugins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert PLUGINS in project["entry-points"]
    assert all(KEBAB.fullmatch(name) for name in project["entry-points"][PLUGINS])
