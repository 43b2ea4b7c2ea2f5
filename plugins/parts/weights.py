"""Weights that somebody else trained, as parameters of a component: a file, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from harness import Component, File
from plugins.parts.weights_file import (
    Kernels,
    compiled,
    fill,
    in_torch_order,
    only_tensors,
    read_state,
    renamed,
    sizes_without,
)


class Weights(Component):
    """The parameters of a component that takes a network's weights from a file."""

    weights: File
    """safetensors, .npz, or what `torch.save(model.state_dict(), ...)` wrote; read without running
    code from it
    """
    entry: str = ""
    """dotted place of the state in a torch checkpoint that holds more: "state_dict" """
    rename: Mapping[str, str] = Field(default_factory=dict)
    r"""regular expression for whole names in the file -> name in the network, with \\1 for groups;
    "" drops what has the name: a tensor, or a number that was noted among them
    """
    kernels: Kernels = "oihw"
    """order of kernel axes in the file: torch's, or TensorFlow's (height, width, in, out)"""

    @model_validator(mode="after")
    def _rules_are_expressions(self) -> Self:
        for rule, new in self.rename.items():
            compiled(rule, new)
        return self

    def state(self) -> dict[str, Tensor]:
        """Read the file's tensors, with the network's names and torch's axes."""
        content = read_state(self.weights, self.entry)
        named = renamed(content, self.rename, self.weights)
        return in_torch_order(only_tensors(named, self.weights), self.kernels)

    def load_into(self, model: nn.Module, classes: int) -> None:
        """Fill a network for `classes` classes. Raise ValueError, with the names, where the weights
        do not fit.
        """
        fill(model, self.state(), self.weights, classes)

    def misfit(self, classes: int) -> str | None:
        """Say why the file's network cannot be one for `classes` classes, where the sizes of its
        layers show it.
        """
        try:
            state = self.state()
        except (ValueError, OSError):
            return None  # the stage fails with that sentence
        sizes = sizes_without(state, classes)
        if not sizes:
            return None
        found = " or ".join(map(str, sizes))
        right = found if len(sizes) == 1 else "..."
        return (
            f"{self.weights} is no network for {classes} classes, its linear layers give {found} "
            f"numbers; say classes = {right} in [[dataset]], or take a dataset of as many"
        )
