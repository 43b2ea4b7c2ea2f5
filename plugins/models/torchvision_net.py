"""Any classifier of torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness import Incompatible, Task, suggest
from plugins.models.library import LibraryModel

if TYPE_CHECKING:
    from torch import nn


class TorchvisionNet(LibraryModel):
    """A classifier of torchvision, as `torchvision:mobilenet_v2`, untrained and fitted to the task.

    Head and stem are fitted. Images much smaller than those that it is made for lose no detail in
    the stem: strides and pooling are taken out of the first layers, to `reduction` in all. Its
    anatomy is read off a forward pass.
    """

    arch: Annotated[str, Field(min_length=1)]
    """the name in `torchvision.models.list_models()`"""

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError for an unknown architecture, Incompatible where it cannot be fitted to the
        task.
        """
        entrance = self.entrance(task)
        reduction = self.reduction_for(task)
        # As if for images that are larger by what the stem will no longer take away.
        size = (task.height * reduction, task.width * reduction)
        net = self._create(task, size)
        self.fit(net, (3, *size), task)
        if hasattr(net, "image_size") and hasattr(net, "patch_size"):
            # A vision transformer measures its input by them.
            shrunk: Any = net
            shrunk.image_size = task.height
            shrunk.patch_size = shrunk.patch_size // reduction
        return self.finish(entrance, net, task, f"torchvision:{self.arch}")

    def _settings(self, size: tuple[int, int]) -> dict[str, Any]:
        if self.arch in ("googlenet", "inception_v3"):
            # Their auxiliary heads would make the output a tuple.
            return {"aux_logits": False, "init_weights": True}
        if self.arch.startswith("vit_"):
            height, width = size
            if height != width:
                raise Incompatible(f"torchvision:{self.arch} takes square images only")
            return {"image_size": height}
        return {}

    def _create(self, task: Task, size: tuple[int, int]) -> nn.Module:
        import torchvision  # late: it imports torch, and a plan builds nothing

        known = torchvision.models.list_models(torchvision.models)
        if self.arch not in known:
            hint = suggest(self.arch, known)
            raise ValueError(f"torchvision has no classifier {self.arch!r}. {hint}")
        settings = self._settings(size)
        try:
            net: nn.Module = torchvision.models.get_model(
                self.arch, weights=None, num_classes=task.classes, **settings
            )
        except (RuntimeError, ValueError) as error:
            raise Incompatible(
                f"torchvision:{self.arch} cannot be made for this task: {error}"
            ) from error
        return net
