"""Mutations of text and of files."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

NASTY = (
    "",
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "1e999",
    "-0.0",
    "nan",
    "-inf",
    "1e-320",
    "9" * 18,
    "9" * 30,
    "0x7fffffffffffffff",
    "true",
    "[]",
    "{}",
    "[[]]",
    "[0, 0]",
    '[1, "a", 2.5]',
    "{a = 1}",
    '{name = "ft"}',
    '{name = "signs", count = 3}',
    "[" * 150 + "]" * 150,
    "{a = " * 60 + "1" + "}" * 60,
    '""',
    '" "',
    '"none"',
    '"."',
    '"/"',
    '"/dev/zero"',
    '"../../../etc/passwd"',
    '"file:nets.py:Net"',
    '"file:/dev/zero:Net"',
    '"timm:"',
    '"timm:../x"',
    '"torchvision:resnet18"',
    '"\\u0000"',
    '"\\u001b[2J"',
    '"\\U0001F3AD"',
    '"\u202e\u0301\u200b"',
    '"\u00e9e\u0301"',
    '"' + "a" * 10_000 + '"',
    '"%s {0} $x `id`"',
    '"(a+)+$"',
    "1979-05-27",
    "07:32:00",
    "'''",
    '"""',
    "#",
    "=",
    "\r",
    "\ufeff",
    "\x00",
)
"""Values and pieces that are rarely right."""
KEYS = (
    "name",
    "as",
    "on",
    "preset",
    "sweep",
    "sweep.lr",
    "set.attack.x",
    "seeds",
    "grant",
    "grant.clean",
    "training",
    "training.recipe",
    "established",
    "epochs",
    "pool",
    "__class__",
    "model_fields",
    "version",
    "needs",
    "a.b.c.d",
    '""',
    '"a b"',
    "\u00e9",
)
HEADERS = (
    "[[block]]",
    "[[dataset]]",
    "[[model]]",
    "[[attack]]",
    "[[defense]]",
    "[[metric]]",
    "[[table]]",
    "[defender]",
    "[training]",
    "[attack]",
    "[[attack.grant]]",
    "[a.b]",
    "[[]]",
    "[",
)
_TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|\S')
_SETTING = re.compile(r"^([^=\n]+)=(.*)$", re.MULTILINE)


def grid(draw: Random, text: str) -> bytes:
    """Return a grid that was mutated one to four times."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        text = draw.choice(_OF_TEXT)(draw, text)
    data = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.15:
        data = content(draw, data)
    return data


def content(draw: Random, data: bytes) -> bytes:
    """Return bytes of which some were altered, inserted, repeated or removed."""
    for _ in range(draw.choice((1, 1, 2, 8))):
        if not data:
            return draw.randbytes(draw.randint(0, 50))
        start = draw.randrange(len(data))
        end = min(len(data), start + draw.choice((1, 1, 4, 30, 1000)))
        part = data[start:end]
        way = draw.choice(("flip", "noise", "remove", "repeat", "insert", "cut", "zero", "ones"))
        if way == "flip":
            new = bytes([part[0] ^ 1 << draw.randrange(8)]) + part[1:]
        elif way == "noise":
            new = draw.randbytes(len(part))
        elif way == "remove":
            new = b""
        elif way == "repeat":
            new = part * draw.randint(2, 5)
        elif way == "insert":
            new = draw.randbytes(draw.randint(1, 30)) + part
        elif way == "cut":
            return data[:start]
        else:
            new = (b"\x00" if way == "zero" else b"\xff") * len(part)
        data = data[:start] + new + data[end:]
    return data


def _token(draw: Random, text: str) -> str:
    """Put another token, or something nasty, in the place of one."""
    found = list(_TOKEN.finditer(text))
    if not found:
        return draw.choice(NASTY)
    place = draw.choice(found)
    new = draw.choice(NASTY) if draw.random() < 0.6 else draw.choice(found).group()
    return text[: place.start()] + new + text[place.end() :]


def _value(draw: Random, text: str) -> str:
    """Give a key another value."""
    found = list(_SETTING.finditer(text))
    if not found:
        return text
    place = draw.choice(found)
    other = draw.choice(found).group(2)
    new = draw.choice((draw.choice(NASTY), other, f"[{other}, {other}]", f"{{x = {other}}}"))
    return text[: place.start(2)] + " " + new + text[place.end(2) :]


def _key(draw: Random, text: str) -> str:
    """Give a value another key."""
    found = list(_SETTING.finditer(text))
    if not found:
        return text
    place = draw.choice(found)
    new = draw.choice((*KEYS, draw.choice(found).group(1)))
    return text[: place.start(1)] + new + " " + text[place.end(1) :]


def _lines(draw: Random, text: str) -> str:
    """Remove, repeat or move some lines."""
    lines = text.split("\n")
    start = draw.randrange(len(lines))
    part = lines[start : start + draw.choice((1, 1, 2, 5, 20))]
    rest = lines[:start] + lines[start + len(part) :]
    way = draw.choice(("remove", "repeat", "move"))
    if way == "remove":
        return "\n".join(rest)
    if way == "repeat":
        rest = lines
    target = draw.randint(0, len(rest))
    return "\n".join(rest[:target] + part + rest[target:])


def _insert(draw: Random, text: str) -> str:
    """Insert a line: a header or a setting."""
    lines = text.split("\n")
    if draw.random() < 0.4:
        line = draw.choice(HEADERS)
    else:
        line = f"{draw.choice(KEYS)} = {draw.choice(NASTY)}"
    lines.insert(draw.randint(0, len(lines)), line)
    return "\n".join(lines)


def _number(draw: Random, text: str) -> str:
    """Alter a number a little or a lot."""
    found = list(re.finditer(r"(?<![\w.])\d+(\.\d+)?", text))
    if not found:
        return text
    place = draw.choice(found)
    new = draw.choice((f"-{place[0]}", f"{place[0]}00", f"{place[0]}.5", f"{place[0]}e30", "0"))
    return text[: place.start()] + new + text[place.end() :]


_OF_TEXT: tuple[Callable[[Random, str], str], ...] = (
    _token,
    _token,
    _value,
    _value,
    _value,
    _key,
    _lines,
    _insert,
    _number,
)
