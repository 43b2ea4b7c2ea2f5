"""Mode connectivity repair: a network on a path of low clean loss between two that have the
backdoor, or had it.

Zhao et al., ICLR 2020. A quadratic Bezier curve joins the weights of the victim (t = 0) to those of
a second network (t = 1); its middle point learns, with a new t for each batch, so that all of the
curve does well on clean images:

    phi(t) = (1 - t)^2 w1 + 2 t (1 - t) theta + t^2 w2

Somewhere along it the backdoor is gone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from harness import (
    Access,
    Defense,
    Fraction,
    Incompatible,
    Rates,
    Recipe,
    RecipeFields,
    Result,
    Schedule,
    Use,
    use,
)
from harness.learn import NORMS, Batch, ImageSet
from plugins.parts.batchnorm import refresh
from plugins.parts.fine_tuning import FineTuning
from plugins.parts.holdout import accuracy, hold_out
from plugins.parts.ranges import Count, CountOrZero, NotNegative

LEAK = frozenset({"training-set", "oracle"})
"""Further grants of `bn = "train"`, which looks at neither trigger nor test data; `oracle` marks
its rows.
"""


class MCR(FineTuning):
    """Learn a curve from the victim to a fine-tuned copy, take a point on it (Zhao et al. 2020).

    The paper joins two backdoored networks; BCU and DECK join one to its fine-tuned self, as is
    done here.
    """

    citation = (
        "Zhao et al.: Bridging Mode Connectivity in Loss Landscapes and Adversarial Robustness, "
        "ICLR 2020"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mcr": {},
        "mcr-released": {"bn": "train"},
        "bcu": {"t": 0.3, "bn": "none", "batch": 256, "weight_decay": 5e-4, "epoch_images": 0},
        "anp": {"t": 0.3},
        "deck": {"t": "best"},
    }

    batch: Count = 128
    """images a step"""
    weight_decay: NotNegative = 1e-4
    """times half the squared norm of the weights at t, in the loss: what decays is the network, not
    the bend
    """
    schedule: Schedule = "piecewise"
    """of the learning rate; piecewise without `rates`: `lr` for half of the epochs, then in a
    straight line to a hundredth of it at nine tenths, as released
    """
    rates: Rates = ()
    """of table and piecewise: (epoch, learning rate), ascending; `lr` is not used then"""
    epoch_images: CountOrZero = 10_000
    """images of an epoch: the clean ones are repeated as often as comes nearest, so that with fewer
    of them the steps do not get fewer (released code); 0: each once (BCU)
    """

    end: Use[Defense] = use("ft", epochs=10, horizon=100)
    """defense that makes the network at t = 1 from the victim; BCU: 10 of 100 epochs of fine-tuning
    """
    t: Fraction | Literal["best"] = 0.3
    """place on the curve, 0 being the victim; best: that of `candidates` with the highest accuracy
    on images held out of the grant (DECK), of equal ones the largest. `end` is given the whole
    grant and has trained on these images too, which favours a large t
    """
    candidates: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] = tuple(
        n / 10 for n in range(1, 10)
    )
    """places that t = "best" tries: the released code's without the ends, since the victim is often
    the most accurate
    """
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the clean images that t = "best" sets aside"""
    bn: Literal["clean", "none", "train"] = "clean"
    """BatchNorm averages of the result: measured at t on the clean images; none: as they drifted
    along the whole curve while it was trained (BCU's code); measured at t on the training set
    (released code, a clean one there), which no defender has: such rows are marked
    """

    def grants(self) -> AbstractSet[str]:
        """Add the training set for `bn = "train"`."""
        if self.bn == "train":
            return self.needs | LEAK
        return self.needs

    def unused(self) -> Mapping[str, str]:
        """Name what only t = "best" takes; the released schedule takes `lr` and `horizon`."""
        unused = dict(super().unused())
        if self.schedule == "piecewise" and not self.rates:
            unused.pop("lr", None)
            unused.pop("horizon", None)
        if self.t != "best":
            for name in ("candidates", "holdout"):
                unused[name] = f"t = {self.t:g} is no choice"
        return unused

    def defend(self, access: Access) -> Result:
        """Train the bend, choose t, put the averages right."""
        data = access.clean()
        held = None
        if self.t == "best":
            data, held = hold_out(data, self.holdout, access.generator("holdout"))
        curve = Curve(access.victim(), access.part("end"))
        self._learn(access, curve, data)
        if held is None:
            assert not isinstance(self.t, str)
            model = self._point(access, curve, self.t, data)
            return Result(model=model, record={"t": self.t})

        best = curve.net
        record = {"t": 0.0, "held_out_acc": -1.0}
        for t in sorted(self.candidates):
            model = self._point(access, curve, t, data)
            score = accuracy(access, model, held)
            if score >= record["held_out_acc"]:
                best = model
                record = {"t": t, "held_out_acc": score}
        return Result(model=best, record=record)

    def _point(self, access: Access, curve: Curve, t: float, clean: ImageSet) -> nn.Module:
        """Return the network at t, with the BatchNorm averages that `bn` names."""
        model = curve.network(t)
        if self.bn == "clean":
            refresh(access, model, clean, self.batch)
        if self.bn == "train":
            refresh(access, model, access.training_set(), self.batch)
        return model

    def _learn(self, access: Access, curve: Curve, data: ImageSet) -> None:
        """Train the bend on clean images."""
        draws = access.generator("t")

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            assert isinstance(model, Curve)
            assert batch.labels is not None
            t = float(torch.rand((), generator=draws))
            weights = model.weights(t)
            logits = functional_call(model.net, weights, (batch.images,))
            entropy = functional.cross_entropy(logits.float(), batch.labels)
            return entropy + decay(weights, self.weight_decay)

        copies = max(1, round(self.epoch_images / len(data)))
        repeated = data.subset(torch.arange(len(data)).repeat(copies))
        # The loss has a decay of its own, of the weights at t.
        recipe = self.tuning(access).replace(weight_decay=0.0)
        access.fit(curve, repeated, recipe, loss=loss)

    def _recipe(self, grid: Recipe, augmentation: RecipeFields) -> Recipe:
        if self.schedule != "piecewise" or self.rates:
            return super()._recipe(grid, augmentation)
        span = self.horizon or max(1, self.epochs)
        rates = flat_then_falling(self.lr, span)
        released = self.model_copy(update={"schedule": "table", "rates": rates})
        return released._recipe(grid, augmentation)


