"""Any classifier of timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness import Incompatible, Task, suggest
from plugins.models.library import LibraryModel

if TYPE_CHECKING:
    from torch import nn


class TimmNet(LibraryModel):
    """A classifier of timm, such as `timm:convnext_atto`, untrained, with head and stem fitted to
    the task.

    Images much smaller than those that it is made for lose no detail in the stem: strides and
    pooling are taken out of the first layers, to `reduction` in all; patches of a transformer
    become smaller. Its anatomy is read off a forward pass.
    """

    arch: Annotated[str, Field(min_length=1)]
    """the name in `timm.list_models()`, without the tag of a set of weights"""

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits.

        Raises ValueError for an unknown architecture, Incompatible where it cannot be fitted to the
        task.
        """
        import timm

        from plugins.models.fitted import Fitted, checked, entrance_of, fit, with_features

        entrance = entrance_of(self.entrance(task))
        reduction = self.reduction_for(task)
        if not timm.is_model(self.arch):
            raise ValueError(
                f"timm has no classifier {self.arch!r}. {suggest(self.arch, timm.list_models())}"
            )
        fixed = bool(timm.models.get_pretrained_cfg_value(self.arch, "fixed_input_size"))
        net = self._create(task, self._patches(task, reduction) if fixed else {})
        if not fixed:
            fit(
                net,
                (task.channels, task.height * reduction, task.width * reduction),
                task.channels,
                reduction,
            )
        checked(net, task, f"timm:{self.arch}")
        with_features(net, task.image_shape)
        return Fitted(entrance, net, task.image_shape)

    def _patches(self, task: Task, reduction: int) -> dict[str, Any]:
        """Settings of a net that is made for one image size: that size, and smaller patches."""
        import re

        named = re.search(r"(?:patch|_[sbl])(\d+)(?:_|$)", self.arch)
        patch = {"patch_size": max(1, int(named[1]) // reduction)} if named else {}
        return {"img_size": (task.height, task.width), **patch}

    def _create(self, task: Task, settings: dict[str, Any]) -> nn.Module:
        import timm

        fitting = {"num_classes": task.classes, "in_chans": task.channels}
        try:
            try:
                net: nn.Module = timm.create_model(
                    self.arch, pretrained=False, **fitting, **settings
                )
            except TypeError:  # its patches cannot be chosen
                settings.pop("patch_size", None)
                net = timm.create_model(self.arch, pretrained=False, **fitting, **settings)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise Incompatible(f"timm:{self.arch} cannot be made for this task: {error}") from error
        return net
