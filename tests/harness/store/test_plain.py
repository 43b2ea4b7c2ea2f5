from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store import disk, plain
from tests.kit.damage import make_special

SPECIAL = ("fifo", "folder", "socket", "/dev/zero", "/etc/hostname", "/nowhere")


@pytest.mark.parametrize("what", SPECIAL)
def test_only_plain_files_are_opened_and_nothing_is_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "file.json"
    make_special(path, what)
    began = time.monotonic()
    for read in (plain.content, lambda path: plain.tail(path, 10)):
        with pytest.raises(plain.NotPlain, match=r"file\.json is"):
            read(path)
    with pytest.raises(disk.Unreadable, match=r"file\.json"):
        list(disk.chunks(path))
    assert disk.read_table(path) is None
    assert time.monotonic() - began < 1


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert plain.content(path, 10) == b"0123456789"
    with pytest.raises(ValueError, match="larger than the 9 bytes"):
        plain.content(path, 9)
    assert plain.tail(path, 4) == b"6789"
    assert plain.tail(path, 40) == b"0123456789"
    with pytest.raises(FileNotFoundError):
        plain.content(tmp_path / "nothing")


def test_a_file_that_grows_while_it_is_read_comes_to_an_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    with path.open("ab", buffering=0) as writer:
        chunks = disk.chunks(path)
        assert next(chunks) == b"x" * 10
        writer.write(b"y")
        with pytest.raises(disk.Unreadable, match="grows"):
            next(chunks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[" * 500 + b"]" * 500, "more than 40 levels"),
        (b'{"a": NaN}', "nan"),
        (b'{"a": [1e999]}', "inf"),
        (b"9" * 5000, "integer string conversion"),
        (b"9" * 400, "whole number of 1329 bits"),
        (b'{"\\ud800": 1}', "halves of characters"),
        (b'{"a\\u001b[2J": 1}', "control characters"),
        (b'{"%s": 1}' % (b"a" * 501), "501 characters"),
        (b"\xff", "utf-8"),
        (b"", "Expecting value"),
    ],
)
def test_what_json_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plain.parse(text)


def test_a_table_is_a_json_object() -> None:
    assert plain.table(b'{"a": [1, 2.5, null, "\\u001b"]}') == {"a": [1, 2.5, None, "\x1b"]}
    with pytest.raises(ValueError, match="holds a list; a JSON object is expected"):
        plain.table(b"[]")


@given(st.text(st.characters(codec=None)))
def test_clean_text_can_be_written_and_shown(text: str) -> None:
    cleaned = plain.clean(text)
    assert len(cleaned) == len(text)
    cleaned.encode()
    assert not any(ord(character) < 32 and character not in "\n\t" for character in cleaned)
    assert plain.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.json", True),
        ("folder/a.json", True),
        ("..a", True),
        ("", False),
        ("..", False),
        ("../../a", False),
        ("folder/../a", False),
        ("/etc/passwd", False),
        ("a//b", False),
        ("./a", False),
        ("a/", False),
        ("a\0b", False),
    ],
)
def test_names_that_lead_out_of_an_object(name: str, expected: bool) -> None:
    assert disk.inside(name) is expected