class Curve(nn.Module):
    """The curve between two networks of one architecture; only its bend learns.

    The bend starts half way. Running averages belong to the whole curve: they start at 0 and 1 and
    are never those of the ends.

    Raises Incompatible where the networks' parameters differ in name or shape.
    """

    def __init__(self, start: nn.Module, end: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(start).requires_grad_(False)
        for layer in self.net.modules():
            if isinstance(layer, NORMS):
                layer.reset_running_stats()
        near = dict(self.net.named_parameters())
        far = dict(end.named_parameters())
        if shapes(near) != shapes(far):
            raise Incompatible(
                "the two ends of the curve are not of one architecture: give another `end`"
            )
        self.names = tuple(near)
        self.end = nn.ParameterList()
        self.bend = nn.ParameterList()
        for name in near:
            w1 = near[name]
            w2 = far[name].detach()
            self.end.append(nn.Parameter(w2.clone(), False))
            self.bend.append(nn.Parameter((w1 + w2) / 2))

    def weights(self, t: float) -> dict[str, Tensor]:
        """Return the network's parameters at `t`, by name."""
        first, second, third = bernstein(t)
        points = zip(self.names, self.net.parameters(), self.bend, self.end, strict=True)
        return {name: first * w1 + second * theta + third * w2 for name, w1, theta, w2 in points}

    @torch.no_grad()
    def network(self, t: float) -> nn.Module:
        """Return a network of its own with the weights at `t` and the curve's averages.

        It is in evaluation mode.
        """
        model = copy.deepcopy(self.net)
        values = self.weights(t).values()
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
        model.requires_grad_(True)
        return model.eval()


def shapes(parameters: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each parameter, by name."""
    return {name: parameter.shape for name, parameter in parameters.items()}


def bernstein(t: float) -> tuple[float, float, float]:
    """Return the weights of start, bend and end in a quadratic Bezier curve."""
    return (1 - t) ** 2, 2 * t * (1 - t), t**2


def decay(weights: Mapping[str, Tensor], strength: float) -> Tensor:
    """Return half the squared norm of all weights times `strength`.

    Biases and normalisation are included.
    """
    squares = [weight.float().square().sum() for weight in weights.values()]
    return strength / 2 * torch.stack(squares).sum()


def flat_then_falling(lr: float, span: float) -> Rates:
    """Return (epoch, rate) for each epoch: `lr` in the first half, then a line down to 1 %.

    The line ends at nine tenths, and the rate stays. As released, an epoch's place is that of its
    end.
    """
    rates = []
    for epoch in range(math.ceil(span)):
        place = (epoch + 1) / span
        share = 1 - 0.99 * (place - 0.5) / 0.4
        share = min(1.0, max(0.01, share))
        rates.append((float(epoch), lr * share))
    return tuple(rates)
