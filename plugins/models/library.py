"""Classifiers of other libraries: how they are fitted to small images, and their anatomy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness import Anatomy, Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn


class LibraryModel(NormalisedModel):
    """A classifier made for large images, fitted to the task; see `plugins.models.fitted`."""

    reduction: Literal[1, 2, 4] | None = None
    """divisor of the first layers' downsampling; none: 4 below 64 pixels, 2 below 128"""

    def reduction_for(self, task: Task) -> int:
        """Return by how much less the first layers shrink an image."""
        if self.reduction is not None:
            return self.reduction
        smallest = min(task.height, task.width)
        if smallest < 64:
            return 4
        if smallest < 128:
            return 2
        return 1

    def fit(self, net: nn.Module, shape: tuple[int, int, int], task: Task) -> None:
        """Let a net that takes images of `shape` take those of the task, in place."""
        # Torch is imported late: a plan reads parameters and builds nothing.
        from plugins.models import fitted

        fitted.fit(net, shape, task.channels, self.reduction_for(task))

    def finish(
        self, entrance: dict[str, nn.Module], net: nn.Module, task: Task, name: str
    ) -> nn.Module:
        """Check the net against the task, and return it behind its entrance.

        Raises Incompatible where it does not suit the task.
        """
        from plugins.models import fitted  # late, as above

        fitted.checked(net, task, name)
        fitted.with_features(net, task.image_shape)
        return fitted.Fitted(fitted.entrance_of(entrance), net, task.image_shape)

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Read the anatomy off a forward pass.

        Raises Incompatible where the last layer is not linear.
        """
        from plugins.models import fitted  # late, as above

        return fitted.anatomy(module)
