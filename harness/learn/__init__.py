"""Images, training, poisoning and evaluation: the front door to all that works with torch.

`from harness.learn import ImageSet, to_float`. Names are resolved on first use; `recipes`, which is
pure settings, can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.doors import DOORS, resolve

if TYPE_CHECKING:
    from harness.learn.augmentation import augment as augment
    from harness.learn.device import device_of as device_of
    from harness.learn.device import evaluating as evaluating
    from harness.learn.device import global_random as global_random
    from harness.learn.device import kernels as kernels
    from harness.learn.device import probe_precision as probe_precision
    from harness.learn.device import sent as sent
    from harness.learn.evaluation import predict as predict
    from harness.learn.evaluation import together as together
    from harness.learn.hooks import Batch as Batch
    from harness.learn.hooks import Extra as Extra
    from harness.learn.hooks import FitSettings as FitSettings
    from harness.learn.hooks import Hooks as Hooks
    from harness.learn.images import LUMA as LUMA
    from harness.learn.images import ImageSet as ImageSet
    from harness.learn.images import resize as resize
    from harness.learn.images import to_float as to_float
    from harness.learn.images import to_uint8 as to_uint8
    from harness.learn.layers import NORMS as NORMS
    from harness.learn.layers import Normalise as Normalise
    from harness.learn.poisoning import PoisonedSet as PoisonedSet
    from harness.learn.poisoning import poison_with_cover as poison_with_cover
    from harness.learn.poisoning import stamp as stamp
    from harness.learn.poisoning import stamping_hook as stamping_hook
    from harness.learn.training import Diverged as Diverged
    from harness.learn.training import History as History

__all__ = [*DOORS[__name__]]


def __getattr__(name: str) -> Any:
    return resolve(__name__, name, globals())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
