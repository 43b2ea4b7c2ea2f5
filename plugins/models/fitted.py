"""Fitting a classifier of another library to a task, and finding its parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness import Anatomy, Incompatible, Task
from plugins.models.normalised import blocks_of

ENOUGH = 5
"""parts that an anatomy is looked for in: a stem, three stages and a head at least, where the net
has as many
"""
POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class Fitted(nn.Module):
    """`net` on images of `shape` (channels, height, width), which its `entrance` normalises."""

    def __init__(self, entrance: nn.Module, net: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.entrance = entrance
        self.net = net
        self.shape = tuple(shape)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, classes)."""
        return cast(Tensor, self.net(self.entrance(images)))


@dataclass(frozen=True)
class Step:
    """One module's turn in a forward pass, with its name.

    `given` is a copy of a linear layer's input, `output` of what came out; None where it is no
    tensor or was not kept. `size` is the height and width of the maps that came in.
    """

    name: str
    module: nn.Module
    given: Tensor | None
    size: tuple[int, ...] | None
    output: Tensor | None


@torch.no_grad()
def steps(net: nn.Module, shape: Sequence[int], keep: bool = False) -> list[Step]:
    """What runs in which order on two images of `shape`, in eval mode; the net and the random state
    are as before.

    Tensors are kept only where that is asked for, the final ones always.
    """
    names = {module: name for name, module in net.named_modules()}
    seen: list[Step] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # Copies, since activations may be changed in place afterwards.
        kept = output.clone() if isinstance(output, Tensor) and (keep or module is net) else None
        given = inputs[0].clone() if keep and isinstance(module, nn.Linear) and inputs else None
        size = (
            tuple(inputs[0].shape[2:])
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() == 4
            else None
        )
        seen.append(Step(names[module], module, given, size, kept))

    one = next(net.parameters())
    images = torch.linspace(
        0, 1, 2 * shape[0] * shape[1] * shape[2], device=one.device, dtype=one.dtype
    )
    handles = [module.register_forward_hook(hook) for module in names]
    try:
        with _evaluating(net), torch.random.fork_rng(devices=[]):
            net(images.sin().abs().view(2, *shape))
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


# --- fitting --------------------------------------------------------------------------------------


