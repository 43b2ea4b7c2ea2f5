"""The small VGG of I-BAU's released victim."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness import Context, Task
from plugins.models.blocks import Conv3x3, assemble
from plugins.models.normalised import NormalisedModel

SMALLEST = 8
"""pixels: the three poolings halve an image three times"""
GROUP = 8
"""layers of a group: twice convolution, BatchNorm and ELU, then pooling and dropout"""
GROUPS = ("stem", "stage1", "stage2")


class SmallVGG(NormalisedModel):
    """Three groups of two 3x3 convolutions with BatchNorm, ELU and dropout: I-BAU's network.

    The groups have 32, 64 and 128 channels.
    Its `load_state_dict` takes weights under the released names too (`features.N.*`, counted over
    every layer, and `classifier.*`). The released network does not normalise.
    """

    citation = (
        "Zeng et al., Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022 "
        "(2110.03735)"
    )

    def compatible(self, context: Context) -> str | None:
        """Require 8 x 8 pixels, which three poolings need."""
        task = context.task
        if min(task.height, task.width) < SMALLEST:
            return (
                f"smallvgg needs images of {SMALLEST} x {SMALLEST} pixels at least; "
                f"those of {task.dataset} have {task.height} x {task.width}"
            )
        return super().compatible(context)

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        parts = self.entrance(task)
        parts["stem"] = _group(task.channels, 32, 0.3)
        parts["stage1"] = _group(32, 64, 0.4)
        parts["stage2"] = _group(64, 128, 0.4)
        features = 128 * (task.height // 8) * (task.width // 8)
        net = assemble(parts, features, task.classes)
        net.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]
        return net


def _group(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    group = nn.Sequential()
    for width in (inputs, outputs):
        group.append(Conv3x3(width, outputs, bias=True))
        group.append(nn.BatchNorm2d(outputs))
        group.append(nn.ELU())
    group.append(nn.MaxPool2d(2))
    group.append(nn.Dropout(dropout))
    return group


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Give tensors under the released names those of the parts, in place; other names stay."""
    for name in list(state):
        if not name.startswith((f"{prefix}features.", f"{prefix}classifier.")):
            continue
        part, _, tail = name.removeprefix(prefix).partition(".")
        if part == "classifier":
            renamed = f"head.{tail}"
        else:
            number, _, tensor = tail.partition(".")
            group, layer = divmod(int(number), GROUP)
            renamed = f"{GROUPS[group]}.{layer}.{tensor}"
        state[prefix + renamed] = state.pop(name)
