"""Fine-pruning: cut the channels that clean images leave asleep, then fine-tune.

Liu et al., RAID 2018. Channels are those of the last stage, as the classifier sees them: on a
residual net zeroing the last filters would not silence a channel, which also arrives by the
shortcut. Cut channels stay cut while the rest learns, and end as columns of zeros in the
classifier's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Access, Incompatible, Result
from harness.learn import ImageSet, evaluating
from plugins.parts.fine_tuning import FineTuning
from plugins.parts.holdout import hold_out


class FinePruning(FineTuning):
    """Cut the channels that are least active on clean images, then fine-tune (Liu et al. 2018)."""

    citation = "Liu, Dolan-Gavitt, Garg: Fine-Pruning - Defending Against Backdooring Attacks on DNNs, RAID 2018"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bcu": {},
        "face": {"prune": "share", "share": 48 / 60},
        "speech": {"prune": "share", "share": 250 / 256},
    }

    prune: Literal["drop", "count", "share"] = "drop"
    """as many channels as cost no more than `drop` on images held out of the grant; `count`
    channels; a `share` of them, as the released scripts do (48 of 60 for faces, 250 of 256 for
    speech)
    """
    drop: Annotated[float, Field(ge=0, le=1)] = 0.1
    """relative fall of accuracy that is accepted before fine-tuning; BCU: 10 %, of test accuracy
    there
    """
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the clean images that prune = "drop" sets aside; it neither ranks nor tunes on them
    """
    count: Annotated[int, Field(ge=0)] = 0
    """channels that prune = "count" cuts"""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """share of the channels that prune = "share" cuts, rounded; one is always left"""

    def defend(self, access: Access) -> Result:
        """Rank, cut, fine-tune with the cut kept."""
        model, data, held = access.victim(), access.clean(), None
        if self.prune == "drop":
            data, held = hold_out(data, self.holdout, access.generator("holdout"))
        anatomy = access.anatomy(model)
        channels = responses(access, model, anatomy.features, data)
        order = dormant_first(channels)
        head = cast(nn.Linear, model.get_submodule(anatomy.head))
        number = self._number(len(order))
        if held is not None:
            number = affordable(
                access,
                head,
                responses(access, model, anatomy.features, held),
                held,
                order,
                self.drop,
            )
        keep = torch.ones(len(order), device=access.device).index_fill(0, order[:number], 0.0)
        with silenced(model, anatomy.features, keep):
            access.fit(model, data, self.tuning(access))
        with torch.no_grad():
            head.weight.mul_(columns(keep, head))
        return Result(model=model, record={"pruned": float(number), "neurons": float(len(order))})

    def _number(self, channels: int) -> int:
        """How many to cut where no accuracy is asked."""
        if self.prune == "count" and self.count >= channels:
            raise Incompatible(
                f"count {self.count}, but the last stage has {channels} channels and one must be left"
            )
        return (
            self.count if self.prune == "count" else min(round(self.share * channels), channels - 1)
        )


@torch.no_grad()
def responses(access: Access, model: nn.Module, features: str, data: ImageSet) -> Tensor:
    """What the classifier gets of each image: (n, channels, ...), in evaluation mode and single
    precision.
    """
    seen: list[Tensor] = []
    handle = model.get_submodule(features).register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    try:
        with evaluating(model):
            for images, _ in data.to(access.device).batches(500):
                model(images)
                access.tick()
    finally:
        handle.remove()
    return torch.cat(seen)


def dormant_first(channels: Tensor) -> Tensor:
    """Channels by mean activation over images and places, the lowest first; of equal ones the
    earlier.
    """
    return torch.argsort(channels.transpose(0, 1).flatten(1).double().mean(1), stable=True)


def columns(keep: Tensor, head: nn.Linear) -> Tensor:
    """For each input of the classifier whether its channel is kept; a channel of several places has
    as many inputs.
    """
    return keep.repeat_interleave(head.in_features // len(keep))


@torch.no_grad()
def affordable(
    access: Access, head: nn.Linear, channels: Tensor, held: ImageSet, order: Tensor, drop: float
) -> int:
    """How many channels can be cut, in this order, until held-out accuracy first falls by more than
    `drop` of itself.

    One is always left.
    """
    assert held.labels is not None
    inputs, labels = channels.flatten(1), held.labels.to(channels.device)
    keep = torch.ones(len(order), device=channels.device)

    def right() -> float:
        return float((head(inputs * columns(keep, head)).argmax(1) == labels).float().mean())

    bound = (1 - drop) * right()
    for number, channel in enumerate(order[:-1].tolist()):
        access.tick()
        keep[channel] = 0
        if right() < bound:
            return number
    return len(order) - 1


@contextmanager
def silenced(model: nn.Module, features: str, keep: Tensor) -> Iterator[None]:
    """The channels of this submodule's output times `keep`, while the context lasts."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * keep.to(output.dtype).view(1, -1, *[1] * (output.ndim - 2))

    handle = model.get_submodule(features).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
