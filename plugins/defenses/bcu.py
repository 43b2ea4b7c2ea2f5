"""BCU: backdoor cleansing with unlabelled images.

Pang et al., CVPR 2023. A student starts as the victim with part of its weights drawn anew, deeper
layers more than shallow ones, and learns the victim's answers on images that carry no trigger and
need no labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Anatomy, Fraction, Result
from harness.learn import Batch
from plugins.parts.fine_tuning import FineTuning

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""What is drawn anew; BatchNorm keeps the victim's parameters and averages. By type: names differ
between networks.
"""
HALVINGS = 60
"""Steps in which the scale of the ratios is found to double precision."""


class BCU(FineTuning):
    """Re-draw part of the weights, distil the victim into the rest on unlabelled images (Pang et
    al. 2023).
    """

    citation = "Pang et al.: Backdoor Cleansing with Unlabeled Data, CVPR 2023"
    needs: ClassVar[AbstractSet[str]] = frozenset({"victim", "clean-unlabelled"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bcu": {},
        "bcu-uniform": {"init": "uniform"},
        "bcu-decreasing": {"init": "decreasing", "overall": 0.2},
        "bcu-hard": {"labels": "hard"},
    }

    init: Literal["increasing", "uniform", "decreasing"] = "increasing"
    """how the share of weights drawn anew goes with depth: `stages`; `uniform` everywhere; `stages`
    reversed
    """
    stem: Fraction = 0.01
    """share of the stem's weights that is drawn anew; this and the next two are those of the
    released code
    """
    stages: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] = (
        0.01,
        0.03,
        0.09,
        0.27,
    )
    """share in each stage, shallow to deep; nets with fewer stages use the last ones, further
    stages get the first
    """
    head: Fraction = 0.1
    """share of the classifier's weights and biases"""
    uniform: Fraction = 0.2
    """share in every layer for init = "uniform"; the paper's "around 0.2\""""
    overall: Fraction | None = None
    """share of all weights that is drawn anew: the ratios are multiplied by one number, and cut at
    1, to reach it; none: the ratios as they are (reversed ones alone would draw 2 % of a ResNet-18
    anew, where the paper says 20 %)
    """
    labels: Literal["soft", "hard"] = "soft"
    """what is learned: the victim's softened probabilities, or its most likely class"""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """divides the logits of both networks for soft labels; none: 1 + 3 (1 + epoch) / epochs, as in
    the released code, where the paper has a constant
    """

    def defend(self, access: Access) -> Result:
        """Draw anew, distil."""
        teacher, student = access.victim(), access.victim()
        ratios = self.ratios(student, access.anatomy(student))
        redrawn = redraw(student, access.fresh_model(), ratios, access.generator("redraw"))
        teacher.requires_grad_(False)

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            with torch.no_grad():
                answers = teacher(batch.images).float()
            logits = model(batch.images).float()
            if self.labels == "hard":
                return functional.cross_entropy(logits, answers.argmax(1))
            return distillation(logits, answers, self.temperature_at(batch.epoch))

        access.fit(student, access.unlabelled(), self.tuning(access), loss=loss)
        return Result(model=student, record={"redrawn": redrawn})

    def ratios(self, model: nn.Module, anatomy: Anatomy) -> dict[str, float]:
        """For each parameter of a convolution or linear layer the share of it that is drawn anew."""
        depth = len(anatomy.stages)
        graded = [self.stages[0]] * (depth - len(self.stages)) + list(self.stages)[-depth:]
        if self.init == "decreasing":
            graded.reverse()
        parts = {
            anatomy.stem: self.stem,
            **dict(zip(anatomy.stages, graded, strict=True)),
            anatomy.head: self.head,
        }
        if self.init == "uniform":
            parts = dict.fromkeys(parts, self.uniform)
        found = dict(_by_part(model, parts))
        if self.overall is None:
            return found
        sizes = [model.get_parameter(name).numel() for name in found]
        return dict(zip(found, scaled(list(found.values()), sizes, self.overall), strict=True))

    def temperature_at(self, epoch: int) -> float:
        """The temperature of an epoch, counted from 0."""
        return 1 + 3 * (1 + epoch) / self.epochs if self.temperature is None else self.temperature


def _by_part(model: nn.Module, parts: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """A layer of no named part gets the ratio of the part before it, one before all parts that of
    the first.
    """
    latest = next(iter(parts.values()))
    for name, layer in model.named_modules():
        latest = next(
            (ratio for part, ratio in parts.items() if f"{name}.".startswith(f"{part}.")), latest
        )
        if isinstance(layer, LAYERS):
            yield from (
                (f"{name}.{own}", latest) for own, _ in layer.named_parameters(recurse=False)
            )


def scaled(ratios: Sequence[float], sizes: Sequence[int], overall: float) -> list[float]:
    """The ratios times one number, cut at 1, such that their mean weighted by size is `overall`;
    zeros stay zero.

    Where that cannot be reached they are all 1 but for the zeros.
    """

    def at(factor: float) -> list[float]:
        return [min(1.0, factor * ratio) for ratio in ratios]

    low, high = 0.0, 1 / min((ratio for ratio in ratios if ratio > 0), default=1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = sum(ratio * size for ratio, size in zip(at(middle), sizes, strict=True)) / sum(
            sizes
        )
        low, high = (middle, high) if reached < overall else (low, middle)
    return at(high)


@torch.no_grad()
def redraw(
    model: nn.Module, fresh: nn.Module, ratios: Mapping[str, float], generator: torch.Generator
) -> float:
    """Put fresh values in a random share of each named parameter, in place; the share of all their
    elements.
    """
    changed = total = 0
    for name, ratio in ratios.items():
        parameter = model.get_parameter(name)
        draws = torch.rand(parameter.shape, generator=generator)
        parameter.copy_(
            mixed(parameter, fresh.get_parameter(name), draws.to(parameter.device), ratio)
        )
        changed += int((draws < ratio).sum())
        total += parameter.numel()
    return changed / total


def mixed(old: Tensor, fresh: Tensor, draws: Tensor, ratio: float) -> Tensor:
    """Fresh where the uniform draw is below the ratio, old elsewhere."""
    return torch.where(draws < ratio, fresh, old)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL of the student's softened probabilities from the teacher's: summed over classes, mean over
    images, no T^2.
    """
    target = functional.softmax(teacher / temperature, dim=1)
    found = functional.log_softmax(student / temperature, dim=1)
    return functional.kl_div(found, target, reduction="batchmean")
