from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import BenchError
from harness.extras import MissingExtra, extra_module


def test_what_is_installed_is_imported() -> None:
    import json.decoder

    assert extra_module("json.decoder", "any") is json.decoder


def test_what_is_not_is_named_with_the_command_that_brings_it() -> None:
    with pytest.raises(MissingExtra) as raised:
        extra_module("no_such_library.inside", "more", "my-plugin")
    assert str(raised.value) == "no_such_library is not installed: pip install 'my-plugin[more]'"
    assert isinstance(raised.value, BenchError)


def test_a_library_that_is_there_and_broken_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_a_library.py").write_text("import what_it_stands_on\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="what_it_stands_on"):
        extra_module("half_a_library", "more")
    assert "half_a_library" not in sys.modules
