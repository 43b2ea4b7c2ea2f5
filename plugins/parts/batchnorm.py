"""BatchNorm averages measured anew, for networks whose weights were changed without training."""

from __future__ import annotations

import torch
from torch import nn

from harness import Workbench
from harness.learn import NORMS, ImageSet, evaluating, to_float
from plugins.parts.counting import FORWARD


@torch.no_grad()
def refresh(access: Workbench, model: nn.Module, data: ImageSet, batch: int = 128) -> None:
    """Replace all running averages, in place, by those of one pass over `data`; nothing to do
    without BatchNorm.

    Mean of the batches' means and of their unbiased variances, weighted by the batches' sizes. Only
    BatchNorm is in train mode meanwhile: with dropout at work the averages would not be those that
    evaluation meets. Modes and momenta are left as found. The pass is counted.
    """
    norms = [
        layer
        for layer in model.modules()
        if isinstance(layer, NORMS) and layer.running_mean is not None
    ]
    if not norms:
        return
    momenta, seen = [layer.momentum for layer in norms], 0
    chunks = whole(torch.split(data.images, batch))
    with evaluating(model):
        try:
            for layer in norms:
                layer.reset_running_stats()
                layer.train()
            for chunk in chunks:
                for layer in norms:
                    layer.momentum = len(chunk) / (seen + len(chunk))
                model(to_float(chunk.to(access.device)))
                seen += len(chunk)
                access.tick()
        finally:
            for layer, momentum in zip(norms, momenta, strict=True):
                layer.momentum = momentum
    access.tick(len(data) // FORWARD)


def whole(chunks: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The chunks, a last one of a single image joined to the one before it: one image alone has no
    variance.
    """
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        return [*chunks[:-2], torch.cat(chunks[-2:])]
    return list(chunks)
