"""Loops in source text that may work for long, and of which nothing is kept."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

LABOUR = {"tick", "backward", "grad"}
"""Methods and functions whose calls show that an iteration is work: it counts images or looks at
the clock, or it makes gradients.
"""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def unkept(path: Path) -> list[str]:
    """Return the functions of a module, by name (`Class.method`), that work in a loop which is not
    over `access.steps(...)`, nor within one that is. What a loop calls elsewhere is not looked at.
    """
    found = []
    for name, function in _functions(ast.parse(path.read_text()), ()):
        counted = _counted(function)
        loops = [node for node in _own(function) if isinstance(node, ast.For | ast.While)]
        kept = [loop for loop in loops if isinstance(loop, ast.For) and _keeps(loop, counted)]
        covered = {id(node) for loop in kept for node in _own(loop)}
        for loop in loops:
            if id(loop) in covered or loop in kept:
                continue
            if any(_labours(node) and id(node) not in covered for node in _own(loop)):
                found.append(".".join(name))
                break
    return found


def _functions(
    node: ast.AST, around: Sequence[str]
) -> Iterator[tuple[list[str], ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield all functions with their names, those within others included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = [*around, child.name]
            if not isinstance(child, ast.ClassDef):
                yield name, child
            yield from _functions(child, name)
        else:
            yield from _functions(child, around)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all that lies within a node, but what functions in it hold."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            continue
        yield child
        yield from _own(child)


def _counted(function: ast.AST) -> set[str]:
    """Return the names that the function gives to `access.steps(...)`."""
    names = set()
    for node in _own(function):
        if isinstance(node, ast.Assign) and _is_steps(node.value):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _keeps(loop: ast.For, counted: set[str]) -> bool:
    over = loop.iter
    return _is_steps(over) or (isinstance(over, ast.Name) and over.id in counted)


def _is_steps(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr == "steps" and ast.unparse(node.func.value).endswith("access")


def _labours(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr in LABOUR
