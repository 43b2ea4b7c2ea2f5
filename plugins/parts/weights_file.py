"""Tensors from a file that somebody else wrote: safetensors, NumPy's .npz, or a torch checkpoint
without code in it.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Kernels = Literal["oihw", "hwio"]

COUNTER = "num_batches_tracked"
"""A BatchNorm's count of batches; older files lack it, and nothing depends on it."""


def read_tensors(path: Path, entry: str = "") -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU; `entry` is the dotted place of the state within a
    torch checkpoint.

    The format is told by the content. Raises ValueError where there are none, and for a file whose
    content only code from it could restore: unpickling somebody's objects runs whatever they wrote.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return _npz(path)
    elif start[8:] == b"{":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path}: a damaged safetensors file ({error}); fetch it again"
            ) from None
    return _state(path, _checkpoint(path), entry)


def renamed(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    r"""The tensors under new names; each rule is a regular expression for a whole name and what
    replaces it.

    `{"module\\.(.*)": "\\1"}` takes a prefix away; an empty replacement drops the tensor. Names
    that no rule fits stay. Raises ValueError where a rule cannot be meant or fits nothing, two fit
    one name, or two tensors get one name.
    """
    patterns = {rule: compiled(rule, new) for rule, new in rules.items()}
    unused, made = set(rules), dict[str, str]()
    new: dict[str, Tensor] = {}
    for name, value in state.items():
        fitting = [rule for rule, pattern in patterns.items() if pattern.fullmatch(name)]
        if len(fitting) > 1:
            raise ValueError(
                f"rename: {' and '.join(map(repr, fitting))} both fit {name!r}; one may"
            )
        unused -= {*fitting}
        other = patterns[fitting[0]].sub(rules[fitting[0]], name, count=1) if fitting else name
        if other in made:
            raise ValueError(f"rename: {made[other]!r} and {name!r} would both be called {other!r}")
        if other:
            new[other], made[other] = value, name
    if unused:
        raise ValueError(f"rename: {min(unused)!r} fits no tensor; the file has {_some(state)}")
    return new


def in_torch_order(state: Mapping[str, Tensor], kernels: Kernels) -> dict[str, Tensor]:
    """The tensors with `hwio` kernels as torch has them: (h, w, in, out) to (out, in, h, w), (in,
    out) to (out, in).
    """
    if kernels == "oihw":
        return dict(state)
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}
    return {
        name: value.permute(axes[value.ndim]) if value.ndim in axes else value
        for name, value in state.items()
    }


def fill(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Put the tensors into a module.

    Raises ValueError, naming tensors and shapes, unless they are those it has, dense, and all
    finite real numbers.
    """
    if odd := [name for name, value in state.items() if not _plain(value)]:
        raise ValueError(
            f"{source} holds something else than finite real numbers, one for each place, in {_some(odd)}"
        )
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {' '.join(str(error).split())}"
        ) from None
    missing = [name for name in missing if not name.endswith(COUNTER)]
    if missing or unexpected:
        told = [
            *([f"it lacks {_some(missing)}"] if missing else []),
            *([f"it has {_some(unexpected)}, which the network does not"] if unexpected else []),
        ]
        hint = (
            "say with `rename` what its tensors are called in this network, or name another model"
        )
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(told)}. {hint}"
        )


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: a damaged .npz file ({error}); fetch it again") from None
    except (ValueError, TypeError) as error:
        told = str(error).rstrip(".")
        raise ValueError(
            f"{path}: {told}. Wanted: arrays of plain numbers, which need no unpickling"
        ) from None


def _checkpoint(path: Path) -> Any:
    """What `torch.save` wrote, read without running code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"the object {named[1]}"
            if named
            else "a TorchScript program"
            if "TorchScript" in str(error)
            else None
        )
    if what is None:
        raise ValueError(
            f"{path} is no safetensors file, no .npz and nothing that torch.save wrote, or it is damaged. Wanted: one "
            "of these; a plain pickle is not read, because that would run whatever code it holds"
        )
    raise ValueError(
        f"{path} holds {what}, which only code could restore, and code in a victim's file is not run here. Wanted: "
        "safetensors, .npz, or torch.save(model.state_dict(), path), written by whoever trusts the file"
    )


def _state(path: Path, found: Any, entry: str) -> dict[str, Tensor]:
    """The mapping of names to tensors within a checkpoint."""
    for word in filter(None, entry.split(".")):
        if not isinstance(found, Mapping) or word not in found:
            raise ValueError(f"{path} has no entry {entry!r}; there is {_inside(found)}")
        found = found[word]
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{path} holds {_inside(found)}, not tensors by name: save model.state_dict()"
        )
    if others := [str(name) for name, value in found.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f'{path} holds more than a state ({_some(others)}): say which part it is, entry = "..."'
        )
    return {str(name): value for name, value in found.items()}


def compiled(rule: str, new: str = "") -> re.Pattern[str]:
    """A rule of `renamed`. Raises ValueError where it is no regular expression, or lacks groups
    that `new` names.
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


def _plain(value: Tensor) -> bool:
    """Whether a tensor is dense, real and finite."""
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        return False
    return bool(value.isfinite().all())


def _inside(found: Any) -> str:
    return _some(map(str, found)) if isinstance(found, Mapping) else f"a {type(found).__name__}"


def _some(names: Any, most: int = 6) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "nothing") + more
