"""Channel Lipschitzness pruning (Zheng et al., ECCV 2022): needs no data at all.

A backdoored channel reacts to a small patch strongly, so its Lipschitz constant stands out in its
layer. Prune the channels of each conv-BatchNorm pair whose upper bound exceeds the layer's mean by
u standard deviations.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from harness import Access, Defense, Result


class CLP(Defense):
    """Prune channels with a high Lipschitz bound (Zheng et al. 2022)."""

    version = 1
    needs = frozenset({"victim"})
    citation = (
        "Zheng, Tang, Li, Liu: Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022"
    )

    u: Annotated[float, Field(gt=0)] = 3.0
    """standard deviations above its layer's mean that a channel may be"""

    def defend(self, access: Access) -> Result:
        """Prune the outliers of every layer."""
        # our own copy
        model = access.victim()
        pruned = 0
        conv = None
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    conv = module
                    continue
                if conv is None or not isinstance(module, nn.BatchNorm2d):
                    continue
                if conv.out_channels != module.num_features:
                    continue
                high = outliers(conv, module, self.u)
                module.weight[high] = 0
                module.bias[high] = 0
                pruned += int(high.sum())
                conv = None
        # the number pruned becomes a row of the results
        return Result(model=model, record={"channels_pruned": pruned})


def outliers(conv: nn.Conv2d, norm: nn.BatchNorm2d, u: float) -> torch.Tensor:
    """Mark the channels of a conv-BatchNorm pair to prune: a boolean for each."""
    deviation = torch.sqrt(norm.get_buffer("running_var") + norm.eps)
    scale = (norm.weight / deviation).abs()
    # One channel's kernel as a matrix of inputs by taps: its largest singular value bounds the
    # gain.
    kernels = conv.weight.flatten(2)
    gains: torch.Tensor = torch.linalg.matrix_norm(kernels, ord=2)
    bounds = gains * scale
    return bounds > bounds.mean() + u * bounds.std()
