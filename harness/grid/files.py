"""Reading grid files and merging those that a grid extends."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from harness.errors import suggest
from harness.grid.checks import Report, string, within, wrong_type
from harness.grid.nodes import LARGEST, Node, Place, build, described, shown
from harness.grid.toml_lines import fault, index
from harness.vocabulary import ENTRY_KINDS

_LISTS = (*ENTRY_KINDS, "table", "block")
_TABLES = ("defender", "training")
TOP = ("title", "seeds", "extends", *ENTRY_KINDS, *_TABLES, "table", "block")
"""The keys that a grid file may have."""

_SHOWN = 80
"""The most characters of a faulty line that a message shows."""


def load(path: Path, report: Report) -> Node | None:
    """Return the grid at `path` merged over those it extends; None where it could not be read.
    Keys of a wrong shape are left out, so that what remains is a table of strings, tables and lists
    of tables.
    """
    return _load(path, report, ())


def _load(path: Path, report: Report, trail: tuple[Path, ...]) -> Node | None:
    """Load one file; `trail` has the files that extend it, the asked one first."""
    parsed = _parse(path, report)
    if parsed is None:
        return None
    root = Node(parsed.place, _well_shaped(parsed, report))
    extends = root.table.pop("extends", None)
    written = string(report, extends, 'write extends = "table1.toml"')
    if extends is None or written is None:
        return root
    base = path.parent / written
    trail = (*trail, path)
    below = None
    if _may_extend(base, extends, trail, report):
        below = _load(base, report, trail)
    if below is None:
        report.partial = True
        return root
    return _over(below, root)


def _may_extend(base: Path, extends: Node, trail: tuple[Path, ...], report: Report) -> bool:
    """Return True if `base` is a file that is not in `trail`; otherwise report it."""
    resolved = [file.resolve() for file in trail]
    if base.resolve() in resolved:
        start = resolved.index(base.resolve())
        names = " -> ".join(file.name for file in (*trail[start:], base))
        complaint = f"the files extend each other in a circle: {names}"
        report.add(extends.place, complaint, "take one `extends` out")
        return False
    if not base.is_file():
        complaint = f"{shown(extends.value)}: {_absent(base)} ({base})"
        hint = _nearby(base, "name a file beside this one", asking=trail[-1])
        report.add(extends.place, complaint, hint)
        return False
    return True


# --- one file -------------------------------------------------------------------------------------


def _parse(path: Path, report: Report) -> Node | None:
    data = _bytes_of(path, report)
    if data is None:
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        complaint = f"not UTF-8 text: byte 0x{data[error.start]:02x} cannot be decoded"
        report.add(Place(path, line, ""), complaint, "save the file as UTF-8")
        return None
    try:
        return within(report, build(tomllib.loads(text), path, index(text)))
    except RecursionError:
        complaint = "lists or tables are nested too deeply"
        report.add(Place(path, 1, ""), complaint, "a grid needs three levels or so")
    except ValueError as error:
        if not isinstance(error, tomllib.TOMLDecodeError) and _report_long(path, text, report):
            return None
        line, message = fault(error, text)
        report.add(Place(path, line, ""), f"not TOML: {message}", _not_toml_hint(text, line))
    return None


def _report_long(path: Path, text: str, report: Report) -> bool:
    """Report an integer of more digits than Python reads; return False where there is none."""
    limit = sys.get_int_max_str_digits()
    number = re.search(rf"[0-9](?:_?[0-9]){{{limit},}}", text)
    if number is None:
        return False
    line = text.count("\n", 0, number.start()) + 1
    digits = len(number[0].replace("_", ""))
    hint = f"the largest is {LARGEST}"
    report.add(Place(path, line, ""), f"an integer of {digits} digits is too large", hint)
    return True


def _bytes_of(path: Path, report: Report) -> bytes | None:
    nowhere = Place(path, None, "")
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        hint = _nearby(path, "name a grid file: `bench run grid.toml`")
        report.add(nowhere, _absent(path), hint)
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        report.add(nowhere, f"cannot be read: {reason}", "name a grid file that you may read")
    return None


def _not_toml_hint(text: str, line: int) -> str:
    """Return the faulty line, for a reader without the file at hand, and the commonest reason."""
    reason = "text needs quotes, a key and its value one line"
    lines = text.splitlines()
    if line > len(lines):
        return reason
    written = lines[line - 1].strip()
    if not written:
        return reason
    return f"the line is: {written[:_SHOWN]} -- {reason}"


def _absent(path: Path) -> str:
    if path.is_dir():
        return "is a directory, not a grid file"
    if not path.parent.is_dir():
        return f"there is no such file, and no folder {path.parent}"
    return "there is no such file"


def _nearby(path: Path, otherwise: str, asking: Path | None = None) -> str:
    """Return a hint that names the grid files that may have been meant, apart from the one that
    asks; `otherwise` where there are none.
    """
    folder = path if path.is_dir() else path.parent
    try:
        known = sorted(file.name for file in folder.glob("*.toml") if file != asking)
    except OSError:
        known = []
    if not known:
        return otherwise
    return suggest(path.name, known)


# --- shape ----------------------------------------------------------------------------------------


def _well_shaped(root: Node, report: Report) -> dict[str, Node]:
    """Return the known top-level keys whose values have the right shape."""
    kept: dict[str, Node] = {}
    for key, node in root.table.items():
        if key not in TOP:
            # A misspelt [[attack]], perhaps: then attacks are not missing as well.
            if isinstance(node.value, list):
                report.partial = True
            report.add(node.place, f"unknown key {shown(key)}", suggest(key, TOP))
        elif key in _LISTS:
            entries = _list_of_tables(key, node, report)
            if entries is not None:
                kept[key] = entries
        elif key in _TABLES and not isinstance(node.value, dict):
            hint = f"write [{key}], with one bracket, before its keys"
            wrong_type(report, node, "a table", hint)
        else:
            kept[key] = node
    return kept


def _list_of_tables(key: str, node: Node, report: Report) -> Node | None:
    """Return the tables of a list; None where `node` is no list."""
    if not isinstance(node.value, list):
        report.partial = True
        hint = f"write [[{key}]], with two brackets, before its keys"
        wrong_type(report, node, "a list of tables", hint)
        return None
    tables = []
    for item in node.items:
        if isinstance(item.value, dict):
            tables.append(item)
            continue
        report.partial = True
        hint = f"write [[{key}]] before its keys"
        if isinstance(item.value, str):
            hint = f"write [[{key}]] and below it name = {shown(item.value)}"
        complaint = f"{described(item.plain())} where a table is needed"
        report.add(item.place, complaint, hint)
    return Node(node.place, tables)


# --- one grid over another ------------------------------------------------------------------------


def _over(base: Node, child: Node) -> Node:
    """Return `child` laid over the grid that it extends."""
    merged = dict(base.table)
    for key, node in child.table.items():
        if key not in merged:
            merged[key] = node
        elif key in ("table", "block"):
            if node.value:
                merged[key] = node
        elif key in ENTRY_KINDS:
            merged[key] = _merge_entries(merged[key], node)
        else:
            merged[key] = _merge(merged[key], node)
    return Node(child.place, merged)


def _merge_entries(base: Node, child: Node) -> Node:
    """Return the entries of both, those of the same label merged, new ones after them."""
    merged = list(base.items)
    positions: dict[str | None, int] = {}
    for position, node in enumerate(merged):
        positions.setdefault(_label(node), position)
    for node in child.items:
        label = _label(node)
        if label is not None and label in positions:
            position = positions[label]
            merged[position] = _merge_entry(merged[position], node)
        else:
            merged.append(node)
    return Node(child.place, merged)


def _label(entry: Node) -> str | None:
    written = entry.table.get("as") or entry.table.get("name")
    if written is None or not isinstance(written.value, str):
        return None
    return written.value


def _merge_entry(base: Node, child: Node) -> Node:
    """Merge two entries like `_merge`, but a parameter set by the child is no longer swept, and one
    that it sweeps no longer set.
    """
    swept_by_child = child.table_of("sweep")
    kept = {key: node for key, node in base.table.items() if key not in swept_by_child}
    if "sweep" in kept:
        sweep = kept["sweep"]
        left = {key: node for key, node in sweep.table.items() if key not in child.table}
        if left:
            kept["sweep"] = Node(sweep.place, left)
        elif sweep.table:
            del kept["sweep"]
        # Otherwise it is empty, or no table: a mistake that is still to be reported.
    return _merge(Node(base.place, kept), child)


def _merge(base: Node, child: Node) -> Node:
    """Merge tables key by key; replace anything else. A reference to another component brings its
    own parameters.
    """
    if not isinstance(base.value, dict) or not isinstance(child.value, dict):
        return child
    base_name = base.table.get("name")
    child_name = child.table.get("name")
    if base_name is not None and child_name is not None and base_name.value != child_name.value:
        return child
    merged = dict(base.table)
    for key, node in child.table.items():
        if key in merged:
            merged[key] = _merge(merged[key], node)
        else:
            merged[key] = node
    return Node(child.place, merged)
