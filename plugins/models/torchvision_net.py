"""Any classifier of torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness.components import Anatomy, Task
from harness.errors import Incompatible, suggest
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn


class TorchvisionNet(NormalisedModel):
    """A classifier of torchvision, as `torchvision:mobilenet_v2`, untrained, with head and stem fitted to the task.

    Images much smaller than those that it is made for lose no detail in the stem: strides and pooling are taken out of
    the first layers, to `reduction` in all. Its anatomy is read off a forward pass.
    """

    arch: Annotated[str, Field(min_length=1)]
    """the name in `torchvision.models.list_models()`"""
    reduction: Annotated[int, Field(ge=1, le=4)] | None = None
    """what the first layers' downsampling is divided by: 1, 2 or 4; none: 4 below 64 pixels, 2 below 128"""

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits.

        Raises ValueError for an unknown architecture, Incompatible where it cannot be fitted to the task.
        """
        from plugins.models.fitted import Fitted, checked, entrance_of, fit, with_features

        entrance = entrance_of(self.entrance(task))
        reduction = reduction_of(self.reduction, task)
        # As if for images that are larger by what the stem will no longer take away.
        size = (task.height * reduction, task.width * reduction)
        net = self._create(task, size)
        fit(net, (3, *size), task.channels, reduction)
        if hasattr(net, "image_size") and hasattr(net, "patch_size"):  # a vision transformer measures its input by them
            shrunk: Any = net
            shrunk.image_size, shrunk.patch_size = task.height, shrunk.patch_size // reduction
        checked(net, task, f"torchvision:{self.arch}")
        with_features(net, task.image_shape)
        return Fitted(entrance, net, task.image_shape)

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Read off a forward pass; raises Incompatible where the last layer is not linear."""
        from plugins.models.fitted import anatomy

        return anatomy(module)

    def _settings(self, size: tuple[int, int]) -> dict[str, Any]:
        if self.arch in ("googlenet", "inception_v3"):
            # Their auxiliary heads would make the output a tuple.
            return {"aux_logits": False, "init_weights": True}
        if self.arch.startswith("vit_"):
            if size[0] != size[1]:
                raise Incompatible(f"torchvision:{self.arch} takes square images only")
            return {"image_size": size[0]}
        return {}

    def _create(self, task: Task, size: tuple[int, int]) -> nn.Module:
        import torchvision

        known = torchvision.models.list_models(torchvision.models)
        if self.arch not in known:
            raise ValueError(f"torchvision has no classifier {self.arch!r}. {suggest(self.arch, known)}")
        try:
            net: nn.Module = torchvision.models.get_model(
                self.arch, weights=None, num_classes=task.classes, **self._settings(size)
            )
        except (RuntimeError, ValueError) as error:
            raise Incompatible(f"torchvision:{self.arch} cannot be made for this task: {error}") from error
        return net


def reduction_of(chosen: int | None, task: Task) -> int:
    """By how much less the first layers shall shrink an image. Raises ValueError for 3."""
    if chosen == 3:
        raise ValueError("reduction is 1, 2 or 4")
    smallest = min(task.height, task.width)
    return chosen or (4 if smallest < 64 else 2 if smallest < 128 else 1)
