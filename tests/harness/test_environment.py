from __future__ import annotations

import pkgutil
from importlib.machinery import FileFinder
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import environment

FOLDER = Path(environment.__file__).parent


def module_files() -> list[Path]:
    """Every module that `harness` has, found as an import would find it, and not by its suffix."""
    files = [Path(harness.__file__)]
    for found in pkgutil.walk_packages(harness.__path__, "harness."):
        assert isinstance(found.module_finder, FileFinder)
        spec = found.module_finder.find_spec(found.name)
        assert spec is not None
        assert spec.origin is not None
        files.append(Path(spec.origin))
    return files


def test_a_change_of_any_module_of_the_harness_moves_the_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = environment.fingerprint()
    assert environment.fingerprint() == before
    true_state = environment.file_state

    def fingerprint_with(touched: Path) -> str:
        def state(path: Path | str) -> Any:
            modified, *rest = true_state(path) or (0, 0)
            return [modified + (Path(path) == touched), *rest]

        with monkeypatch.context() as patch:
            patch.setattr(environment, "file_state", state)
            return environment.fingerprint()

    files = module_files()
    rooms = {file.relative_to(FOLDER).parts[0] for file in files}
    assert {"registry", "introspect", "sources", "learn", "environment.py"} <= rooms
    plain = fingerprint_with(Path("no module"))
    unseen = [file for file in files if fingerprint_with(file) == plain]
    assert unseen == [], "these may change, and nothing is asked again"


def test_a_module_that_is_added_or_taken_away_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "harness" / "room"
    room.mkdir(parents=True)
    home = tmp_path / "harness" / "environment.py"
    home.touch()
    monkeypatch.setattr(environment, "__file__", str(home))
    empty = environment.fingerprint()
    (room / "notes.txt").touch()
    assert environment.fingerprint() == empty, "what is no module moves nothing"
    (room / "fresh.py").touch()
    fresh = environment.fingerprint()
    assert fresh != empty
    (room / "fresh.py").write_text("x = 1\n")
    assert environment.fingerprint() not in (empty, fresh)
    (room / "fresh.py").unlink()
    assert environment.fingerprint() == empty
