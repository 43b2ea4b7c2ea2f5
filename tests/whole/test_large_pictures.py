"""Networks are asked about few large pictures at a time: on CPUs, memory goes with pixels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness import Access
from harness.learn import ImageSet, resize, stamp
from plugins.defenses.abl import image_losses
from plugins.defenses.fine_pruning import responses
from plugins.metrics.nc1 import answers
from tests.kit.learned import Tiny, access_to

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 320
FEW = 10
"""As many pictures of this size have the pixels of 1,000 of 32 x 32."""


def of_fine_pruning(access: Access, model: nn.Module, data: ImageSet) -> Tensor:
    return responses(access, model, "pool", data)


def of_abl(access: Access, model: nn.Module, data: ImageSet) -> Tensor:
    return image_losses(access, model, data)


def of_nc1(access: Access, model: nn.Module, data: ImageSet) -> Tensor:
    features, _ = answers(access, model, data)
    return features


@pytest.mark.parametrize("ask", [of_fine_pruning, of_abl, of_nc1])
def test_loops_over_a_set_take_few_large_pictures_together(
    ask: Callable[[Access, nn.Module, ImageSet], Tensor],
) -> None:
    data = drawn(FEW + 2)
    torch.manual_seed(0)
    model = Tiny().build(Tiny.task).eval()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    found = ask(access_to(model), model, data)
    assert sizes == [FEW, 2]
    halves = [ask(access_to(model), model, data.subset(torch.arange(6) + 6 * i)) for i in (0, 1)]
    assert torch.equal(found, torch.cat(halves))


def drawn(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, SIDE, SIDE, 1), generator=generator)
    return ImageSet(images.to(torch.uint8), torch.arange(count) % 3)


def test_a_trigger_is_given_few_large_pictures_at_a_time() -> None:
    sizes = []

    class Darker(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return images / 2

    images = drawn(FEW + 2).images
    assert torch.equal(stamp(Darker(), images), images // 2)
    assert sizes == [FEW, 2]


def test_large_pictures_are_resized_as_each_alone() -> None:
    images = drawn(FEW + 2).images
    together = resize(images, 48, 40, 3)
    apart = torch.cat([resize(image[None], 48, 40, 3) for image in images])
    assert torch.equal(together, apart)
