"""Any classifier of timm."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness import Incompatible, Task, suggest
from plugins.models.library import LibraryModel

if TYPE_CHECKING:
    from torch import nn

PATCH = re.compile(r"(?:patch|_[sbl])(\d+)(?:_|$)")
"""The side of a transformer's patches in the name of an architecture."""


class TimmNet(LibraryModel):
    """A classifier of timm, such as `timm:convnext_atto`, untrained and fitted to the task.

    Head and stem are fitted. Images much smaller than those that it is made for lose no detail in
    the stem: strides and pooling are taken out of the first layers, to `reduction` in all; patches
    of a transformer become smaller. Its anatomy is read off a forward pass.
    """

    arch: Annotated[str, Field(min_length=1)]
    """the name in `timm.list_models()`, without the tag of a set of weights"""

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError for an unknown architecture, Incompatible where it cannot be fitted to the
        task.
        """
        import timm  # late: it imports torch, and a plan builds nothing

        entrance = self.entrance(task)
        if not timm.is_model(self.arch):
            hint = suggest(self.arch, timm.list_models())
            raise ValueError(f"timm has no classifier {self.arch!r}. {hint}")
        if timm.models.get_pretrained_cfg_value(self.arch, "fixed_input_size"):
            net = self._create(task, self._patches(task))
        else:
            net = self._create(task, {})
            # As if for images that are larger by what the stem will no longer take away.
            reduction = self.reduction_for(task)
            size = (task.height * reduction, task.width * reduction)
            self.fit(net, (task.channels, *size), task)
        return self.finish(entrance, net, task, f"timm:{self.arch}")

    def _patches(self, task: Task) -> dict[str, Any]:
        """Return settings for a net that is made for one image size.

        They are that size, and smaller patches.
        """
        settings: dict[str, Any] = {"img_size": (task.height, task.width)}
        named = PATCH.search(self.arch)
        if named is not None:
            side = int(named[1]) // self.reduction_for(task)
            settings["patch_size"] = max(1, side)
        return settings

    def _create(self, task: Task, settings: dict[str, Any]) -> nn.Module:
        import timm  # late, as above

        fixed: dict[str, Any] = {
            "pretrained": False,
            "num_classes": task.classes,
            "in_chans": task.channels,
        }
        net: nn.Module
        try:
            try:
                net = timm.create_model(self.arch, **fixed, **settings)
            except TypeError:  # its patches cannot be chosen
                settings.pop("patch_size", None)
                net = timm.create_model(self.arch, **fixed, **settings)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise Incompatible(f"timm:{self.arch} cannot be made for this task: {error}") from error
        return net
