"""Numbers of bytes and of things, in words."""

from __future__ import annotations

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Return `812 bytes`, `1.5 MB`, `20 GB`."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            break
        count /= 1000
    if unit == _UNITS[0] or count >= 9.95:
        return f"{count:.0f} {unit}"
    return f"{count:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """Return `1 object`, `2,000 objects`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
