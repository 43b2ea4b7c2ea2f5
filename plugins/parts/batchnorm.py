"""BatchNorm averages measured anew, for networks whose weights were changed without training."""

from __future__ import annotations

import torch
from torch import nn

from harness import Workbench
from harness.learn import NORMS, ImageSet, evaluating, to_float
from plugins.parts.counting import FORWARD


@torch.no_grad()
def refresh(access: Workbench, model: nn.Module, data: ImageSet, batch: int = 128) -> None:
    """Replace all running averages, in place, by those of one pass over `data`.

    They become the mean of the batches' means and of their unbiased variances, weighted by the
    batches' sizes. Only BatchNorm is in train mode meanwhile: with dropout active the averages
    would not be those that evaluation meets. Modes and momenta are left as found. The pass is
    counted. Without BatchNorm there is nothing to do.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, NORMS)]
    norms = [layer for layer in layers if layer.running_mean is not None]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    chunks = whole(torch.split(data.images, batch))
    seen = 0
    with evaluating(model):
        try:
            for layer in norms:
                layer.reset_running_stats()
                layer.train()
            for chunk in chunks:
                # with this momentum a running average is the mean over all images so far
                momentum = len(chunk) / (seen + len(chunk))
                for layer in norms:
                    layer.momentum = momentum
                images = to_float(chunk.to(access.device))
                model(images)
                seen += len(chunk)
                access.tick()
        finally:
            for layer, original in zip(norms, momenta, strict=True):
                layer.momentum = original
    access.tick(len(data) // FORWARD)


def whole(chunks: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Return the chunks, a last one of a single image joined to the one before it.

    One image alone has no variance.
    """
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        last = torch.cat(chunks[-2:])
        return [*chunks[:-2], last]
    return list(chunks)
