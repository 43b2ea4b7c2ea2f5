"""The pre-activation ResNet-20 and ResNet-32 of MOTH and DECK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness import Task
from plugins.models.blocks import Conv3x3, GlobalMean, PreActivationBlock, assemble, row
from plugins.models.normalised import NormalisedModel

KERAS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Torch's names of a layer's tensors by those of Keras."""
LAYERS = {"conv2d": nn.Conv2d, "batch_normalization": nn.BatchNorm2d, "dense": nn.Linear}
"""Torch's layers by the released names."""


class ResNet20(NormalisedModel):
    """ResNet-20 with pre-activation blocks of 16, 32 and 64 channels: the network of MOTH and DECK.

    Layer for layer the network released with MOTH: convolutions have biases, a strided 3x3
    convolution pads at the bottom and right only, and a strided block's shortcut convolves the
    activated input. Its `load_state_dict` takes weights under the released names too (`conv2d_N.*`,
    `batch_normalization_N.*`, N in order of use, and `dense_1.*`).
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Released with MOTH for CIFAR-10, in units of 0..255.
        "moth": {
            "mean": (125.307 / 255, 122.95 / 255, 113.865 / 255),
            "std": (62.9932 / 255, 62.0887 / 255, 66.7048 / 255),
        },
    }
    citation = (
        "He et al., Identity Mappings in Deep Residual Networks, ECCV 2016 (arXiv 1603.05027)"
    )
    depth: ClassVar[int] = 3
    """residual blocks of each stage"""

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        parts = self.entrance(task)
        parts["stem"] = Conv3x3(task.channels, 16, bias=True)
        inputs = 16
        for number, (outputs, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            parts[f"stage{number}"] = row(PreActivationBlock, inputs, outputs, stride, self.depth)
            inputs = outputs
        # Blocks end unactivated, so the last BatchNorm and ReLU stand before the pooling.
        parts["last"] = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        parts["pool"] = GlobalMean()
        net = assemble(parts, inputs, task.classes)
        net.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]
        return net


class ResNet32(ResNet20):
    """ResNet-32, as `resnet20` with five blocks a stage: DECK's network for SVHN and STL-10."""

    depth: ClassVar[int] = 5


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Give tensors under the released names those of the layers, in place; other names stay.

    Released names count layers of a kind in the order of their use.
    """
    for kind, layer in LAYERS.items():
        # Layers are declared in the order of their use.
        used = [name for name, part in module.named_modules() if isinstance(part, layer)]
        ours = {f"{kind}_{number}": name for number, name in enumerate(used, start=1)}
        for name in list(state):
            theirs, _, tensor = name.removeprefix(prefix).rpartition(".")
            if theirs in ours and tensor in KERAS:
                renamed = f"{prefix}{ours[theirs]}.{KERAS[tensor]}"
                state[renamed] = state.pop(name)
