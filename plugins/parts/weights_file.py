"""Tensors from a file that somebody else wrote, read without running code from it.

It is safetensors, NumPy's .npz, or a torch checkpoint.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
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
    """Read all tensors of a file by name, to the CPU.

    `entry` is the dotted place of the state within a torch checkpoint. The format is recognised by
    the content. Raises ValueError where there are no tensors, and for a file whose content only
    code from it could restore: unpickling somebody's objects runs whatever they wrote.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(name.endswith(".npy") for name in members):
            return _npz(path)
    elif start[8:] == b"{":  # after eight bytes of length, safetensors begin with JSON
        return _safetensors(path)
    return _state(path, _checkpoint(path), entry)


def renamed(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    r"""Return the tensors under new names.

    Each rule is a regular expression for a whole name, and its replacement.
    `{"module\\.(.*)": "\\1"}` takes a prefix away; an empty replacement drops the tensor. Names
    that no rule fits stay. Raises ValueError where a rule cannot be meant or fits nothing, two fit
    one name, or two tensors get one name.
    """
    patterns = {rule: compiled(rule, replacement) for rule, replacement in rules.items()}
    unused = set(rules)
    tensors: dict[str, Tensor] = {}
    old_names: dict[str, str] = {}
    for name, tensor in state.items():
        fitting = [rule for rule, pattern in patterns.items() if pattern.fullmatch(name)]
        if len(fitting) > 1:
            several = " and ".join(repr(rule) for rule in fitting)
            raise ValueError(f"rename: {several} both fit {name!r}; one may")
        new = name
        if fitting:
            rule = fitting[0]
            unused.discard(rule)
            new = patterns[rule].sub(rules[rule], name, count=1)
        if new in old_names:
            raise ValueError(
                f"rename: {old_names[new]!r} and {name!r} would both be called {new!r}"
            )
        if new:
            tensors[new] = tensor
            old_names[new] = name
    if unused:
        raise ValueError(f"rename: {min(unused)!r} fits no tensor; the file has {_some(state)}")
    return tensors


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


def fill(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Put the tensors into a module.

    Raises ValueError, naming tensors and shapes, unless they are those it has, dense, and all
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
        reason = " ".join(str(error).split())
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
            "say with `rename` what its tensors are called in this network, or name another model"
        )


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: a damaged safetensors file ({error}); fetch it again") from None


def _npz(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                array = np.array(arrays[name])
                tensors[name] = torch.from_numpy(array)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: a damaged .npz file ({error}); fetch it again") from None
    except (ValueError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(
            f"{path}: {reason}. Expected: arrays of plain numbers, which need no unpickling"
        ) from None
    return tensors


def _checkpoint(path: Path) -> Any:
    """Read what `torch.save` wrote, without running code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of content that is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
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


def _state(path: Path, content: Any, entry: str) -> dict[str, Tensor]:
    """Find the mapping of names to tensors within a checkpoint."""
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
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    for name, value in content.items():
        if isinstance(value, Tensor):
            tensors[str(name)] = value
        else:
            others.append(str(name))
    if others:
        raise ValueError(
            f'{path} holds more than a state ({_some(others)}): say which part it is, entry = "..."'
        )
    return tensors


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
