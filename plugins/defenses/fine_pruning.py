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

from harness import Access, Fraction, Incompatible, Result
from harness.learn import ImageSet, evaluating, together
from plugins.parts.fine_tuning import FineTuning
from plugins.parts.holdout import hold_out
from plugins.parts.ranges import CountOrZero

LISTENED = 500
"""Images whose activations are computed at a time at most."""


class FinePruning(FineTuning):
    """Cut the channels that are least active on clean images, then fine-tune (Liu et al. 2018)."""

    citation = (
        "Liu, Dolan-Gavitt, Garg: Fine-Pruning - Defending Against Backdooring Attacks on DNNs, "
        "RAID 2018"
    )
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
    drop: Fraction = 0.1
    """relative fall of accuracy that is accepted before fine-tuning; BCU: 10 %, of test accuracy
    there
    """
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the clean images that prune = "drop" sets aside: neither ranking nor tuning sees
    them
    """
    count: CountOrZero = 0
    """channels that prune = "count" cuts"""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """share of the channels that prune = "share" cuts, rounded; one is always left"""

    def unused(self) -> Mapping[str, str]:
        """Name the settings of other ways to prune than the chosen one."""
        unused = dict(super().unused())
        takes = {"drop": ("drop", "holdout"), "count": ("count",), "share": ("share",)}
        for way, names in takes.items():
            if way != self.prune:
                unused.update(dict.fromkeys(names, f'prune = "{self.prune}"'))
        return unused

    def defend(self, access: Access) -> Result:
        """Rank, cut, fine-tune with the cut kept."""
        model = access.victim()
        data = access.clean()
        held = None
        if self.prune == "drop":
            data, held = hold_out(data, self.holdout, access.generator("holdout"))
        anatomy = access.anatomy(model)
        head = cast(nn.Linear, model.get_submodule(anatomy.head))

        order = dormant_first(responses(access, model, anatomy.features, data))
        if held is None:
            number = self._number(len(order))
        else:
            channels = responses(access, model, anatomy.features, held)
            number = affordable(access, head, channels, held, order, self.drop)

        keep = torch.ones(len(order), device=access.device)
        keep = keep.index_fill(0, order[:number], 0.0)
        with silenced(model, anatomy.features, keep):
            access.fit(model, data, self.tuning(access))
        with torch.no_grad():
            head.weight.mul_(columns(keep, head))
        record = {"pruned": float(number), "neurons": float(len(order))}
        return Result(model=model, record=record)

    def _number(self, channels: int) -> int:
        """Return how many channels to cut where accuracy does not decide."""
        if self.prune == "share":
            return min(round(self.share * channels), channels - 1)
        if self.count >= channels:
            raise Incompatible(
                f"count {self.count}, but the last stage has {channels} channels and one must be "
                "left"
            )
        return self.count


@torch.no_grad()
def responses(access: Access, model: nn.Module, features: str, data: ImageSet) -> Tensor:
    """Return what the classifier gets of each image: (n, channels, ...), in single precision.

    The network is in evaluation mode.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    size = min(LISTENED, together(data.images, access.device))
    handle = model.get_submodule(features).register_forward_hook(keep)
    try:
        with evaluating(model):
            for images, _ in data.to(access.device).batches(size):
                model(images)
                access.tick()
    finally:
        handle.remove()
    return torch.cat(outputs)


def dormant_first(channels: Tensor) -> Tensor:
    """Order channels by mean activation over images and places, the lowest first.

    Of equal ones the earlier comes first.
    """
    activations = channels.transpose(0, 1).flatten(1)
    means = activations.double().mean(1)
    return torch.argsort(means, stable=True)


def columns(keep: Tensor, head: nn.Linear) -> Tensor:
    """Tell for each input of the classifier whether its channel is kept.

    A channel of several places has as many inputs.
    """
    return keep.repeat_interleave(head.in_features // len(keep))


@torch.no_grad()
def affordable(
    access: Access, head: nn.Linear, channels: Tensor, held: ImageSet, order: Tensor, drop: float
) -> int:
    """Count the channels that can be cut, in this order, before held-out accuracy falls too far.

    That is by more than `drop` of itself. One channel is always left.
    """
    assert held.labels is not None
    inputs = channels.flatten(1)
    labels = held.labels.to(channels.device)
    keep = torch.ones(len(order), device=channels.device)

    def accuracy() -> float:
        answers = head(inputs * columns(keep, head)).argmax(1)
        right = answers == labels
        return float(right.float().mean())

    bound = (1 - drop) * accuracy()
    for number, channel in enumerate(order[:-1].tolist()):
        access.tick()
        keep[channel] = 0
        if accuracy() < bound:
            return number
    return len(order) - 1


@contextmanager
def silenced(model: nn.Module, features: str, keep: Tensor) -> Iterator[None]:
    """Multiply the channels of this submodule's output by `keep` while the context lasts."""

    def silence(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        places = [1] * (output.ndim - 2)
        factors = keep.to(output.dtype).view(1, -1, *places)
        return output * factors

    handle = model.get_submodule(features).register_forward_hook(silence)
    try:
        yield
    finally:
        handle.remove()