def fit(net: nn.Module, shape: Sequence[int], channels: int, reduction: int) -> None:
    """Let a net take images of `channels`, and take a `reduction` of height and width off its first
    layers, in place.

    `shape` is one of images that the net takes as it is. On their way, the first strided
    convolutions and poolings get smaller strides, until `reduction` (1, 2 or 4) is taken; a
    convolution whose kernel is its stride (patches) gets smaller patches, a pooling of stride 1
    disappears. Raises Incompatible where it does not take such images, and for another number of
    channels where no convolution comes first.
    """
    run = _passed(net, shape, "the net")
    if channels != shape[0]:
        first = next((step for step in run if isinstance(step.module, nn.Conv2d)), None)
        if first is None:
            raise Incompatible(
                "no convolution comes first, so the number of input channels cannot be changed"
            )
        assert isinstance(first.module, nn.Conv2d)
        _replace(net, first.name, _convolution_like(first.module, in_channels=channels))
    strided = [step for step in run if step.size and _stride(step.module) in (2, 4, 8, 16, 32)]
    while reduction > 1 and strided:
        # Layers that meet maps of one size are on parallel paths, such as a shortcut.
        size, stride = strided[0].size, _stride(strided[0].module)
        taken = min(reduction, stride)
        for step in [
            step for step in strided if step.size == size and _stride(step.module) == stride
        ]:
            _replace(net, step.name, _slowed(net.get_submodule(step.name), stride // taken))
        strided = [step for step in strided if step.size != size]
        reduction //= taken


def _stride(module: nn.Module) -> int:
    if not isinstance(module, (nn.Conv2d, *POOLS)):
        return 1
    return module.stride if isinstance(module.stride, int) else int(module.stride[0])


def _slowed(module: nn.Module, stride: int) -> nn.Module:
    if not isinstance(module, nn.Conv2d):
        if stride == 1:
            return nn.Identity()
        pool: Any = module
        pool.stride = stride
        return module
    if module.kernel_size == module.stride:  # patches that do not overlap
        return _convolution_like(module, kernel_size=(stride, stride), stride=(stride, stride))
    module.stride = (stride, stride)
    return module


def _convolution_like(old: nn.Conv2d, **changed: Any) -> nn.Conv2d:
    """A fresh convolution with the settings of another, some of them changed."""
    settings = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )
    kept = {name: getattr(old, name) for name in settings}
    new = nn.Conv2d(**{**kept, **changed}, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)


# --- anatomy --------------------------------------------------------------------------------------


def anatomy(fitted: nn.Module) -> Anatomy:
    """The parts of a `Fitted`, found by watching a forward pass.

    The head is the linear layer whose output the net returns, the features are the first module
    whose output is the head's input. Stem and stages are the net's parts that hold weights, in
    order: its children, with containers taken apart while there are fewer than ENOUGH. Of a net
    with feature maps, only parts that give maps are stages. Raises Incompatible for a net whose
    last layer is not linear.
    """
    if not isinstance(fitted, Fitted):
        raise Incompatible(f"{type(fitted).__name__} is not as its model built it")
    run = steps(fitted, fitted.shape, keep=True)
    head = _head(run)
    before = [
        step
        for step in run[: run.index(head)]
        if step.name.startswith("net.") and step.output is not None
    ]
    features = next((step for step in before if _same(step.output, head.given)), None)
    if features is None:
        raise Incompatible("no module of the net gives what its last layer takes")
    turns = {step.name: step for step in before}
    parts = [name for name in _parts(fitted.net, turns) if name != head.name]
    maps = [name for name in parts[1:] if _is_map(turns[name].output)]
    stages = tuple(maps or parts[1:])
    if not stages:
        raise Incompatible("the net has no parts between its first layer and its last")
    modules = {name: fitted.get_submodule(name) for name in stages}
    return Anatomy(parts[0], stages, features.name, head.name, blocks_of(modules))


def _head(run: list[Step]) -> Step:
    logits = run[-1].output
    found = [step for step in run if isinstance(step.module, nn.Linear) and step.output is not None]
    if logits is None or not found or not _same(found[-1].output, logits):
        raise Incompatible("the net's last layer is not linear, which an anatomy needs")
    return found[-1]


def _same(output: Tensor | None, wanted: Tensor | None) -> bool:
    if output is None or wanted is None:
        return False
    return output.numel() == wanted.numel() and torch.equal(output.flatten(), wanted.flatten())


def _is_map(output: Tensor | None) -> bool:
    return output is not None and output.dim() == 4


def _parts(net: nn.Module, turns: dict[str, Step]) -> list[str]:
    """Names of the parts that hold weights, in the order of their turns."""
    parts = _weighty("net", net)
    while len(parts) < ENOUGH:
        apart = [
            inner
            for name, module in parts.items()
            for inner in (_weighty(name, module) or {name: module}).items()
        ]
        if dict(apart).keys() == parts.keys():
            break
        parts = dict(apart)
    order = list(turns)
    return sorted((name for name in parts if name in turns), key=order.index)


def _weighty(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """The children that hold matrices or kernels: no normalisation, no activation."""
    children = ((f"{name}.{child}", part) for child, part in module.named_children())
    return {
        full: part
        for full, part in children
        if any(weight.dim() > 1 for weight in part.parameters())
    }


def with_features(net: nn.Module, shape: Sequence[int]) -> None:
    """Where a function, and no module, gives what the head takes, let an identity before the head
    give it, in place.
    """
    run = steps(net, shape, keep=True)
    try:
        head = _head(run)
    except Incompatible:
        return
    if not any(_same(step.output, head.given) for step in run[: run.index(head)]):
        _replace(
            net, head.name, nn.Sequential(OrderedDict(features=nn.Identity(), linear=head.module))
        )


def entrance_of(layers: dict[str, nn.Module]) -> nn.Module:
    """The layers before the net as one module."""
    return next(iter(layers.values()), nn.Identity())


def checked(net: nn.Module, task: Task, name: str) -> None:
    """Raise Incompatible where the net does not take the task's images, or gives no (n, classes)
    logits.
    """
    output = _passed(net, task.image_shape, name)[-1].output
    if output is None or output.shape != (2, task.classes):
        shape = "no tensor" if output is None else tuple(output.shape)
        raise Incompatible(
            f"{name} gives {shape} for two images, where {(2, task.classes)} is wanted"
        )


def _passed(net: nn.Module, shape: Sequence[int], name: str) -> list[Step]:
    """The steps of a pass. Raises Incompatible where the net takes no images of that (channels,
    height, width).
    """
    try:
        return steps(net, shape)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        size = f"{shape[1]} x {shape[2]}"
        raise Incompatible(
            f"{name} takes no images of {size} pixels: {' '.join(str(error).split())}"
        ) from error
