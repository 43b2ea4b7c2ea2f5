"""BCU: backdoor cleansing with unlabelled images.

Pang et al., CVPR 2023. A student starts as the victim with part of its weights drawn anew, deeper
layers more than shallow ones, and learns the victim's answers on images that carry no trigger and
need no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Anatomy, Fraction, Result
from harness.learn import Batch
from plugins.parts.fine_tuning import FineTuning
from plugins.parts.ranges import Positive

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose weights are drawn anew, by type, since names differ between networks. BatchNorm
keeps the victim's parameters and averages.
"""
HALVINGS = 60
"""Steps in which the scale of the ratios is found to double precision."""


class BCU(FineTuning):
    """Draw part of the weights anew, distil the victim on unlabelled images (Pang et al. 2023)."""

    citation = "Pang et al.: Backdoor Cleansing with Unlabeled Data, CVPR 2023"
    needs = frozenset({"victim", "clean-unlabelled"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bcu": {},
        "bcu-uniform": {"init": "uniform"},
        "bcu-decreasing": {"init": "decreasing", "overall": 0.2},
        "bcu-hard": {"labels": "hard"},
    }

    init: Literal["increasing", "uniform", "decreasing"] = "increasing"
    """share of weights drawn anew by depth: that of `stages`; `uniform` everywhere; `stages`
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
    """share of all weights that is drawn anew: the ratios are multiplied by a common number, and
    cut at 1, to reach it; none: the ratios as they are (reversed ones alone would draw 2 % of a
    ResNet-18 anew, where the paper says 20 %)
    """
    labels: Literal["soft", "hard"] = "soft"
    """lesson of the student: the victim's softened probabilities, or its most likely class"""
    temperature: Positive | None = None
    """divisor of both networks' logits for soft labels; none: 1 + 3 (1 + epoch) / epochs, as in
    the released code, where the paper has a constant
    """

    def unused(self) -> Mapping[str, str]:
        """Name the shares of the other way to draw anew, and the temperature of soft labels."""
        unused = dict(super().unused())
        idle = ("stem", "stages", "head") if self.init == "uniform" else ("uniform",)
        unused.update(dict.fromkeys(idle, f'init = "{self.init}"'))
        if self.labels == "hard":
            unused["temperature"] = 'labels = "hard"'
        return unused

    def defend(self, access: Access) -> Result:
        """Draw anew, then distil."""
        teacher = access.victim()
        student = access.victim()
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
        """Return the share that is drawn anew of each convolution's or linear layer's parameter."""
        depth = len(anatomy.stages)
        missing = depth - len(self.stages)
        graded = list(self.stages[-depth:])
        if missing > 0:
            graded = [self.stages[0]] * missing + graded
        if self.init == "decreasing":
            graded.reverse()

        by_part = {anatomy.stem: self.stem}
        by_part.update(zip(anatomy.stages, graded, strict=True))
        by_part[anatomy.head] = self.head
        if self.init == "uniform":
            by_part = dict.fromkeys(by_part, self.uniform)

        ratios = _by_parameter(model, by_part)
        if self.overall is None:
            return ratios
        sizes = [model.get_parameter(name).numel() for name in ratios]
        reached = scaled(list(ratios.values()), sizes, self.overall)
        return dict(zip(ratios, reached, strict=True))

    def temperature_at(self, epoch: int) -> float:
        """Return the temperature of an epoch, counted from 0."""
        if self.temperature is not None:
            return self.temperature
        return 1 + 3 * (1 + epoch) / self.epochs


def _by_parameter(model: nn.Module, parts: Mapping[str, float]) -> dict[str, float]:
    """Return the ratio of each parameter in LAYERS, given those of the parts.

    A layer of no named part gets the ratio of the part before it, a layer before all parts that of
    the first part.
    """
    latest = next(iter(parts.values()))
    ratios = {}
    for name, layer in model.named_modules():
        for part, ratio in parts.items():
            if f"{name}.".startswith(f"{part}."):
                latest = ratio
                break
        if isinstance(layer, LAYERS):
            for own, _ in layer.named_parameters(recurse=False):
                ratios[f"{name}.{own}"] = latest
    return ratios


def scaled(ratios: Sequence[float], sizes: Sequence[int], overall: float) -> list[float]:
    """Multiply the ratios by a number such that their mean, weighted by size, is `overall`.

    They are cut at 1, and zeros stay zero. Where the mean cannot be reached, all but the
    zeros are 1.
    """

    def at(factor: float) -> list[float]:
        return [min(1.0, factor * ratio) for ratio in ratios]

    positive = [ratio for ratio in ratios if ratio > 0]
    low = 0.0
    high = 1 / min(positive, default=1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        drawn = [ratio * size for ratio, size in zip(at(middle), sizes, strict=True)]
        reached = sum(drawn) / sum(sizes)
        if reached < overall:
            low = middle
        else:
            high = middle
    return at(high)


@torch.no_grad()
def redraw(
    model: nn.Module, fresh: nn.Module, ratios: Mapping[str, float], generator: torch.Generator
) -> float:
    """Put fresh values in a random share of each named parameter, in place.

    Return the share of all their elements that was drawn anew.
    """
    changed = 0
    total = 0
    for name, ratio in ratios.items():
        parameter = model.get_parameter(name)
        draws = torch.rand(parameter.shape, generator=generator)
        other = fresh.get_parameter(name)
        parameter.copy_(mixed(parameter, other, draws.to(parameter.device), ratio))
        changed += int((draws < ratio).sum())
        total += parameter.numel()
    return changed / total


def mixed(old: Tensor, fresh: Tensor, draws: Tensor, ratio: float) -> Tensor:
    """Take fresh values where the uniform draw is below the ratio, old ones elsewhere."""
    return torch.where(draws < ratio, fresh, old)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the KL divergence of the student's softened probabilities from the teacher's.

    It is summed over classes, averaged over images, and not multiplied by T^2.
    """
    target = functional.softmax(teacher / temperature, dim=1)
    answer = functional.log_softmax(student / temperature, dim=1)
    return functional.kl_div(answer, target, reduction="batchmean")
