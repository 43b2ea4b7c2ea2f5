"""What the built-in networks share before their first layer, without a torch import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness import Anatomy, Context, Model, Task

if TYPE_CHECKING:
    from torch import nn


class NormalisedModel(Model):
    """A network whose named parts are `normalise` (if asked), `stem`, `stage1`..., `flatten`,
    `head`.

    Between the stages and `head` there may be other layers, such as `pool`; the last of them gives
    the features.
    """

    def entrance(self, task: Task) -> dict[str, nn.Module]:
        """The layers that go before the stem: `{"normalise": ...}`, or nothing where no mean is
        set.

        Raises ValueError where mean and std do not fit the task's channels.
        """
        if reason := self.compatible(Context(task)):
            raise ValueError(reason)
        if self.mean is None or self.std is None:
            return {}
        from harness.learn import Normalise

        return {"normalise": Normalise(self.mean, self.std)}

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Read off the names of the network's direct children."""
        stages = {
            name: stage for name, stage in module.named_children() if name.startswith("stage")
        }
        names = [name for name, _ in module.named_children() if name != "flatten"]
        features = names[names.index("head") - 1]
        return Anatomy("stem", tuple(stages), features, "head", blocks_of(stages))


def blocks_of(stages: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """The blocks of all stages in order, by name."""
    return tuple(block for name, stage in stages.items() for block in _blocks(name, stage))


def _blocks(name: str, stage: nn.Module) -> list[str]:
    """The blocks that a stage is a sequence of; a stage of plain layers is one block."""
    from torch import nn

    if not isinstance(stage, nn.Sequential):
        return [name]
    blocks = [
        f"{name}.{child}"
        for child, block in stage.named_children()
        if next(block.children(), None) is not None
    ]
    return blocks or [name]
