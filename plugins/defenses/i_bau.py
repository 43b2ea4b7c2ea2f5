"""I-BAU: unlearn the universal perturbation that fools the network most, and what the perturbation
would become in answer.

Zeng et al., ICLR 2022, as released. The defender seeks

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
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import Access, Defense, Incompatible, Result
from harness.learn import Diverged, ImageSet, evaluating, kernels, to_float
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive, Share

Loss = Callable[[Tensor], Tensor]
"""Of the perturbation."""
Solver = Literal["fixed-point", "conjugate-gradient"]

OPTIMISERS: Mapping[str, type[torch.optim.Adam | torch.optim.SGD]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
NORMALISED: Mapping[str, Any] = {"inner_lr": 0.625, "penalty": 0.016, "step": 0.00625}
"""The released numbers where the perturbation is added to inputs that were divided by 0.25, in
units of pixels.
"""
UNDIFFERENTIABLE = ("Error", "NotImplemented")
"""Names of the nodes in torch's graph that stand for a derivative that does not exist."""


class IBAU(Defense):
    """Unlearn a universal perturbation along its implicit hypergradient (Zeng et al. 2022).

    The network stays in evaluation mode: BatchNorm averages do not move, its weights do. The
    perturbation is added to [0,1] pixels, wherever the network normalises. The published rates are
    those of a network that does not. BCU adds it to CIFAR-10's images after dividing them by about
    0.25, where the same `inner_lr` moves pixels a sixteenth as far: its presets are in pixels.

    Without a `bound`, the released numbers can make perturbations far larger than any image,
    whether or not the network normalises: on the victim that was released with the method, which
    does not, their norm passes 2,000 in the first round, and that of a picture from black to white
    is 55. Five rounds of them remove the backdoor there all the same.
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

    rounds: CountOrZero = 5
    """times that a perturbation is made and unlearned; 5 is the released script's default, its
    read-me has 3, its notebooks 1, BCU 100
    """
    batch: Count = 100
    """clean images a step; the images that are left over join the last full batch"""
    inner: Literal["sgd", "adam"] = "sgd"
    """optimiser of the perturbation, without momentum; adam: the released notebook for GTSRB"""
    inner_lr: Positive = 10.0
    """learning rate of the perturbation, in [0,1] pixels"""
    shuffle: bool = False
    """the perturbation meets the images in a new order each round (BCU), else in that of the grant
    (released)
    """
    penalty: NotNegative = 1e-3
    """times the perturbation's squared norm, in the inner loss"""
    bound: Positive | None = None
    """largest L2 norm of the perturbation that is unlearned; 10 in the released notebooks, not
    applied in the script
    """
    clamp: bool = False
    """clip perturbed images to [0,1]; the notebook for GTSRB does"""

    outer: Literal["adam", "sgd"] = "adam"
    """optimiser of the weights, without momentum or decay for sgd"""
    outer_lr: Positive = 1e-3
    """learning rate of the weights"""
    portion: Share = 0.01
    """share of a batch that carries the perturbation, rounded down: one image of 100"""
    step: Positive = 0.1
    """s, the step size of the inner map Phi"""
    terms: CountOrZero = 5
    """iterations that find v; of the fixed point, each is one term of the Neumann series, the first
    being the plain gradient; 0: the weights' own gradient alone
    """
    solver: Solver = "fixed-point"
    """way to find v: v <- (dPhi/dd)^T v + dL/dd (released), which weighs down directions in which
    the inner loss is flat; or conjugate gradients, which go to the exact v
    """

    @model_validator(mode="after")
    def _some_image_carries_it(self) -> Self:
        if not carrying(self.batch, self.portion):
            raise ValueError(
                f"portion {self.portion} of a batch of {self.batch} is no image; take more of "
                "either"
            )
        return self

    def defend(self, access: Access) -> Result:
        """Make a perturbation and unlearn it, round after round."""
        model = access.victim()
        data = access.clean().to(access.device)
        parts = self._parts(len(data))
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = OPTIMISERS[self.outer](weights, lr=self.outer_lr)
        orders = access.generator("order")
        carriers = access.generator("patches")
        record = {"perturbation_norm": 0.0}
        keep = {"model": model, "optimiser": optimiser, "record": record}
        with evaluating(model), differentiable(access.recipe.deterministic):
            inner = self._inner(model, data.subset(parts[0]))
            blank = torch.zeros(access.task.image_shape, device=access.device)
            require_second_derivatives(inner, blank)
            for number in access.steps(self.rounds, keep=keep):
                order = torch.arange(len(data))
                if self.shuffle:
                    order = torch.randperm(len(data), generator=orders)
                chunks = [data.subset(order[part]) for part in parts]
                perturbation = self._perturbation(access, model, chunks)
                norm = float(perturbation.norm())
                record["perturbation_norm"] = norm

                for part in parts:
                    outer = self._outer(model, data.subset(part), carriers)
                    gradients = hypergradient(
                        outer, inner, perturbation, weights, self.step, self.terms, self.solver
                    )
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight.grad = gradient
                    optimiser.step()
                    access.tick(images=len(part) + self._products * len(parts[0]))

                finite = all(bool(weight.isfinite().all()) for weight in weights)
                if not math.isfinite(norm) or not finite:
                    raise Diverged(
                        f"perturbation (norm {norm:g}) or weights are not finite after round "
                        f"{number + 1} of {self.rounds}; try a lower inner_lr or outer_lr"
                    )
        model.zero_grad(set_to_none=True)
        return Result(model=model, record=record)

    @property
    def _products(self) -> int:
        """Backward passes through the inner problem that a hypergradient takes.

        They find its slope, v, and the mixed derivative.
        """
        if self.terms == 0:
            return 0
        if self.solver == "fixed-point":
            return self.terms + 1  # the first term is the gradient itself
        return self.terms + 2

    def _parts(self, count: int) -> list[Tensor]:
        """Return the places of the images of each batch, the same in all rounds."""
        parts = list(torch.split(torch.arange(count), self.batch))
        if len(parts) > 1 and len(parts[-1]) < self.batch:
            rest = parts.pop()
            parts[-1] = torch.cat([parts[-1], rest])
        if not carrying(len(parts[0]), self.portion):
            raise Incompatible(
                f"portion {self.portion} of {count} clean images is no image to unlearn the "
                "trigger on"
            )
        return parts

    def _perturbation(self, access: Access, model: nn.Module, chunks: Sequence[ImageSet]) -> Tensor:
        """Climb the loss of the network's own answers in one pass, from 0.

        The perturbation is (channels, height, width).
        """
        shape = access.task.image_shape
        d = torch.zeros(shape, device=access.device, requires_grad=True)
        optimiser = OPTIMISERS[self.inner]([d], lr=self.inner_lr)
        for chunk in chunks:
            with torch.no_grad():
                answers = model(to_float(chunk.images)).argmax(1)
            loss = self._inner(model, ImageSet(chunk.images, answers))
            d.grad = torch.autograd.grad(loss(d), d)[0]
            optimiser.step()
            access.tick(images=len(chunk))
        climbed = d.detach()
        if self.bound is None:
            return climbed
        longest = max(float(climbed.norm()), self.bound)
        return climbed * (self.bound / longest)

    def _inner(self, model: nn.Module, chunk: ImageSet) -> Loss:
        """Return the loss that the perturbation descends.

        It is minus the cross-entropy of images that all carry it, plus its penalty.
        """
        images = to_float(chunk.images)
        labels = labels_of(chunk)

        def loss(d: Tensor) -> Tensor:
            logits = model(self._shown(images + d))
            fooled = functional.cross_entropy(logits, labels)
            return self.penalty * d.square().sum() - fooled

        return loss

    def _outer(self, model: nn.Module, chunk: ImageSet, generator: torch.Generator) -> Loss:
        """Return the loss that the weights descend.

        It is the cross-entropy of images of which a few carry the perturbation.
        """
        images = to_float(chunk.images)
        labels = labels_of(chunk)
        count = len(chunk)
        order = torch.randperm(count, generator=generator)
        carriers = torch.zeros(count)
        carriers[order[: carrying(count, self.portion)]] = 1
        carriers = carriers.to(images.device).view(-1, 1, 1, 1)

        def loss(d: Tensor) -> Tensor:
            logits = model(self._shown(images + carriers * d))
            return functional.cross_entropy(logits, labels)

        return loss

    def _shown(self, images: Tensor) -> Tensor:
        """Clip perturbed images, where that is asked for."""
        if self.clamp:
            return images.clamp(0, 1)
        return images


