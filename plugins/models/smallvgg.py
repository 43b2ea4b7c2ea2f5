"""The small VGG of I-BAU's released victim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import Context, Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 8
"""pixels: the three poolings halve an image three times"""
GROUP = 8
"""layers of a group: twice convolution, BatchNorm and ELU, then pooling and dropout"""


class SmallVGG(NormalisedModel):
    """Three groups of two 3x3 convolutions (32, 64, 128 channels) with BatchNorm, ELU and dropout:
    I-BAU's network.

    Its `load_state_dict` takes weights under the released names too (`features.N.*`, counted over
    every layer, and `classifier.*`). The released network does not normalise.
    """

    citation = "Zeng et al., Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022 (2110.03735)"

    def compatible(self, context: Context) -> str | None:
        """Three poolings need images of 8 x 8 pixels at least."""
        task = context.task
        if min(task.height, task.width) < SMALLEST:
            return (
                f"smallvgg needs images of {SMALLEST} x {SMALLEST} pixels at least; "
                f"those of {task.dataset} have {task.height} x {task.width}"
            )
        return super().compatible(context)

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from torch import nn

        from plugins.models.blocks import Conv3x3, assemble

        def group(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
            layers: list[nn.Module] = []
            for width in (inputs, outputs):
                layers += [Conv3x3(width, outputs, bias=True), nn.BatchNorm2d(outputs), nn.ELU()]
            return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(dropout))

        parts = self.entrance(task) | {
            "stem": group(task.channels, 32, 0.3),
            "stage1": group(32, 64, 0.4),
            "stage2": group(64, 128, 0.4),
        }
        net = assemble(parts, 128 * (task.height // 8) * (task.width // 8), task.classes)
        net.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]
        return net


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """From the released names to those of the parts, in place; other names stay."""
    for name in [
        name for name in state if name.startswith((f"{prefix}features.", f"{prefix}classifier."))
    ]:
        part, _, tail = name.removeprefix(prefix).partition(".")
        if part == "classifier":
            new = f"head.{tail}"
        else:
            number, _, tail = tail.partition(".")
            group, layer = divmod(int(number), GROUP)
            new = f"{('stem', 'stage1', 'stage2')[group]}.{layer}.{tail}"
        state[prefix + new] = state.pop(name)
