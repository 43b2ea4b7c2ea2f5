"""Tensors from a file that somebody else wrote, read without running code from it.

It is safetensors, NumPy's .npz, or a torch checkpoint.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from plugins.parts.numpy_pickles import STAND_INS, Array

Kernels = Literal["oihw", "hwio"]

COUNTER = "num_batches_tracked"
"""A BatchNorm's count of batches; older files lack it, and nothing depends on it."""

V = TypeVar("V")


def read_tensors(path: Path, entry: str = "") -> dict[str, Tensor]:
    """Read all tensors of a file by name, to the CPU; see `read_state`.

    Raises ValueError where it holds anything else, too.
    """
    return only_tensors(read_state(path, entry), path)


def only_tensors(state: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """Return what `read_state` read. Raises ValueError, with the remedy, where it is not all
    tensors.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    others = [name for name in state if name not in tensors]
    if not others:
        return tensors
    if tensors:
        remedy = f"drop each with rename, {{'{re.escape(others[0])}' = ''}}, or "
    else:
        remedy = ""
    places = [name for name in others if _holds_tensors(state[name])] or ["..."]
    raise ValueError(
        f"{source} holds more than a state ({_some(others)}): {remedy}say which part it is, "
        f'entry = "{places[0]}"'
    )


def read_state(path: Path, entry: str = "") -> dict[str, Any]:
    """Read a file's tensors by name, to the CPU, with whatever lies beside them in a checkpoint.

    `entry` is the dotted place of the state within a torch checkpoint. The format is recognised by
    the content. Arrays of NumPy become tensors. Raises ValueError where there is no mapping of
    names, and for a file whose content only code from it could restore: unpickling somebody's
    objects runs whatever they wrote.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    members = _members(path)
    if members is not None:
        if any(name.endswith(".npy") for name in members):
            return dict(_npz(path))
    elif start[8:] == b"{":  # after eight bytes of length, safetensors begin with JSON
        return dict(_safetensors(path))
    return _state(path, _checkpoint(path), entry)


def renamed(state: Mapping[str, V], rules: Mapping[str, str], source: Path) -> dict[str, V]:
    r"""Return what a file holds under new names.

    Each rule is a regular expression for a whole name, and its replacement.
    `{"module\\.(.*)": "\\1"}` takes a prefix away; an empty replacement drops what has the name.
    Names that no rule fits stay. Raises ValueError, naming the `source`, where a rule cannot be
    meant or fits nothing, two fit one name, or two things get one name.
    """
    patterns = {rule: compiled(rule, replacement) for rule, replacement in rules.items()}
    unused = set(rules)
    kept: dict[str, V] = {}
    old_names: dict[str, str] = {}
    for name, value in state.items():
        fitting = [rule for rule, pattern in patterns.items() if pattern.fullmatch(name)]
        if len(fitting) > 1:
            several = " and ".join(repr(rule) for rule in fitting)
            raise ValueError(f"{source}: rename: {several} both fit {name!r}; one may")
        new = name
        if fitting:
            rule = fitting[0]
            unused.discard(rule)
            new = patterns[rule].sub(rules[rule], name, count=1)
        if new in old_names:
            raise ValueError(
                f"{source}: rename: {old_names[new]!r} and {name!r} would both be called {new!r}"
            )
        if new:
            kept[new] = value
            old_names[new] = name
    if unused:
        rule = min(unused)
        raise ValueError(
            f"{source}: rename: {rule!r} fits no tensor; the file has {_some(state)}. A rule "
            f"matches a whole name{_whole(patterns[rule], rules[rule], state)}"
        )
    return kept


def _whole(pattern: re.Pattern[str], new: str, names: Iterable[str]) -> str:
    """Say what a rule for the beginning of a name would have to be; nothing where it is none."""
    for name in names:
        found = pattern.match(name)
        if found and found[0] and not pattern.groups:
            return f": {_prefix_rule(found[0], new)} is one for all that begin with it"
    return ""


def _prefix_rule(old: str, new: str = "") -> str:
    """Write the rule that puts one prefix in the place of another, as a grid has it."""
    return f"'{re.escape(old)}(.*)' = '{new}\\1'"


def in_torch_order(state: Mapping[str, Tensor], kernels: Kernels) -> dict[str, Tensor]:
    """Bring `hwio` kernels into torch's order of axes.

    That is (h, w, in, out) to (out, in, h, w), and (in, out) to (out, in).
    """
    tensors = dict(state)
    if kernels == "hwio":
        for name, tensor in state.items():
            if tensor.ndim == 4:
                tensors[name] = tensor.permute(3, 2, 0, 1)
            elif tensor.ndim == 2:
                tensors[name] = tensor.permute(1, 0)
    return tensors


def fill(
    module: nn.Module, state: Mapping[str, Tensor], source: Path, classes: int | None = None
) -> None:
    """Put the tensors into a module, which tells `classes` apart.

    Raises ValueError, naming file, tensors and shapes, unless they are those it has, dense, and all
    finite real numbers.
    """
    odd = [name for name, tensor in state.items() if not _plain(tensor)]
    if odd:
        raise ValueError(
            f"{source} holds something other than finite real numbers, one for each place, "
            f"in {_some(odd)}"
        )
    network = type(module).__name__
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = _other_classes(module, state, classes) or " ".join(str(error).split())
        raise ValueError(f"{source} does not fit {network}: {reason}") from None
    problems: list[str] = []
    lacking = [name for name in missing if not name.endswith(COUNTER)]
    if lacking:
        problems.append(f"it lacks {_some(lacking)}")
    if unexpected:
        problems.append(f"it has {_some(unexpected)}, which the network does not")
    if problems:
        raise ValueError(
            f"{source} does not fit {network}: {'; '.join(problems)}. "
            "say with `rename` what its tensors are called in this network"
            f"{_prefix_hint(lacking, unexpected)}, or name another model"
        )


def sizes_without(state: Mapping[str, Tensor], classes: int) -> list[int]:
    """Return how many numbers the linear layers of a network give, where none gives `classes`.

    Nothing where one does, or where there is no such layer. Convolutions count if there are no
    matrices.
    """
    layers = [tensor for tensor in state.values() if tensor.ndim == 2]
    if not layers:
        layers = [tensor for tensor in state.values() if tensor.ndim == 4]
    sizes = {len(layer) for layer in layers}
    if classes in sizes:
        return []
    return sorted(sizes)


def _other_classes(
    module: nn.Module, state: Mapping[str, Tensor], classes: int | None
) -> str | None:
    """Say so where nothing but the number of classes keeps a state from fitting."""
    differing = []
    sizes = set()
    for name, own in module.state_dict().items():
        if name not in state or state[name].shape == own.shape:
            continue
        same_inputs = state[name].shape[1:] == own.shape[1:]
        if not own.ndim or own.shape[0] != classes or not state[name].ndim or not same_inputs:
            return None
        differing.append(name)
        sizes.add(len(state[name]))
    if len(sizes) != 1:
        return None
    count = sizes.pop()
    return (
        f"it tells {count} classes apart and the dataset has {classes} (in {_some(differing)}); "
        f"say classes = {count} in its [[dataset]], or take a dataset of as many"
    )


def _prefix_hint(lacking: list[str], unexpected: list[str]) -> str:
    """Return the rule that would do where the file's names differ by a prefix."""
    for name in unexpected:
        for own in lacking:
            prefix = name.removesuffix(own)
            if prefix not in ("", name) and all(other.startswith(prefix) for other in unexpected):
                return f" ({_prefix_rule(prefix)})"
    return ""


def _members(path: Path) -> list[str] | None:
    """Return the names of an archive's files; None for what is no archive."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception as error:
        raise ValueError(f"{path}: a damaged archive ({error}); fetch it again") from None


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: a damaged safetensors file ({error}); fetch it again") from None


def _npz(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                array = np.array(arrays[name])
                tensors[name] = torch.from_numpy(array)
    except (ValueError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(
            f"{path}: {reason}. Expected: arrays of plain numbers, which need no unpickling"
        ) from None
    except Exception as error:
        # Zlib, zipfile, tokenize and numpy each have their own for a damaged file.
        raise ValueError(f"{path}: a damaged .npz file ({error}); fetch it again") from None
    return tensors


def _checkpoint(path: Path) -> Any:
    """Read what `torch.save` wrote, without running code."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(STAND_INS):
            warnings.simplefilter("ignore")  # of content that is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged pickle fails in as many ways as there are instructions in it.
        reason = str(error)
    refused = re.search(r"GLOBAL (\S+)", reason)
    if refused:
        content = f"the object {refused[1]}"
    elif "TorchScript" in reason:
        content = "a TorchScript program"
    else:
        raise ValueError(
            f"{path} is no safetensors file, no .npz and nothing that torch.save wrote, "
            "or it is damaged. Expected: one of these; a plain pickle is not read, "
            "because that would run whatever code it holds"
        )
    raise ValueError(
        f"{path} holds {content}, which only code could restore, "
        "and code in a victim's file is not run here. Expected: safetensors, .npz, "
        "or torch.save(model.state_dict(), path), written by whoever trusts the file"
    )


def _state(path: Path, content: Any, entry: str) -> dict[str, Any]:
    """Find the mapping of names to tensors, and what lies beside them, within a checkpoint."""
    for word in entry.split("."):
        if not word:
            continue
        if not isinstance(content, Mapping) or word not in content:
            raise ValueError(f"{path} has no entry {entry!r}; there is {_inside(content)}")
        content = content[word]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds {_inside(content)}, not tensors by name: save model.state_dict()"
        )
    state: dict[str, Any] = {}
    for name, value in content.items():
        array = value.numbers() if isinstance(value, Array) else None
        # A single number is no weight but something noted beside them.
        state[str(name)] = torch.from_numpy(array) if array is not None and array.ndim else value
    return state


def compiled(rule: str, new: str = "") -> re.Pattern[str]:
    """Compile a rule of `renamed`.

    Raises ValueError where it is no regular expression, or lacks groups that `new` names.
    """
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ValueError(f"rename: {rule!r} is no regular expression: {error}") from None
    try:
        pattern.sub(new, "")
    except (re.error, IndexError) as error:
        raise ValueError(f"rename: {new!r} cannot follow from {rule!r}: {error}") from None
    return pattern


def _plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is dense, real and finite."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return False
    return bool(tensor.isfinite().all())


def _holds_tensors(content: Any) -> bool:
    """Tell whether a part of a checkpoint is a state."""
    if not isinstance(content, Mapping):
        return False
    return any(isinstance(value, Tensor | Array) for value in content.values())


def _inside(content: Any) -> str:
    """Describe a part of a checkpoint."""
    if isinstance(content, Mapping):
        return _some(str(name) for name in content)
    return f"a {type(content).__name__}"


def _some(names: Iterable[str], most: int = 6) -> str:
    """List the first names, and count the others."""
    everything = list(names)
    listed = ", ".join(everything[:most]) or "nothing"
    others = len(everything) - most
    if others > 0:
        return f"{listed} and {others} more"
    return listed
