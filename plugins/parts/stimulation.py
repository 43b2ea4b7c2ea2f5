"""Artificial brain stimulation: which single neurons turn images to one label when they are driven?

Liu et al., CCS 2019 (ABS). A neuron is a channel; stimulating it means putting one value in all its
places. Each image votes for the label whose logit rises most, by how much more it rises than any
other.

In a residual network the channels are those of its blocks' sums, as in the released code, and not
those of the layers within blocks; the neurons of hidden linear layers come on top in any network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness import Incompatible, Unit, Workbench
from plugins.parts.counting import FORWARD

LEVELS = 5
"""Number of values that a neuron is set to, from 0 on, in equal steps."""
REACH = 8.0
"""A step is REACH / LEVELS times the layer's largest output."""

ADDITIONS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
RECTIFIERS = frozenset({"relu", "relu_"})
"""Functions of torch, by name, by which a block makes its sum and rectifies it."""

Hook = Callable[[nn.Module, Any, Tensor], Tensor | None]


@dataclass(frozen=True)
class Candidate:
    """A neuron that may be compromised."""

    module: str
    """its layer"""
    channel: int
    of: int
    """channels of the layer"""
    label: int
    """that it turns images to"""
    score: float
    """by how many logits it does"""


@torch.no_grad()
def elevated(
    access: Workbench, model: nn.Module, images: Tensor, labels: Tensor, dissent: int, at_once: int
) -> list[Candidate]:
    """Find all neurons that turn all images but `dissent` to one label, the strongest first.

    `images`: [0,1] floats (n, c, h, w), `labels` (n,) their true ones, both on the model's device.
    About `at_once` images go through the network together.
    """
    units = neurons_of(access, model, images)
    peaks = _peaks(model, images, units)
    cuts = _cuts(access, model, images, units)
    true_labels = labels.cpu()
    together = max(1, at_once // (LEVELS * len(images)))
    pieces: list[tuple[Unit, Tensor]] = []
    for unit in units:
        for channels in torch.split(torch.arange(unit.count), together):
            pieces.append((unit, channels))
    raised: list[tuple[str, int, int, int, float]] = []
    for number in access.steps(len(pieces), keep={"raised": raised}):
        unit, channels = pieces[number]
        step = peaks[unit.module] * REACH / LEVELS
        logits = _stimulated(model, images, unit, channels, step, cuts[unit]).cpu()
        access.tick(len(channels) * LEVELS * len(images) // FORWARD)
        for place, channel in enumerate(channels.tolist()):
            vote = election(logits[place], true_labels, dissent)
            if vote is not None:
                raised.append((unit.module, channel, unit.count, *vote))
    candidates = [Candidate(*each) for each in raised]
    return sorted(candidates, key=lambda candidate: -candidate.score)


class Sums(TorchFunctionMode):
    """While it lasts, remembers the last sum that a network made, and what was rectified of it."""

    def __init__(self) -> None:
        super().__init__()
        self._sum: Tensor | None = None
        self._rectified: Tensor | None = None
        self._before: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, and look at what it gives if it adds or rectifies."""
        name = getattr(func, "__name__", "")
        rectifies = name in RECTIFIERS and bool(args) and args[0] is self._sum
        if rectifies:
            self._before = args[0].clone()  # for it may be rectified in place
        result = func(*args, **(kwargs or {}))
        if rectifies:
            self._rectified = result
        elif name in ADDITIONS:
            self._sum = result
            self._rectified = None
        return result

    def of(self, output: Tensor) -> Tensor | None:
        """Return the sum that this output is, or is rectified from; None where it is neither.

        Only the last sum is known: ask in the hook of the module that ends with it.
        """
        if output is self._rectified:
            return self._before
        if output is self._sum:
            return output
        return None


def neurons_of(access: Workbench, model: nn.Module, images: Tensor) -> list[Unit]:
    """Return the layers whose channels are stimulated, in the order of the network.

    They are its blocks where these end in sums, else its prunable units; and hidden linear layers.
    """
    units = _sums_of(model, images[:2]) or list(access.units(model))
    known = {unit.module for unit in units}
    hidden = [unit for unit in _hidden(model) if unit.module not in known]
    return units + hidden


def _sums_of(model: nn.Module, images: Tensor) -> list[Unit]:
    """Return the modules whose output is a sum of maps, rectified or not: the smallest of each."""
    found: dict[int, Unit] = {}
    kept: list[Tensor] = []  # so that no other tensor takes the identity of one that is gone
    sums = Sums()

    def watch(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, nn.ReLU) or not isinstance(output, Tensor):
                return  # it is the block around a rectifier that sums
            if output.ndim == 4 and sums.of(output) is not None:
                kept.append(output)
                found.setdefault(id(output), Unit(name, output.shape[1]))

        return hook

    names = [name for name, _ in model.named_modules() if name]
    with sums, hooked(model, [(name, watch(name)) for name in names]):
        model(images)
    return list(found.values())


def _hidden(model: nn.Module) -> list[Unit]:
    """Return the linear layers but the last, and but those whose channels a BatchNorm has next."""
    leaves = []
    for name, module in model.named_modules():
        if not list(module.children()):
            leaves.append((name, module))
    linear = [place for place, (_, leaf) in enumerate(leaves) if isinstance(leaf, nn.Linear)]
    units = []
    for place in linear[:-1]:
        name, layer = leaves[place]
        count = cast(nn.Linear, layer).out_features
        following = leaves[place + 1][1]
        if getattr(following, "num_features", None) != count:
            units.append(Unit(name, count))
    return units


def election(logits: Tensor, labels: Tensor, dissent: int) -> tuple[int, float] | None:
    """Return the label that a neuron turns images to and how strongly; None where it does not.

    `logits` (levels, n, classes), the first level that of a silent neuron. Strength is that of the
    weakest vote among images of other classes.
    """
    rise = logits[1:].amax(0) - logits[0]
    top = rise.topk(2, dim=1)
    votes = top.indices[:, 0]
    lead = top.values[:, 0] - top.values[:, 1]
    counts = votes.bincount(minlength=rise.shape[1])
    label = int(counts.argmax())
    agreeing = votes == label
    turned = agreeing & (labels != label)
    if int(agreeing.sum()) < len(votes) - dissent or not turned.any():
        return None
    strength = float(lead[turned].min())
    if strength <= 0:
        return None
    return label, strength


def shortlist(
    candidates: Sequence[Candidate], number: int, spread: int, per_layer: int
) -> list[Candidate]:
    """Return the strongest `number` of candidates.

    The first `spread` of them are the strongest with at most `per_layer` of one layer.
    """
    counts: Counter[str] = Counter()
    chosen: list[Candidate] = []
    rest: list[Candidate] = []
    for candidate in candidates:
        room = len(chosen) < min(spread, number)
        if room and counts[candidate.module] < per_layer:
            counts[candidate.module] += 1
            chosen.append(candidate)
        else:
            rest.append(candidate)
    return (chosen + rest)[:number]


def channels_first(module: nn.Module, output: Tensor, count: int) -> Tensor:
    """Return a view of a layer's output, (n, count, ...).

    Linear layers of transformers have their channels last.
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
    """Put forward hooks on named submodules, while the context lasts."""
    with ExitStack() as stack:
        for name, hook in hooks:
            module = model.get_submodule(name)
            handle = module.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


def _peaks(model: nn.Module, images: Tensor, units: Sequence[Unit]) -> dict[str, float]:
    """Measure the largest output of each layer, over images, channels and places."""
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
    """Compute logits with each of these channels at each level: (channels, levels, n, classes)."""
    stimulated = channels.repeat_interleave(LEVELS)
    levels = step * torch.arange(LEVELS, device=images.device)
    values = levels.repeat(len(channels))
    copies = len(values)  # of the batch, one for each channel and level

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        maps = channels_first(module, changed, unit.count)
        maps = maps.view(copies, -1, *maps.shape[1:])  # (copies, n, channels, ...)
        images_and_places = [1] * (maps.ndim - 2)
        spread = values.to(maps.dtype).view(-1, *images_and_places)
        maps[torch.arange(copies), :, stimulated] = spread
        return changed

    with hooked(model, [(unit.module, hook)]), _copied(model, cut, copies):
        logits: Tensor = model(images)
    return logits.float().view(len(channels), LEVELS, len(images), -1)


@contextmanager
def _copied(model: nn.Module, cut: str, copies: int) -> Iterator[None]:
    """Repeat the batch so many times, one after the other, from the submodule `cut` on."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        batch = inputs[0]
        once = [1] * (batch.ndim - 1)
        repeated = batch.repeat(copies, *once)
        return repeated, *inputs[1:]

    module = model.get_submodule(cut)
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _cuts(
    access: Workbench, model: nn.Module, images: Tensor, units: Sequence[Unit]
) -> dict[Unit, str]:
    """Choose the submodule before which the batch is copied, for each unit.

    That is the smallest part around the unit that alone feeds the rest of the network, so that all
    before it is computed once. It is the model itself ("") where that does not give the same
    answers.
    """
    try:
        anatomy = access.anatomy(model)
        parts = (anatomy.stem, *anatomy.stages, *anatomy.blocks)
    except Incompatible:
        parts = ()
    sound = {"": True}
    cuts: dict[Unit, str] = {}
    for unit in units:
        cut = ""
        for part in parts:
            around = f"{unit.module}.".startswith(f"{part}.")
            if around and len(part) > len(cut):
                cut = part
        if cut not in sound:
            sound[cut] = _feeds_alone(model, cut, images[:2])
        cuts[unit] = cut if sound[cut] else ""
    return cuts


def _feeds_alone(model: nn.Module, cut: str, images: Tensor) -> bool:
    """Tell whether a batch that is doubled at `cut` gets the answers to the batch, twice."""
    try:
        with _copied(model, cut, 2):
            doubled = model(images)
    except (RuntimeError, TypeError, IndexError, AttributeError):
        return False
    plain = model(images)
    if doubled.shape != (2 * len(plain), plain.shape[1]):
        return False
    return torch.allclose(doubled, plain.repeat(2, 1), 1e-3, 1e-3)
