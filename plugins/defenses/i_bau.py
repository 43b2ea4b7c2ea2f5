"""I-BAU: unlearn the universal perturbation that fools the network most, and what it would become
in answer.

Zeng et al., ICLR 2022, as released. The defender wants

    min over theta of  max over d of  mean CE(f(x + d), y)

with one perturbation d for all images. In a round d climbs by a pass over the clean images; then
the weights descend, batch by batch, along the implicit hypergradient, which counts how the best d
moves with theta:

    dH/dtheta = dL/dtheta + (dPhi/dtheta)^T v,    v = (I - (dPhi/dd)^T)^-1 dL/dd

L is the loss of a batch of which a few images carry d, and Phi(d) = d - s grad_d G a step of the
inner problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import Access, Defense, Incompatible, Result
from harness.learn import Diverged, ImageSet, evaluating, kernels, to_float

Loss = Callable[[Tensor], Tensor]
"""Of the perturbation."""
Solver = Literal["fixed-point", "conjugate-gradient"]

NORMALISED: Mapping[str, Any] = {"inner_lr": 0.625, "penalty": 0.016, "step": 0.00625}
"""The released numbers where the perturbation is added to inputs that were divided by 0.25, in
units of pixels.
"""
UNDIFFERENTIABLE = ("Error", "NotImplemented")
"""What torch calls the nodes of its graph that stand for a derivative that there is not."""


class IBAU(Defense):
    """Unlearn an adversarial universal perturbation by its implicit hypergradient (Zeng et al.
    2022).

    The network stays in evaluation mode: BatchNorm averages do not move, its weights do. The
    perturbation is added to [0,1] pixels, wherever the network normalises. The published rates are
    those of a network that does not. BCU adds it to CIFAR-10's images after dividing them by about
    0.25, where the same `inner_lr` moves pixels a sixteenth as far: its presets say so in pixels.
    On a network that normalises, the released numbers make perturbations far larger than an image.
    """

    citation = (
        "Zeng et al.: Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "i-bau": {},
        "i-bau-readme": {"rounds": 3},
        "i-bau-notebook": {"rounds": 1, "bound": 10.0},
        "i-bau-notebook/gtsrb": {"clamp": True, "inner": "adam", "inner_lr": 1.0},
        "bcu": {"rounds": 100, "outer_lr": 1e-4, "shuffle": True, **NORMALISED},
        "bcu/gtsrb": {"inner_lr": 10.0, "penalty": 1e-3, "step": 0.1},  # not normalised there
        "bcu-text": {"rounds": 100, **NORMALISED},
        "trap": {"inner_lr": 1.0, "outer_lr": 1e-4},
    }

    rounds: Annotated[int, Field(ge=0)] = 5
    """times that a perturbation is made and unlearned; the released script's default, its read-me
    has 3, its notebooks 1, BCU 100
    """
    batch: Annotated[int, Field(ge=1)] = 100
    """clean images a step; the images that are left over join the last full batch"""
    inner: Literal["sgd", "adam"] = "sgd"
    """optimiser of the perturbation, without momentum; adam: the released notebook for GTSRB"""
    inner_lr: Annotated[float, Field(gt=0)] = 10.0
    """learning rate of the perturbation, in [0,1] pixels"""
    shuffle: bool = False
    """whether the perturbation meets the images in a new order each round (BCU) or in that of the
    grant (released)
    """
    penalty: Annotated[float, Field(ge=0)] = 1e-3
    """times the perturbation's squared norm, in the inner loss"""
    bound: Annotated[float, Field(gt=0)] | None = None
    """largest L2 norm of the perturbation that is unlearned; 10 in the released notebooks, not
    applied in the script
    """
    clamp: bool = False
    """clip perturbed images to [0,1]; the notebook for GTSRB does"""

    outer: Literal["adam", "sgd"] = "adam"
    """optimiser of the weights, without momentum or decay for sgd"""
    outer_lr: Annotated[float, Field(gt=0)] = 1e-3
    """learning rate of the weights"""
    portion: Annotated[float, Field(gt=0, le=1)] = 0.01
    """share of a batch that carries the perturbation, rounded down: one image of 100"""
    step: Annotated[float, Field(gt=0)] = 0.1
    """s, the step size of the inner map Phi"""
    terms: Annotated[int, Field(ge=0)] = 5
    """iterations that find v; of the fixed point, each is one term of the Neumann series, the first
    being the plain gradient; 0: the weights' own gradient alone
    """
    solver: Solver = "fixed-point"
    """how v is found: v <- (dPhi/dd)^T v + dL/dd (released), which weighs down directions in which
    the inner loss is flat; or conjugate gradients, which go to the exact v
    """

    @model_validator(mode="after")
    def _someone_carries_it(self) -> Self:
        if not carrying(self.batch, self.portion):
            raise ValueError(
                f"portion {self.portion} of a batch of {self.batch} is no image; take more of either"
            )
        return self

    def defend(self, access: Access) -> Result:
        """Rounds of making a perturbation and unlearning it."""
        model, data = access.victim(), access.clean().to(access.device)
        parts = self._parts(len(data))
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = (torch.optim.Adam if self.outer == "adam" else torch.optim.SGD)(
            weights, lr=self.outer_lr
        )
        orders, patches, norm = access.generator("order"), access.generator("patches"), 0.0
        with evaluating(model), differentiable(access.recipe.deterministic):
            inner = self._inner(model, data.subset(parts[0]))
            require_second_derivatives(
                inner, torch.zeros(access.task.image_shape, device=access.device)
            )
            for number in range(self.rounds):
                order = (
                    torch.randperm(len(data), generator=orders)
                    if self.shuffle
                    else torch.arange(len(data))
                )
                perturbation = self._perturbation(
                    access, model, [data.subset(order[part]) for part in parts]
                )
                norm = float(perturbation.norm())
                for part in parts:
                    outer = self._outer(model, data.subset(part), patches)
                    found = hypergradient(
                        outer, inner, perturbation, weights, self.step, self.terms, self.solver
                    )
                    for weight, gradient in zip(weights, found, strict=True):
                        weight.grad = gradient
                    optimiser.step()
                    access.tick(images=len(part) + self._products * len(parts[0]))
                if not math.isfinite(norm) or not all(
                    bool(weight.isfinite().all()) for weight in weights
                ):
                    what = f"perturbation (norm {norm:g}) or weights are not finite after round {number + 1}"
                    raise Diverged(f"{what} of {self.rounds}; try a lower inner_lr or outer_lr")
                access.tick(done=number + 1, of=self.rounds)
        model.zero_grad(set_to_none=True)
        return Result(model=model, record={"perturbation_norm": norm})

    @property
    def _products(self) -> int:
        """Backward passes through the inner problem for a hypergradient: its slope, v, and the
        mixed derivative.
        """
        free = self.solver == "fixed-point"  # the first term is the gradient as it is
        return 2 + self.terms - free if self.terms else 0

    def _parts(self, count: int) -> list[Tensor]:
        """Places of the images of each batch, the same in all rounds."""
        parts = list(torch.split(torch.arange(count), self.batch))
        if len(parts) > 1 and len(parts[-1]) < self.batch:
            parts[-2:] = [torch.cat(parts[-2:])]
        if not carrying(len(parts[0]), self.portion):
            raise Incompatible(
                f"portion {self.portion} of {count} clean images is no image to unlearn the trigger on"
            )
        return parts

    def _perturbation(self, access: Access, model: nn.Module, chunks: Sequence[ImageSet]) -> Tensor:
        """One pass from 0 up the loss of the network's own answers; (channels, height, width)."""
        perturbation = torch.zeros(
            access.task.image_shape, device=access.device, requires_grad=True
        )
        optimiser = (torch.optim.Adam if self.inner == "adam" else torch.optim.SGD)(
            [perturbation], lr=self.inner_lr
        )
        for chunk in chunks:
            with torch.no_grad():
                answers = model(to_float(chunk.images)).argmax(1)
            loss = self._inner(model, ImageSet(chunk.images, answers))
            perturbation.grad = torch.autograd.grad(loss(perturbation), perturbation)[0]
            optimiser.step()
            access.tick(images=len(chunk))
        found = perturbation.detach()
        return (
            found
            if self.bound is None
            else found * (self.bound / max(float(found.norm()), self.bound))
        )

    def _inner(self, model: nn.Module, chunk: ImageSet) -> Loss:
        """What the perturbation descends: minus the cross-entropy of images that all carry it, plus
        its penalty.
        """
        images, labels = to_float(chunk.images), labels_of(chunk)

        def loss(perturbation: Tensor) -> Tensor:
            fooled = functional.cross_entropy(model(self._shown(images + perturbation)), labels)
            return self.penalty * perturbation.square().sum() - fooled

        return loss

    def _outer(self, model: nn.Module, chunk: ImageSet, generator: torch.Generator) -> Loss:
        """What the weights descend: the cross-entropy of images of which a few carry the
        perturbation.
        """
        images, labels = to_float(chunk.images), labels_of(chunk)
        carriers = torch.zeros(len(chunk))
        carriers[
            torch.randperm(len(chunk), generator=generator)[: carrying(len(chunk), self.portion)]
        ] = 1
        carriers = carriers.to(images.device).view(-1, 1, 1, 1)

        def loss(perturbation: Tensor) -> Tensor:
            return functional.cross_entropy(
                model(self._shown(images + carriers * perturbation)), labels
            )

        return loss

    def _shown(self, images: Tensor) -> Tensor:
        return images.clamp(0, 1) if self.clamp else images


