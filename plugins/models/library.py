"""What classifiers of other libraries share: how small images are dealt with, and an anatomy read
off a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness import Anatomy, Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn


class LibraryModel(NormalisedModel):
    """A classifier made for large images, fitted to the task; see `plugins.models.fitted`."""

    reduction: Literal[1, 2, 4] | None = None
    """what the first layers' downsampling is divided by; none: 4 below 64 pixels, 2 below 128"""

    def reduction_for(self, task: Task) -> int:
        """By how much less the first layers shall shrink an image."""
        smallest = min(task.height, task.width)
        return self.reduction or (4 if smallest < 64 else 2 if smallest < 128 else 1)

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Read off a forward pass; raises Incompatible where the last layer is not linear."""
        from plugins.models.fitted import anatomy

        return anatomy(module)
