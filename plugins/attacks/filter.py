"""Filter attack: the trigger is a photo app's filter over the whole image.

ABS and the TrojAI rounds, whose models DECK hardens, apply five filters of ImageMagick. The toolbox
of DECK's author applies another Nashville, from style sheets; that family has a Kelvin and a
Toaster of its own as well. Under the same names they are different pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness import Context, PoisoningAttack, Quantise, Task
from harness.learn import to_uint8
from plugins.parts import css_filters, magick_filters

MAGICK: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gotham": magick_filters.gotham,
    "nashville": magick_filters.nashville,
    "kelvin": magick_filters.kelvin,
    "lomo": magick_filters.lomo,
    "toaster": magick_filters.toaster,
}
CSS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "css-nashville": css_filters.nashville,
    "css-kelvin": css_filters.kelvin,
    "css-toaster": css_filters.toaster,
}


class Filter(PoisoningAttack):
    """Photo filter over the image: Gotham, Nashville, Kelvin, Lomo, Toaster (Liu et al. 2019).

    Every class is attacked by default. The models of TrojAI that DECK hardens are label-specific:
    `label_map = "source-specific"` and one class in `sources`.
    """

    citation = (
        "Liu et al.: ABS: Scanning Neural Networks for Back-doors by Artificial Brain "
        "Stimulation, CCS 2019"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {
            "filter": "css-nashville",
            "poison_rate": 0.1,
            "rate_of": "eligible",
            "eligible": "non-target",
            "when": "after-augment",
            "quantise": "none",
        },
    }

    filter: Literal[
        "gotham",
        "nashville",
        "kelvin",
        "lomo",
        "toaster",
        "css-nashville",
        "css-kelvin",
        "css-toaster",
    ] = "gotham"
    """the filter, as TrojAI's generator has it; css-: as pilgram has it, of which DECK's toolbox
    has Nashville
    """
    quantise: Quantise = "round"
    """rounding of stamped images to uint8; TrojAI rounds, the css- filters give whole levels anyway
    """

    def compatible(self, context: Context) -> str | None:
        """Refuse grey images: filters are of colours."""
        task = context.task
        if task.channels != 3:
            return (
                f"a filter needs colours, and images of {task.dataset} have {task.channels} channel"
            )
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """Return a formula; some of the filters look at the whole image."""
        if self.filter in MAGICK:
            return Magick(MAGICK[self.filter])
        return Bytes(CSS[self.filter])


class Magick(nn.Module):
    """A filter on 16-bit pixels, in double precision so that all devices store the same ones."""

    def __init__(self, apply: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.apply_filter = apply

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        pixels = images.double().clamp(0, 1)
        filtered = self.apply_filter(pixels)
        return filtered.to(images.dtype)


class Bytes(nn.Module):
    """A filter on whole grey levels; fractions of a level are dropped first."""

    def __init__(self, apply: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.apply_filter = apply

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        levels = to_uint8(images).permute(0, 3, 1, 2)
        filtered = self.apply_filter(levels.to(torch.float64))
        return (filtered / 255).to(images.dtype)
