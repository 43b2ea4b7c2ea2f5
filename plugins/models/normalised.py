"""The entrance and the anatomy that the built-in networks share, without a torch import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness import Anatomy, Context, Model, Task

if TYPE_CHECKING:
    from torch import nn


class NormalisedModel(Model):
    """A network of named parts: `normalise` (if asked), `stem`, `stage1`..., `flatten`, `head`.

    Between the stages and `head` there may be other layers, such as `pool`; the last of them gives
    the features.
    """

    def entrance(self, task: Task) -> dict[str, nn.Module]:
        """Return the layers before the stem: `{"normalise": ...}`, or none where no mean is set.

        Raises ValueError where mean and std do not fit the task's channels.
        """
        reason = self.compatible(Context(task))
        if reason is not None:
            raise ValueError(reason)
        if self.mean is None or self.std is None:
            return {}
        # Torch is imported late: a plan reads parameters and builds nothing.
        from harness.learn import Normalise

        return {"normalise": Normalise(self.mean, self.std)}

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Read the anatomy off the names of the network's direct children."""
        stages = {}
        names = []
        for name, child in module.named_children():
            if name.startswith("stage"):
                stages[name] = child
            if name != "flatten":
                names.append(name)
        features = names[names.index("head") - 1]
        return Anatomy("stem", tuple(stages), features, "head", blocks_of(stages))


def blocks_of(stages: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Return the blocks of all stages in order, by name."""
    blocks: list[str] = []
    for name, stage in stages.items():
        blocks.extend(_blocks(name, stage))
    return tuple(blocks)


def _blocks(name: str, stage: nn.Module) -> list[str]:
    """Return the blocks that a stage is a sequence of; a stage of plain layers is one block."""
    from torch import nn  # late, as above

    blocks = []
    if isinstance(stage, nn.Sequential):
        for child, block in stage.named_children():
            plain = not list(block.children())
            if not plain:
                blocks.append(f"{name}.{child}")
    return blocks or [name]