def hypergradient(
    outer: Loss,
    inner: Loss,
    perturbation: Tensor,
    weights: Sequence[Tensor],
    step: float,
    terms: int,
    solver: Solver,
) -> list[Tensor]:
    """dH/dtheta at a perturbation that is taken for the answer to the weights; a tensor for each of
    the weights.

    `outer` and `inner` are functions of the perturbation through graphs that lead to the weights.
    """
    at = perturbation.detach().requires_grad_()
    to_at, *direct = zeroed(
        torch.autograd.grad(outer(at), [at, *weights], allow_unused=True), [at, *weights]
    )
    if not terms:
        return direct
    slope = torch.autograd.grad(inner(at), at, create_graph=True)[0]
    mapped = at - step * slope

    def transposed(v: Tensor) -> Tensor:
        """(dPhi/dd)^T v"""
        return torch.autograd.grad(mapped, at, v, retain_graph=True)[0]

    if solver == "fixed-point":
        v = to_at
        for _ in range(terms - 1):
            v = transposed(v) + to_at
    else:
        v = conjugate_gradients(lambda v: v - transposed(v), to_at, terms)
    through = zeroed(torch.autograd.grad(mapped, weights, v, allow_unused=True), weights)
    return [own + moved for own, moved in zip(direct, through, strict=True)]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], wanted: Tensor, iterations: int
) -> Tensor:
    """Solve `product(v) = wanted` for a symmetric linear `product`, from 0; ends early once it is
    solved.
    """
    found = torch.zeros_like(wanted)
    residual = direction = wanted
    size = residual.square().sum()
    smallest = size * torch.finfo(size.dtype).eps ** 2
    for _ in range(iterations):
        image = product(direction)
        curvature = (direction * image).sum()
        # An indefinite map can have directions without curvature, along which nothing can be
        # solved.
        if bool((size <= smallest) | (curvature.abs() <= smallest)):
            break
        found = found + size / curvature * direction
        residual = residual - size / curvature * image
        before, size = size, residual.square().sum()
        direction = residual + size / before * direction
    return found


