"""Reading grid files and merging those that a grid extends."""

from __future__ import annotations

import tomllib
from pathlib import Path

from harness.errors import suggest
from harness.grid.checks import Report, string, wrong_type
from harness.grid.model import KINDS
from harness.grid.nodes import Node, Place, build, described, shown
from harness.grid.toml_lines import fault, index

_LISTS = (*KINDS, "table", "block")
_TABLES = ("defender", "training")
TOP = ("title", "seeds", "extends", *KINDS, *_TABLES, "table", "block")
"""The keys that a grid file may have."""


def load(path: Path, report: Report) -> Node | None:
    """The grid at `path` merged over those it extends; None where it could not be read. Keys of a
    wrong shape are left out, so that what remains is a table of strings, tables and lists of
    tables.
    """
    return _load(path, report, ())


def _load(path: Path, report: Report, trail: tuple[Path, ...]) -> Node | None:
    node = _parse(path, report)
    if node is None:
        return None
    root = Node(node.place, _shape(node, report))
    extends = root.table.pop("extends", None)
    if extends is None or string(report, extends, 'write extends = "table1.toml"') is None:
        return root
    trail = (*trail, path)
    base = path.parent / extends.value
    resolved = [link.resolve() for link in trail]
    if base.resolve() in resolved:
        names = " -> ".join(link.name for link in (*trail[resolved.index(base.resolve()) :], base))
        report.partial = True
        report.add(
            extends.place,
            f"the files extend each other in a circle: {names}",
            "take one `extends` out",
        )
        return root
    if not base.is_file():
        report.partial = True
        hint = _nearby(base, "name a file beside this one", path)
        report.add(extends.place, f"{shown(extends.value)}: {_absent(base)} ({base})", hint)
        return root
    below = _load(base, report, trail)
    if below is None:
        report.partial = True
        return root
    return _over(below, root)


def _parse(path: Path, report: Report) -> Node | None:
    nowhere = Place(path, None, "")
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        report.add(nowhere, _absent(path), _nearby(path, "name a grid file: `bench run grid.toml`"))
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        report.add(nowhere, f"cannot be read: {reason}", "name a grid file that you may read")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"not UTF-8 text: byte 0x{data[error.start]:02x} cannot be decoded"
        report.add(Place(path, line, ""), what, "save the file as UTF-8")
        return None
    try:
        return build(tomllib.loads(text), path, index(text))
    except RecursionError:
        report.add(
            Place(path, 1, ""),
            "lists or tables are nested too deeply",
            "a grid needs three levels or so",
        )
    except ValueError as error:
        line, message = fault(error, text)
        report.add(Place(path, line, ""), f"not TOML: {message}", _quoted_line(text, line))
    return None


def _quoted_line(text: str, line: int) -> str:
    """The faulty line, for a reader without the file at hand, and the commonest reason."""
    lines = text.splitlines()
    written = lines[line - 1].strip() if line <= len(lines) else ""
    return (
        f"the line is: {written[:80]} -- " if written else ""
    ) + "text needs quotes, a key and its value one line"


def _absent(path: Path) -> str:
    if path.is_dir():
        return "is a directory, not a grid file"
    if not path.parent.is_dir():
        return f"there is no such file, and no folder {path.parent}"
    return "there is no such file"


def _nearby(path: Path, otherwise: str, asking: Path | None = None) -> str:
    """The grid files that may have been meant, which is not the one that asks."""
    folder = path if path.is_dir() else path.parent
    try:
        known = sorted(file.name for file in folder.glob("*.toml") if file != asking)
    except OSError:
        known = []
    return suggest(path.name, known) if known else otherwise


def _shape(root: Node, report: Report) -> dict[str, Node]:
    """The known top-level keys whose values have the right shape."""
    kept: dict[str, Node] = {}
    for key, node in root.table.items():
        if key not in TOP:
            report.partial |= isinstance(node.value, list)
            report.add(node.place, f"unknown key {shown(key)}", suggest(key, TOP))
        elif key in _LISTS:
            if isinstance(node.value, list):
                kept[key] = Node(
                    node.place, [item for item in node.items if _is_table(report, item, key)]
                )
            else:
                report.partial = True
                wrong_type(
                    report,
                    node,
                    "a list of tables",
                    f"write [[{key}]], with two brackets, before its keys",
                )
        elif key in _TABLES and not isinstance(node.value, dict):
            wrong_type(report, node, "a table", f"write [{key}], with one bracket, before its keys")
        else:
            kept[key] = node
    return kept


def _is_table(report: Report, node: Node, key: str) -> bool:
    if isinstance(node.value, dict):
        return True
    report.partial = True
    example = (
        f" and below it name = {shown(node.value)}"
        if isinstance(node.value, str)
        else " before its keys"
    )
    report.add(
        node.place,
        f"{described(node.plain())} where a table is needed",
        f"write [[{key}]]{example}",
    )
    return False


def _over(base: Node, child: Node) -> Node:
    """`child` laid over the grid that it extends."""
    merged = dict(base.table)
    for key, node in child.table.items():
        below = merged.get(key)
        if below is None or key in ("table", "block"):
            merged[key] = node if node.value or below is None else below
        elif key in KINDS:
            merged[key] = _merge_entries(below, node)
        else:
            merged[key] = _merge(below, node)
    return Node(child.place, merged)


def _merge_entries(base: Node, child: Node) -> Node:
    """Entries of the same label merged, new ones after them."""
    merged = list(base.items)
    labels = [_label(node) for node in merged]
    for node in child.items:
        label = _label(node)
        if label is not None and label in labels:
            position = labels.index(label)
            merged[position] = _merge_entry(merged[position], node)
        else:
            merged.append(node)
    return Node(child.place, merged)


def _label(entry: Node) -> object:
    named = entry.table.get("as") or entry.table.get("name")
    return named.value if named is not None and isinstance(named.value, str) else None


def _merge_entry(base: Node, child: Node) -> Node:
    """Like `_merge`, but a parameter set by the child is no longer swept, and one that it sweeps no
    longer set.
    """
    swept = child.table["sweep"].table if "sweep" in child.table else {}
    kept = {key: node for key, node in base.table.items() if key not in swept}
    if "sweep" in kept:
        left = {key: node for key, node in kept["sweep"].table.items() if key not in child.table}
        if left or not kept["sweep"].table:
            kept["sweep"] = Node(kept["sweep"].place, left) if left else kept["sweep"]
        else:
            del kept["sweep"]
    return _merge(Node(base.place, kept), child)


def _merge(base: Node, child: Node) -> Node:
    """Tables key by key; anything else is replaced. A reference to another component brings its own
    parameters.
    """
    if not (isinstance(base.value, dict) and isinstance(child.value, dict)):
        return child
    names = [node.table["name"].value for node in (base, child) if "name" in node.table]
    if len(names) == 2 and names[0] != names[1]:
        return child
    merged = dict(base.table)
    for key, node in child.table.items():
        merged[key] = _merge(merged[key], node) if key in merged else node
    return Node(child.place, merged)