def hypergradient(
    outer: Loss,
    inner: Loss,
    perturbation: Tensor,
    weights: Sequence[Tensor],
    step: float,
    terms: int,
    solver: Solver,
) -> list[Tensor]:
    """Return dH/dtheta at a perturbation that is taken for the answer to the weights.

    It has a tensor for each of the weights. `outer` and `inner` are functions of the perturbation
    through graphs that lead to the weights.
    """
    d = perturbation.detach().requires_grad_()
    inputs = [d, *weights]
    gradients = torch.autograd.grad(outer(d), inputs, allow_unused=True)
    dl_dd, *dl_dtheta = zeroed(gradients, inputs)
    if terms == 0:
        return dl_dtheta
    slope = torch.autograd.grad(inner(d), d, create_graph=True)[0]
    phi = d - step * slope

    def transposed(v: Tensor) -> Tensor:
        """Return (dPhi/dd)^T v."""
        return torch.autograd.grad(phi, d, v, retain_graph=True)[0]

    if solver == "fixed-point":
        v = dl_dd
        for _ in range(terms - 1):
            v = transposed(v) + dl_dd
    else:
        v = conjugate_gradients(lambda v: v - transposed(v), dl_dd, terms)
    gradients = torch.autograd.grad(phi, weights, v, allow_unused=True)
    through_phi = zeroed(gradients, weights)
    return [direct + indirect for direct, indirect in zip(dl_dtheta, through_phi, strict=True)]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, iterations: int
) -> Tensor:
    """Solve `product(v) = right` for a symmetric linear `product`, from 0.

    It ends early once that is solved.
    """
    v = torch.zeros_like(right)
    residual = right
    direction = right
    size = residual.square().sum()
    smallest = size * torch.finfo(size.dtype).eps ** 2
    for _ in range(iterations):
        image = product(direction)
        curvature = (direction * image).sum()
        # An indefinite map can have directions without curvature, along which nothing can be
        # solved.
        solved = size <= smallest
        flat = curvature.abs() <= smallest
        if bool(solved | flat):
            break
        length = size / curvature
        v = v + length * direction
        residual = residual - length * image
        before = size
        size = residual.square().sum()
        direction = residual + size / before * direction
    return v


