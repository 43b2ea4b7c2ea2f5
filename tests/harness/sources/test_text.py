from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sources import text as source_text
from tests.kit.places import ROOT

SAME = [
    ("x = 1\n", "# said\n\nx = 1  # aloud\n\n\n"),
    ("x = 1\n", "x = 1   \r\n\r\n"),
    ("x = 1", "x = 1\n"),
    ("def f():\n    return 1\n", "def f():\n\n    # why\n    return 1\n"),
    ("x = [1,\n2]\n", "x = [1,  # one\n\n2]\n"),
]
OTHER = [
    ("x = 1\n", "x = 2\n"),
    ('"""Says."""\n', '"""Said."""\n'),
    ('x = "a # b"\n', 'x = "a # c"\n'),
    ('x = """a\n\nb"""\n', 'x = """a\nb"""\n'),
    ('x = """a \nb"""\n', 'x = """a\nb"""\n'),
    ('x = f"""{y}\n\n # b"""\n', 'x = f"""{y}\n # b"""\n'),
    ('x = f"""{y} # a\nb"""\n', 'x = f"""{y} # c\nb"""\n'),
    ("if x:\n    y\n", "if x:\n        y\n"),
    ("def broken(:  # a\n", "def broken(:  # b\n"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_comments_and_blank_lines_are_not_in_the_digest(one: str, other: str) -> None:
    assert source_text.read(one.encode()).digest == source_text.read(other.encode()).digest


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_everything_else_is(one: str, other: str) -> None:
    assert source_text.read(one.encode()).digest != source_text.read(other.encode()).digest


def test_a_byte_order_mark_and_an_encoding_are_understood() -> None:
    plain = source_text.read('x = "é"\n'.encode())
    assert source_text.read(b'\xef\xbb\xbfx = "\xc3\xa9"\n').digest == plain.digest
    assert source_text.read(b'# coding: latin-1\nx = "\xe9"\n').digest == plain.digest


@pytest.mark.parametrize("path", sorted(ROOT.glob("harness/*.py")), ids=lambda path: path.name)
def test_the_essence_of_a_module_is_the_same_program(path: Path) -> None:
    text = path.read_text()
    short = source_text.essence(text)
    assert ast.dump(ast.parse(short)) == ast.dump(ast.parse(text))
    assert source_text.essence(short) == short


LINES = st.lists(
    st.sampled_from(
        [
            "x = 1",
            "# a",
            "",
            "   ",
            "x = '#'  # b",
            '"""',
            "f'''",
            "'''",
            "if x:",
            "    y = 2",
            "        # deep",
            "(",
            ")",
        ]
    )
)


@settings(deadline=None)
@given(LINES)
def test_the_essence_of_any_text_is_the_same_program(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        program = ast.dump(ast.parse(text))
    except SyntaxError:
        assert source_text.read(text.encode()).imports == ()
        return
    assert ast.dump(ast.parse(source_text.essence(text))) == program


def test_imports_and_targets_are_read() -> None:
    text = source_text.read(
        b"import a.b as c, d\nfrom .e import f, g as h\nx = 'my.module:Class'\ny = 'http://e'\n"
    )
    assert set(text.imports) == {(0, "a.b", ()), (0, "d", ()), (1, "e", ("f", "g"))}
    assert text.targets == ("my.module",)
