"""Finding a module's source by its path, without importing the module or the packages around it."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path


@dataclass(frozen=True)
class ModuleFiles:
    """The files of a module.

    `source`: the .py file, None for a namespace package and for compiled code; `folders`: those in
    which a package's modules lie, empty for a plain module.
    """

    source: Path | None
    folders: tuple[Path, ...]


def find(module: str) -> Path | None:
    """Return the .py file of a module (a package's __init__.py), or None where there is none."""
    files = locate(module)
    if files is None:
        return None
    return files.source


def locate(module: str) -> ModuleFiles | None:
    """Return the files of a module; None if there is no such module.

    Its top-level name is looked up as an import would, the rest folder by folder.
    """
    top, *rest = module.split(".")
    if not all(name.isidentifier() for name in (top, *rest)):
        return None
    files = _top_level(top)
    for name in rest:
        if files is None:
            return None
        files = _inside(files.folders, name)
    return files


def modules(package: str) -> list[str]:
    """Return the names of all modules with source in a package, sorted, the package's own among
    them if it has an __init__.py.
    """
    files = locate(package)
    if files is None:
        return []
    names = set()
    if files.source:
        names.add(package)
    for folder in files.folders:
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if all(part.isidentifier() for part in parts):
                names.add(".".join((package, *parts)).removesuffix(".__init__"))
    return sorted(names)


def top_levels(distribution: str) -> tuple[str, ...]:
    """Return the names that an installed distribution can be imported under; none where it does not
    say.
    """
    try:
        installed = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ()
    listed = installed.read_text("top_level.txt")
    if listed is not None:
        return tuple(sorted(listed.split()))
    names = set()
    for path in installed.files or ():
        name = path.parts[0].removesuffix(".py")
        if path.suffix == ".py" and name.isidentifier():
            names.add(name)
    return tuple(sorted(names))


def _top_level(name: str) -> ModuleFiles | None:
    for finder in sys.meta_path:  # editable installs may bring finders of their own
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is None:
            continue
        spec = find_spec(name, None)
        if spec is not None:
            return _from_spec(spec)
    return None


def _from_spec(spec: ModuleSpec) -> ModuleFiles:
    source = None
    if spec.origin and spec.origin.endswith(".py"):
        source = Path(spec.origin)
    return ModuleFiles(source, tuple(map(Path, spec.submodule_search_locations or ())))


def _inside(folders: Sequence[Path], name: str) -> ModuleFiles | None:
    """Return the files of the module `name` of a package whose modules lie in `folders`."""
    # As the import system does: the first folder with a package or a module of that name; else a
    # namespace package. find_spec cannot be asked: for a namespace in a package it needs that
    # package imported.
    spaces = []
    for folder in folders:
        package = folder / name
        plain = folder / f"{name}.py"
        if (package / "__init__.py").is_file():
            return ModuleFiles(package / "__init__.py", (package,))
        if plain.is_file():
            return ModuleFiles(plain, ())
        if package.is_dir():
            spaces.append(package)
    if not spaces:
        return None
    return ModuleFiles(None, tuple(spaces))
