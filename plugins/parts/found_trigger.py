"""The base of attacks whose trigger is found on a clean network, or is a picture of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor, nn

from harness import AttackAccess, File, Part, PoisoningAttack, Reference, Task, Use, use
from plugins.parts.patterns import Stamp, read_pattern

CLEAN = "clean-model"


class FoundTrigger(PoisoningAttack):
    """A trigger in the buffer `light`, found on a clean network or read.

    Published triggers of this kind are files, and the networks that they were found on cannot be
    had. Without a file every replicate finds its own; with one no network is trained, and one
    poisoned set serves all models.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trap": {"poison_rate": 0.1, "eligible": "non-target", "order": "first"},
        # Trap and Replace shuffles GTSRB, whose images come class by class, before it takes the
        # first.
        "trap/gtsrb": {"target": 1, "order": "random"},
    }

    picture: File | None = None
    """trigger as an .npy file or a picture of the images' size; none: it is found on `benign`"""
    benign: Use[Part] | None = use(CLEAN)
    """network that the trigger is found on; a `picture` needs none"""
    found_for_target: ClassVar[bool] = False
    """True where a trigger that is found depends on `target`, whatever the label map."""

    @field_validator("benign")
    @classmethod
    def _does_without_for_a_picture(cls, benign: Any, info: ValidationInfo) -> Any:
        if info.data.get("picture") is None:
            if benign is None:
                raise ValueError("without a picture the trigger is found on a network")
            return benign
        if benign not in (None, Reference("part", CLEAN)):
            raise ValueError("the trigger is the picture: no network is expected")
        return None

    def unused(self) -> Mapping[str, str]:
        """See `Component.unused`: `target` may say what the trigger is found for."""
        unused = dict(super().unused())
        if self.found_for_target and self.picture is None:
            unused.pop("target", None)
        return unused

    def trigger(self, task: Task) -> nn.Module:
        """Return a trigger that adds: x' = clip(x + t)."""
        weight = torch.zeros(1, task.height, task.width)
        light = torch.zeros(task.image_shape)
        return Stamp(weight, light)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Find the trigger, or read it."""
        if self.picture is None:
            network = access.part("benign")
            light = self.find(access, network)
        else:
            light = self.read(access)
        trigger.get_buffer("light").copy_(light)

    def find(self, access: AttackAccess, network: nn.Module) -> Tensor:
        """Return the trigger's `light`, found on a clean network in eval mode."""
        raise NotImplementedError

    def read(self, access: AttackAccess) -> Tensor:
        """Return the trigger's `light`, read from the picture."""
        assert self.picture is not None
        return read_pattern(self.picture, access.task)
