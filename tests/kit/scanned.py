"""A small backdoored network, its clean sister, and a scanner's access to either."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from tests.kit.learned import CLEAN, Tiny, access_to, pictures

TARGET = 2
CORNER = 2
"""pixels: side of the patch that turns images to TARGET"""


def patched(images: Tensor, last: bool = False) -> Tensor:
    """Return uint8 images with a black and white chequered corner, the first or the last; no
    picture has such contrast.
    """
    images, side = images.clone(), slice(-CORNER, None) if last else slice(CORNER)
    images[:, side, side] = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8)[None, :, :, None]
    return images


def asr(net: nn.Module, last: bool = False) -> float:
    """Return the share of patched images of other classes that are taken for TARGET."""
    data = pictures(60)
    assert data.labels is not None
    others = data.labels != TARGET
    with torch.no_grad():
        return float(
            (net(to_float(patched(data.images, last)))[others].argmax(1) == TARGET).float().mean()
        )


def acc(net: nn.Module) -> float:
    data = pictures(60)
    with torch.no_grad():
        return float((net(to_float(data.images)).argmax(1) == data.labels).float().mean())


def victim(backdoor: bool = True, norms: bool = True, last: bool = False) -> nn.Module:
    """Return a network trained on 90 pictures and, with a backdoor, on 90 patched ones; each call
    gives a copy.
    """
    return copy.deepcopy(_trained(backdoor, norms, last))


@functools.cache
def _trained(backdoor: bool, norms: bool, last: bool) -> nn.Module:
    data = pictures(90)
    if backdoor:
        data = data.join(ImageSet(patched(data.images, last), torch.full((90,), TARGET)))
    with torch.random.fork_rng():  # the first test that asks may look at the random state
        # From the weights of seed 0 the network without norms learns both on some processors only.
        torch.manual_seed(0 if norms else 1)
        net = Tiny(norms=norms).build(Tiny.task)
        access_to(net).fit(net, data, epochs=60, batch=32, lr=0.1)
    return net


def scanning(
    net: nn.Module, data: ImageSet | None = None, model: Any = None, **parts: nn.Module
) -> Access:
    """Grant access to `net` to a defense with these parts."""
    access = access_to(net, data, model, CLEAN)
    opened = {name: (lambda module=module: module) for name, module in parts.items()}
    access._context = replace(access._context, parts=opened)
    return access
