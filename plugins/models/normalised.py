"""What the built-in networks share before their first layer, without a torch import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.components import Anatomy, Context, Model, Task

if TYPE_CHECKING:
    from torch import nn


class NormalisedModel(Model):
    """A network whose named parts are `normalise` (if asked), `stem`, `stage1`..., `pool`, `flatten`, `head`."""

    def compatible(self, context: Context) -> str | None:
        """`mean` and `std` go together, `std` is positive, and both have one value per image channel."""
        if (self.mean is None) != (self.std is None):
            return "mean and std go together: give both, or neither for no normalisation"
        if self.mean is None or self.std is None:
            return None
        channels = context.task.channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                return f"{name} has {len(values)} values, but images of {context.task.dataset} have {channels} channels"
        if min(self.std) <= 0:
            return f"std must be positive in every channel, not {min(self.std)}"
        return None

    def entrance(self, task: Task) -> dict[str, nn.Module]:
        """The layers that go before the stem: `{"normalise": ...}`, or nothing where no mean is set.

        Raises ValueError where mean and std do not fit the task's channels.
        """
        if reason := self.compatible(Context(task)):
            raise ValueError(reason)
        if self.mean is None or self.std is None:
            return {}
        from harness.learn.layers import Normalise

        return {"normalise": Normalise(self.mean, self.std)}

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Read off the names of the network's direct children."""
        stages = tuple(name for name, _ in module.named_children() if name.startswith("stage"))
        return Anatomy(stem="stem", stages=stages, features="pool", head="head")
