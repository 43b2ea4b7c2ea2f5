from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.grid.toml_lines import Keys, fault, index

SAMPLE = '''\
# a comment with [brackets] and "quotes"
title = "x" # another
seeds = [
  0,  # first
  [1, 2], { a = 1, b.c = [3,
  4] },
]
"quoted \\"key\\"" = 'a # no comment'
text = """
[not.a.table]
key = 1 \\""" ""still inside"""""
literal = \'\'\'
] } \'\'\'
when = 1979-05-27 07:32:00  # a space inside
[a.b]
x.y = 1
x.z = 2
[[attack]]
name = "badnets"
[[attack]]
name = "sig"
sweep.delta = [20, 60]
[attack.training]
epochs = 3
[[attack.parts]]
k = 1
[[attack.parts]]
"" = 2
[a]
'late key' = true
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("seeds",), 3),
        (("seeds", 0), 4),
        (("seeds", 1), 5),
        (("seeds", 1, 1), 5),
        (("seeds", 2, "a"), 5),
        (("seeds", 2, "b", "c", 1), 6),
        (('quoted "key"',), 8),
        (("text",), 9),
        (("literal",), 12),
        (("when",), 14),
        (("a", "b"), 15),
        (("a", "b", "x"), 16),
        (("a", "b", "x", "z"), 17),
        (("attack",), 18),
        (("attack", 0), 18),
        (("attack", 1, "name"), 21),
        (("attack", 1, "sweep", "delta", 1), 22),
        (("attack", 1, "training"), 23),
        (("attack", 1, "training", "epochs"), 24),
        (("attack", 1, "parts", 1), 27),
        (("attack", 1, "parts", 1, ""), 28),
        (("a",), 29),
        (("a", "late key"), 30),
    ],
)
def test_every_kind_of_key_is_found(path: Keys, line: int) -> None:
    assert index(SAMPLE).at(path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [(("attack", 1, "poison_rate"), 20), (("attack", 7, "x"), 18), (("nothing",), 1), ((), 1)],
)
def test_what_is_not_there_stands_at_its_nearest_ancestor(path: Keys, line: int) -> None:
    assert index(SAMPLE).at(path) == line


def test_windows_line_ends() -> None:
    assert index("a = 1\r\n\r\n[b]\r\nc = '''\r\n\r\n'''\r\nd = 2\r\n").at(("b", "d")) == 7


def test_nothing_but_comments() -> None:
    assert index("").paths() == index("# only\n\n").paths() == frozenset()


# --- against tomllib ------------------------------------------------------------------------------


def paths(value: Any, path: Keys = ()) -> set[Keys]:
    found = {path} if path else set()
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        found |= paths(child, (*path, key))
    return found


def test_the_sample_has_exactly_the_paths_that_tomllib_sees() -> None:
    assert index(SAMPLE).paths() == paths(tomllib.loads(SAMPLE))


NAMES = st.one_of(
    st.sampled_from(["a", "b", "name", "1", "a-b"]),
    st.text(st.sampled_from("ab.# ]}=[\"'\\é\n"), max_size=4),
)
SCALARS = st.sampled_from(
    [
        "1",
        "-1.5e3",
        "true",
        "1979-05-27 07:32:00Z",
        "07:32:00",
        '"x # [y] \\" {"',
        "'] } # \\'",
        '""',
        "''",
        '"""a\n[b]\n# "" c\\""""',
        '"""\n"""""',
        "'''''a'\n''b'''''",
        "0xff",
        "inf",
    ]
)
GAPS = st.sampled_from(["", " ", "\n", " # ]},\n", "\n\n  "])


def written(key: str, draw: Any) -> str:
    bare = key.isascii() and key.replace("-", "").isalnum()
    if bare and draw(st.booleans()):
        return key
    if "'" not in key and "\n" not in key and draw(st.booleans()):
        return f"'{key}'"
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class Writer:
    """Writes TOML and notes the line on which it puts each key, independently of any parser."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.text = draw, ""
        self.lines: dict[Keys, int] = {}

    def note(self, path: Keys) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def value(self, path: Keys, depth: int) -> None:
        kind = self.draw(st.sampled_from(["scalar", "list", "table"] if depth else ["scalar"]))
        if kind == "scalar":
            self.text += self.draw(SCALARS)
        elif kind == "list":
            self.text += "["
            for item in range(self.draw(st.integers(0, 3))):
                self.text += self.draw(GAPS)
                self.note((*path, item))
                self.value((*path, item), depth - 1)
                self.text += self.draw(GAPS) + ","
            self.text += self.draw(GAPS) + "]"
        else:
            self.text += "{ "
            for number, key in enumerate(self.draw(st.lists(NAMES, max_size=3, unique=True))):
                self.text += ", " if number else ""
                self.pair((*path, key), depth - 1)
            self.text += " }"

    def pair(self, path: Keys, depth: int) -> None:
        self.note(path)
        self.text += written(str(path[-1]), self.draw)
        if self.draw(st.integers(0, 3)) == 0:
            path = (*path, "dotted")
            self.note(path)
            self.text += " . dotted"
        self.text += self.draw(st.sampled_from(["=", " = ", "\t="]))
        self.value(path, depth)

    def pairs(self, table: Keys) -> None:
        for key in self.draw(st.lists(NAMES, max_size=3, unique=True)):
            self.text += self.draw(st.sampled_from(["", "  ", "# [x]\n", "\n"]))
            self.pair((*table, key), 2)
            self.text += self.draw(st.sampled_from(["\n", " # ]\n", "\t\n\n"]))

    def header(self, path: Keys, keys: list[str], marks: tuple[str, str]) -> None:
        self.note(path)
        self.text += (
            marks[0] + " . ".join(written(key, self.draw) for key in keys) + marks[1] + "\n"
        )
        self.pairs(path)


@st.composite
def documents(draw: Any) -> Writer:
    writer = Writer(draw)
    writer.pairs(())
    used = {path[0] for path in writer.lines}
    for number, name in enumerate(draw(st.lists(NAMES, max_size=3, unique=True))):
        top = f"{name}{number} top"
        assert top not in used
        if draw(st.booleans()):
            writer.header((top,), [top], ("[", "]"))
            continue
        for item in range(draw(st.integers(1, 3))):
            writer.note((top,))
            writer.header((top, item), [top], ("[[", "]]"))
            if draw(st.booleans()):
                writer.header((top, item, "sub table"), [top, "sub table"], ("[", "]"))
    return writer


@settings(deadline=None, max_examples=150)
@given(documents())
def test_lines_are_those_that_the_writer_put_keys_on(writer: Writer) -> None:
    parsed = tomllib.loads(writer.text)
    lines = index(writer.text)
    assert lines.paths() == paths(parsed)
    assert {path: lines.at(path) for path in writer.lines} == writer.lines


# --- what tomllib refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a = 1\nb = \nc = 3\n", 2, "column 5"),
        ("a = 1\na = 2\n", 2, "overwrite"),
        ("a = [1,\n2\n", 2, "at the end of the file"),
        ("", 1, ""),
    ],
)
def test_faults_have_their_line(text: str, line: int, says: str) -> None:
    try:
        tomllib.loads(text)
        error: ValueError = ValueError("")
    except tomllib.TOMLDecodeError as caught:
        error = caught
    found, message = fault(error, text)
    assert found == line
    assert says in message
    assert "(at" not in message