def zeroed(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Put zeros in the place of the gradients of what a loss does not depend on."""
    filled = []
    for gradient, own in zip(gradients, like, strict=True):
        if gradient is None:
            filled.append(torch.zeros_like(own))
        else:
            filled.append(gradient)
    return filled


def carrying(count: int, portion: float) -> int:
    """Return how many images of a batch carry the perturbation."""
    return math.floor(portion * count + 1e-9)


def labels_of(chunk: ImageSet) -> Tensor:
    """Return the labels, which are there."""
    assert chunk.labels is not None
    return chunk.labels


@contextmanager
def differentiable(deterministic: bool | Literal["warn"]) -> Iterator[None]:
    """Choose kernels that have second derivatives, which fused attention lacks.

    Torch's flags are left as found.
    """
    with kernels(deterministic), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def require_second_derivatives(loss: Loss, perturbation: Tensor) -> None:
    """Raise Incompatible where a layer has only a first derivative.

    Torch would leave some of those out silently.
    """
    d = perturbation.detach().requires_grad_()
    slope = torch.autograd.grad(loss(d), d, create_graph=True)[0]
    met: set[Any] = set()
    waiting: list[Any] = [slope.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        met.add(node)
        name = node.name().rpartition("::")[2]
        if name in UNDIFFERENTIABLE:
            raise Incompatible(
                "a layer of the network, perhaps a hard sigmoid, has no second derivative in torch"
            )
        for following, _ in node.next_functions:
            waiting.append(following)
