"""Artificial brain stimulation: which single neurons turn images to one label when they are driven?

Liu et al., CCS 2019 (ABS). A neuron is a channel; to stimulate it is to put one value in all its
places. Each image votes for the label whose logit rises most, by how much more it rises than any
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness import Incompatible, Unit, Workbench
from plugins.parts.counting import FORWARD

LEVELS = 5
"""Values that a neuron is set to, from 0 on, in equal steps of REACH / LEVELS times the layer's
largest output.
"""
REACH = 8.0

Hook = Callable[[nn.Module, Any, Tensor], Tensor | None]


@dataclass(frozen=True)
class Neuron:
    """A channel, one `of` so many in the layer `module`; the `label` that it turns images to, by
    `score` logits.
    """

    module: str
    channel: int
    of: int
    label: int
    score: float


@torch.no_grad()
def elevated(
    access: Workbench, model: nn.Module, images: Tensor, labels: Tensor, dissent: int, at_once: int
) -> list[Neuron]:
    """All neurons that turn all images but `dissent` to one label, the strongest first.

    `images`: [0,1] floats (n, c, h, w), `labels` (n,) their true ones, both on the model's device.
    About `at_once` images go through the network together.
    """
    units = list(access.units(model))
    peaks, cuts = _peaks(model, images, units), _cuts(access, model, images, units)
    found: list[Neuron] = []
    for done, unit in enumerate(units):
        for channels in torch.split(
            torch.arange(unit.count), max(1, at_once // (LEVELS * len(images)))
        ):
            logits = _stimulated(
                model, images, unit, channels, peaks[unit.module] * REACH / LEVELS, cuts[unit]
            )
            access.tick(len(channels) * LEVELS * len(images) // FORWARD)
            for channel, answers in zip(channels.tolist(), logits.cpu(), strict=True):
                if vote := election(answers, labels.cpu(), dissent):
                    found.append(Neuron(unit.module, channel, unit.count, *vote))
        access.tick(done=done + 1, of=len(units))
    return sorted(found, key=lambda neuron: -neuron.score)


def election(logits: Tensor, labels: Tensor, dissent: int) -> tuple[int, float] | None:
    """The label that a neuron turns images to and how strongly; None where it does not.

    `logits` (levels, n, classes), the first level that of a silent neuron. Strength is that of the
    weakest vote among images of other classes.
    """
    rise = logits[1:].amax(0) - logits[0]
    top = rise.topk(2, dim=1)
    votes, lead = top.indices[:, 0], top.values[:, 0] - top.values[:, 1]
    label = int(votes.bincount(minlength=rise.shape[1]).argmax())
    mine = votes == label
    others = mine & (labels != label)
    if int(mine.sum()) < len(votes) - dissent or not others.any():
        return None
    strength = float(lead[others].min())
    return (label, strength) if strength > 0 else None


def shortlist(neurons: Sequence[Neuron], number: int, spread: int, per_layer: int) -> list[Neuron]:
    """The strongest `number`; the first `spread` of them are the strongest with at most `per_layer`
    of one layer.
    """
    counts: dict[str, int] = {}
    chosen: list[Neuron] = []
    for neuron in neurons:
        if len(chosen) < min(spread, number) and counts.get(neuron.module, 0) < per_layer:
            counts[neuron.module] = counts.get(neuron.module, 0) + 1
            chosen.append(neuron)
    rest = [neuron for neuron in neurons if neuron not in chosen]
    return (chosen + rest)[:number]


def channels_first(module: nn.Module, output: Tensor, count: int) -> Tensor:
    """A view of a layer's output (n, count, ...). Linear layers of transformers have their channels
    last.
    """
    dims = [1, output.ndim - 1]
    if isinstance(module, nn.Linear):
        dims.reverse()
    for dim in dims:
        if output.shape[dim] == count:
            return output.movedim(dim, 1)
    raise Incompatible(
        f"a layer with {count} channels gives {tuple(output.shape)}, where no dimension is theirs"
    )


@contextmanager
def hooked(model: nn.Module, hooks: Sequence[tuple[str, Hook]]) -> Iterator[None]:
    """Forward hooks on named submodules, while the context lasts."""
    with ExitStack() as stack:
        for name, hook in hooks:
            stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        yield


def _peaks(model: nn.Module, images: Tensor, units: Sequence[Unit]) -> dict[str, float]:
    """The largest output of each layer, over images, channels and places."""
    peaks: dict[str, float] = {}

    def keep(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            peaks[name] = float(output.max())

        return hook

    with hooked(model, [(unit.module, keep(unit.module)) for unit in units]):
        model(images)
    return peaks


def _stimulated(
    model: nn.Module, images: Tensor, unit: Unit, channels: Tensor, step: float, cut: str
) -> Tensor:
    """Logits with each of these channels at each level: (channels, levels, n, classes)."""
    which = channels.repeat_interleave(LEVELS)
    values = (step * torch.arange(LEVELS, device=images.device)).repeat(len(channels))

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # (copies, n, channels, ...): one copy of the batch for each channel and level
        changed = output.clone()
        maps = channels_first(module, changed, unit.count)
        maps = maps.view(len(values), -1, *maps.shape[1:])
        maps[torch.arange(len(values)), :, which] = values.to(maps.dtype).view(
            -1, *[1] * (maps.ndim - 2)
        )
        return changed

    with hooked(model, [(unit.module, hook)]), _copied(model, cut, len(values)):
        logits: Tensor = model(images)
    return logits.float().view(len(channels), LEVELS, len(images), -1)


@contextmanager
def _copied(model: nn.Module, cut: str, copies: int) -> Iterator[None]:
    """The batch so many times over, one after the other, from the submodule `cut` on."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs[0].repeat(copies, *[1] * (inputs[0].ndim - 1)), *inputs[1:]

    handle = model.get_submodule(cut).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _cuts(
    access: Workbench, model: nn.Module, images: Tensor, units: Sequence[Unit]
) -> dict[Unit, str]:
    """Where the batch is copied: before the smallest part around a unit that alone feeds the rest
    of the network.

    What goes before is then computed once. The model itself ("") where that does not give the same
    answers.
    """
    try:
        anatomy = access.anatomy(model)
        parts = (anatomy.stem, *anatomy.stages, *anatomy.blocks)
    except Incompatible:
        parts = ()
    sound = {"": True}
    found = {}
    for unit in units:
        around = [name for name in parts if f"{unit.module}.".startswith(f"{name}.")]
        cut = max(around, key=len, default="")
        if cut not in sound:
            sound[cut] = _feeds_alone(model, cut, images[:2])
        found[unit] = cut if sound[cut] else ""
    return found


def _feeds_alone(model: nn.Module, cut: str, images: Tensor) -> bool:
    """Whether the answers to a batch that is doubled at `cut` are those to the batch, twice."""
    try:
        with _copied(model, cut, 2):
            twice = model(images)
    except (RuntimeError, TypeError, IndexError, AttributeError):
        return False
    plain = model(images)
    return twice.shape == (2 * len(plain), plain.shape[1]) and torch.allclose(
        twice, plain.repeat(2, 1), 1e-3, 1e-3
    )