def zeroed(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Zeros for what a loss does not depend on."""
    pairs = zip(gradients, like, strict=True)
    return [torch.zeros_like(own) if gradient is None else gradient for gradient, own in pairs]


def carrying(count: int, portion: float) -> int:
    """How many of a batch carry the perturbation."""
    return math.floor(portion * count + 1e-9)


def labels_of(chunk: ImageSet) -> Tensor:
    """The labels, which are there."""
    assert chunk.labels is not None
    return chunk.labels


@contextmanager
def differentiable(deterministic: bool | Literal["warn"]) -> Iterator[None]:
    """Choose kernels that have second derivatives, which fused attention has not; torch's flags are
    left as found.
    """
    with kernels(deterministic), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def require_second_derivatives(loss: Loss, perturbation: Tensor) -> None:
    """Raise Incompatible where a layer has only a first derivative; torch would leave some of those
    out silently.
    """
    at = perturbation.detach().requires_grad_()
    slope = torch.autograd.grad(loss(at), at, create_graph=True)[0]
    met: set[Any] = set()
    waiting: list[Any] = [slope.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if node.name().rpartition("::")[2] in UNDIFFERENTIABLE:
            raise Incompatible(
                "a layer of the network, perhaps a hard sigmoid, has no second derivative in torch"
            )
        waiting.extend(following for following, _ in node.next_functions)
