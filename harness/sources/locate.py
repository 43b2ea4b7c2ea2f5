"""Finding a module's source by its path, without importing the module or the packages it lies in."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """`source`: the .py file, None for a namespace package and for compiled code; `folders`: where
    a package's modules lie, empty for a plain module.
    """

    source: Path | None
    folders: tuple[Path, ...]


def find(module: str) -> Path | None:
    """The .py file of a module (a package's __init__.py), or None where there is none."""
    found = locate(module)
    return found.source if found else None


def locate(module: str) -> Found | None:
    """Where a module lies: its top-level name as an import would find it, the rest folder by
    folder.
    """
    top, *rest = module.split(".")
    if not all(name.isidentifier() for name in (top, *rest)):
        return None
    found = _top_level(top)
    for name in rest:
        if found is None:
            return None
        found = _inside(found.folders, name)
    return found


def modules(package: str) -> list[str]:
    """Names of all modules with source in a package, sorted, itself too if it has an __init__.py."""
    found = locate(package)
    if found is None:
        return []
    names = {package} if found.source else set()
    for folder in found.folders:
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            if all(part.isidentifier() for part in parts):
                names.add(name)
    return sorted(names)


def top_levels(distribution: str) -> tuple[str, ...]:
    """Names that an installed distribution can be imported under; empty where it does not say."""
    try:
        installed = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ()
    told = installed.read_text("top_level.txt")
    if told is not None:
        return tuple(sorted(told.split()))
    files = [path for path in installed.files or () if path.suffix == ".py"]
    names = {path.parts[0].removesuffix(".py") for path in files}
    return tuple(sorted(name for name in names if name.isidentifier()))


def _top_level(name: str) -> Found | None:
    spec = None
    for finder in sys.meta_path:  # editable installs may bring finders of their own
        find_spec = getattr(finder, "find_spec", None)
        spec = find_spec(name, None) if find_spec else None
        if spec is not None:
            break
    return _from_spec(spec) if spec else None


def _from_spec(spec: ModuleSpec) -> Found:
    source = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return Found(source, tuple(map(Path, spec.submodule_search_locations or ())))


def _inside(folders: tuple[Path, ...], name: str) -> Found | None:
    # As the import system does: the first folder with a package or a module of that name; else a
    # namespace package. find_spec cannot be asked: for a namespace in a package it needs that
    # package imported.
    spaces = []
    for folder in folders:
        if (folder / name / "__init__.py").is_file():
            return Found(folder / name / "__init__.py", (folder / name,))
        if (folder / f"{name}.py").is_file():
            return Found(folder / f"{name}.py", ())
        if (folder / name).is_dir():
            spaces.append(folder / name)
    return Found(None, tuple(spaces)) if spaces else None
