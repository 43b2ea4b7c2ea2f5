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
"""parts that an anatomy is looked for in, where the net has as many: stem, three stages, head"""
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
    """One module's turn in a forward pass."""

    name: str
    """of the module"""
    module: nn.Module
    given: Tensor | None
    """copy of a linear layer's input; None where it was not kept"""
    size: tuple[int, ...] | None
    """height and width of the maps that came in; None where no maps did"""
    output: Tensor | None
    """copy of what came out; None where it is no tensor or was not kept"""


@torch.no_grad()
def steps(net: nn.Module, shape: Sequence[int], keep: bool = False) -> list[Step]:
    """Return what runs, in its order, on two images of `shape` in evaluation mode.

    The net and the random state are left as found. Tensors are kept only where `keep` asks for
    them, the final ones always.
    """
    names = {module: name for name, module in net.named_modules()}
    run: list[Step] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # Copies, since activations may be changed in place afterwards.
        kept = None
        if isinstance(output, Tensor) and (keep or module is net):
            kept = output.clone()
        given = None
        size = None
        if inputs and isinstance(inputs[0], Tensor):
            if keep and isinstance(module, nn.Linear):
                given = inputs[0].clone()
            if inputs[0].dim() == 4:
                size = tuple(inputs[0].shape[2:])
        run.append(Step(names[module], module, given, size, kept))

    weight = next(net.parameters())
    count = 2 * shape[0] * shape[1] * shape[2]
    values = torch.linspace(0, 1, count, device=weight.device, dtype=weight.dtype)
    images = values.sin().abs().view(2, *shape)
    handles = [module.register_forward_hook(hook) for module in names]
    try:
        with _evaluating(net), torch.random.fork_rng(devices=[]):
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return run


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
    """Let a net take images of `channels`, and shrink them less in its first layers, in place.

    `shape` is one of images that the net takes as it is. On their way, the first strided
    convolutions and poolings get smaller strides, until a `reduction` (1, 2 or 4) of height and
    width is taken; a convolution whose kernel is its stride (patches) gets smaller patches, a
    pooling of stride 1 disappears. Raises Incompatible where it does not take such images, and for
    another number of channels where no convolution comes first.
    """
    run = _passed(net, shape, "the net")
    if channels != shape[0]:
        _widen(net, run, channels)
    strides = (2, 4, 8, 16, 32)
    strided = [step for step in run if step.size and _stride(step.module) in strides]
    while reduction > 1 and strided:
        # Layers that meet maps of one size are on parallel paths, such as a shortcut.
        size = strided[0].size
        stride = _stride(strided[0].module)
        taken = min(reduction, stride)
        # A list, since the stride of a layer that a step stands for may change on the way.
        parallel = [s for s in strided if s.size == size and _stride(s.module) == stride]
        for step in parallel:
            layer = net.get_submodule(step.name)
            _replace(net, step.name, _slowed(layer, stride // taken))
        strided = [step for step in strided if step.size != size]
        reduction //= taken


def _widen(net: nn.Module, run: Sequence[Step], channels: int) -> None:
    """Let the first convolution take images of so many channels."""
    for step in run:
        if isinstance(step.module, nn.Conv2d):
            _replace(net, step.name, _convolution_like(step.module, in_channels=channels))
            return
    raise Incompatible(
        "no convolution comes first, so the number of input channels cannot be changed"
    )


def _stride(module: nn.Module) -> int:
    """Return the stride of a convolution or pooling; of other layers 1."""
    if not isinstance(module, (nn.Conv2d, *POOLS)):
        return 1
    if isinstance(module.stride, int):
        return module.stride
    return int(module.stride[0])


def _slowed(module: nn.Module, stride: int) -> nn.Module:
    """Return a convolution or pooling with another stride, changed in place if it can be."""
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
    """Make a fresh convolution with the settings of another, some of them changed."""
    settings: dict[str, Any] = {
        "in_channels": old.in_channels,
        "out_channels": old.out_channels,
        "kernel_size": old.kernel_size,
        "stride": old.stride,
        "padding": old.padding,
        "dilation": old.dilation,
        "groups": old.groups,
        "padding_mode": old.padding_mode,
        "bias": old.bias is not None,
    }
    settings.update(changed)
    new = nn.Conv2d(**settings)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)


# --- anatomy --------------------------------------------------------------------------------------


def anatomy(fitted: nn.Module) -> Anatomy:
    """Find the parts of a `Fitted` by watching a forward pass.

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
    turns: dict[str, Step] = {}
    features: str | None = None
    for step in run[: run.index(head)]:
        if step.name.startswith("net.") and step.output is not None:
            turns[step.name] = step
            if features is None and _same(step.output, head.given):
                features = step.name
    if features is None:
        raise Incompatible("no module of the net gives what its last layer takes")

    parts = [name for name in _parts(fitted.net, turns) if name != head.name]
    after_stem = parts[1:]
    maps = [name for name in after_stem if _is_map(turns[name].output)]
    stages = tuple(maps or after_stem)
    if not stages:
        raise Incompatible("the net has no parts between its first layer and its last")
    modules = {name: fitted.get_submodule(name) for name in stages}
    return Anatomy(parts[0], stages, features, head.name, blocks_of(modules))


def _head(run: list[Step]) -> Step:
    """Return the turn of the linear layer whose output the net returns."""
    logits = run[-1].output
    linear = None
    for step in run:
        if isinstance(step.module, nn.Linear) and step.output is not None:
            linear = step
    if logits is None or linear is None or not _same(linear.output, logits):
        raise Incompatible("the net's last layer is not linear, which an anatomy needs")
    return linear


def _same(output: Tensor | None, other: Tensor | None) -> bool:
    """Tell whether two tensors hold the same values, whatever their shapes."""
    if output is None or other is None:
        return False
    return output.numel() == other.numel() and torch.equal(output.flatten(), other.flatten())


def _is_map(output: Tensor | None) -> bool:
    return output is not None and output.dim() == 4


def _parts(net: nn.Module, turns: dict[str, Step]) -> list[str]:
    """Return the names of the parts that hold weights, in the order of their turns."""
    parts = _weighty("net", net)
    while len(parts) < ENOUGH:
        apart: dict[str, nn.Module] = {}
        for name, module in parts.items():
            inner = _weighty(name, module)
            if inner:
                apart.update(inner)
            else:
                apart[name] = module
        if apart.keys() == parts.keys():
            break
        parts = apart
    return [name for name in turns if name in parts]


def _weighty(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """Return the children that hold matrices or kernels: no normalisation, no activation."""
    weighty = {}
    for child, part in module.named_children():
        if any(weight.dim() > 1 for weight in part.parameters()):
            weighty[f"{name}.{child}"] = part
    return weighty


def with_features(net: nn.Module, shape: Sequence[int]) -> None:
    """Put an identity before the head, in place, where no module gives what the head takes.

    A function gives it there.
    """
    run = steps(net, shape, keep=True)
    try:
        head = _head(run)
    except Incompatible:
        return
    before = run[: run.index(head)]
    if not any(_same(step.output, head.given) for step in before):
        parts = OrderedDict(features=nn.Identity(), linear=head.module)
        _replace(net, head.name, nn.Sequential(parts))


def entrance_of(layers: dict[str, nn.Module]) -> nn.Module:
    """Return the layers before the net as one module."""
    for layer in layers.values():
        return layer
    return nn.Identity()


def checked(net: nn.Module, task: Task, name: str) -> None:
    """Raise Incompatible unless the net maps the task's images to (n, classes) logits."""
    output = _passed(net, task.image_shape, name)[-1].output
    expected = (2, task.classes)
    if output is None or output.shape != expected:
        shape = "no tensor" if output is None else tuple(output.shape)
        raise Incompatible(
            f"{name} gives {shape} for two images, where a shape of {expected} is expected"
        )


def _passed(net: nn.Module, shape: Sequence[int], name: str) -> list[Step]:
    """Return the steps of a pass.

    Raises Incompatible where the net takes no images of that (channels, height, width).
    """
    try:
        return steps(net, shape)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise Incompatible(
            f"{name} takes no images of {shape[1]} x {shape[2]} pixels: {reason}"
        ) from error
