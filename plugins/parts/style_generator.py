"""DFST's trigger generator: a CycleGAN between the training pictures and pictures of another style.

Zhu et al., ICCV 2017, with the settings of DFST's released code. Generators G (to the style) and F
(back) and a discriminator for each side play

    G, F:  |D(G(a)) - 1|^2 + |D'(F(b)) - 1|^2  + lambda_cycle (|F(G(a)) - a| + |G(F(b)) - b|)
                                               + lambda_id (|F(a) - a| + |G(b) - b|)
    D:     |D(b) - 1|^2, then |D(G(a))|^2;     D' likewise
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Dataset, File, Incompatible, Part, PartAccess, Recipe, Task, Use
from harness.learn import Batch, ImageSet, augment, global_random, to_float
from plugins.parts.cyclegan import Generator, discriminator
from plugins.parts.per_class import of_each_class
from plugins.parts.sunset import sunset
from plugins.parts.weights_file import read_tensors

SMALLEST = 10
"""pixels: the discriminators halve a picture three times and reflect its border by two pixels"""

Levels = tuple[Annotated[float, Field(ge=0, le=255)], ...]


class StyleGenerator(Part):
    """CycleGAN from the training pictures to another style: of a dataset, or sunsets made of the
    training pictures.

    The released generator was trained on 500 pictures of each class of CIFAR-10 and on photographs
    of sunrises (the Kaggle weather set), which nobody may ship. The default style is made up: the
    training pictures themselves, coloured like a dusk sky with a glow at a drawn height. One
    generator serves all replicates.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"train"})
    seeded = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Our own, for small images on a CPU: few steps, which a heavier cycle keeps from painting
        # over the picture.
        "fast": {
            "epochs": 2,
            "batch": 8,
            "lr": 1e-3,
            "lambda_cycle": 10.0,
            "lambda_id": 0.0,
            "judge_width": 16,
        },
    }
    citation = "Zhu et al.: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017"

    style: Use[Dataset] | None = None
    """training pictures of this dataset, resized, are the style; none: sunsets drawn from the seed
    """
    weights: File | None = None
    """a generator that is ready, then nothing is trained: .npz or .safetensors, with this network's
    names or those that Keras gives the released one (conv2d_11/kernel,
    instance_normalization_7/gamma)
    """
    mean: Levels | None = None
    """grey level of each channel that is 0 to the networks; none: the training pictures' mean,
    which is the released code's (125.307, 122.95, 113.865) on CIFAR-10
    """
    std: Levels | None = None
    """grey levels that are 1 to the networks; none: the training pictures' deviation, which is the
    released code's (62.9932, 62.0887, 66.7048) on CIFAR-10
    """
    per_class: Annotated[int, Field(ge=1)] = 500
    """training pictures of each class that are translated; of a smaller class all"""
    epochs: Annotated[int, Field(ge=0)] = 2000
    """passes over them"""
    batch: Annotated[int, Field(ge=1)] = 100
    """pictures of either side a step"""
    lr: Annotated[float, Field(gt=0)] = 2e-4
    """of all four networks' Adam"""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """share of its last step that Adam keeps; of its squared gradients it keeps 0.999"""
    lambda_cycle: Annotated[float, Field(ge=0)] = 1.0
    """weight of coming back unchanged (the first CycleGAN's is 10)"""
    lambda_id: Annotated[float, Field(ge=0)] = 0.1
    """weight of leaving pictures of the own style unchanged"""
    judge_width: Annotated[int, Field(ge=1)] = 64
    """channels of the discriminators' first layer; the last has eight times as many"""
    flip: bool = True
    """mirror pictures of both sides at random"""

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """The network that translates."""
        with global_random(0):
            return Generator(task.channels)

    def make(self, access: PartAccess) -> nn.Module:
        """Train, or read. Raises ValueError where the file holds no such generator."""
        train = access.train()
        with global_random(access.seed("networks")):
            game = Game(access.task.channels, self.judge_width)
        measure(game.forth, train.images, self.mean, self.std)
        if self.weights is not None:
            fill(game.forth, self.weights)
        else:
            self._train(access, game.to(access.device), train)
        return game.forth.eval()

    def _train(self, access: PartAccess, game: Game, train: ImageSet) -> None:
        if min(access.task.height, access.task.width) < SMALLEST:
            raise Incompatible(
                f"a style is learned from pictures of {SMALLEST} x {SMALLEST} pixels and more"
            )
        assert train.labels is not None
        ours = train.subset(of_each_class(train.labels, self.per_class)).unlabelled()
        draws = access.generator("style")
        theirs = sunset(ours.images, draws) if self.style is None else access.part("style").images
        recipe, step = (
            self._recipe(),
            torch.optim.Adam(game.judges.parameters(), self.lr, (self.beta, 0.999)),
        )

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            chosen = theirs[torch.randint(len(theirs), (len(batch.images),), generator=draws)]
            style = augment(
                to_float(chosen.to(batch.images.device, non_blocking=True)), recipe, draws
            )
            access.tick(images=len(style))
            return game.play(batch.images, style, step, self.lambda_cycle, self.lambda_id)

        game.judges.requires_grad_(False)  # what requires gradients now is what `fit` trains
        access.fit(game, ours, recipe, loss=loss)

    def _recipe(self) -> Recipe:
        # fp32, for within one context autocast keeps what it cast of the discriminators before they
        # moved
        fields = {"epochs": self.epochs, "batch": self.batch, "lr": self.lr, "flip": self.flip}
        adam = {"optimizer": "adam", "betas": (self.beta, 0.999), "weight_decay": 0.0}
        return Recipe.model_validate({**fields, **adam, "precision": "fp32"})


class Game(nn.Module):
    """Two generators, `forth` to the style and `back`, and their judges: of the training pictures,
    of the style.
    """

    def __init__(self, channels: int, judge_width: int = 64) -> None:
        super().__init__()
        self.forth, self.back = Generator(channels), Generator(channels)
        self.judges = nn.ModuleList(discriminator(channels, judge_width) for _ in range(2))

    def play(
        self,
        images: Tensor,
        style: Tensor,
        step: torch.optim.Optimizer,
        lambda_cycle: float,
        lambda_id: float,
    ) -> Tensor:
        """The generators' loss on [0,1] pictures of both sides, after the judges have moved."""
        a, b = (self.forth.units.normalised(pictures) for pictures in (images, style))
        fake_b, fake_a = self.forth.translate(a), self.back.translate(b)
        self.judges.requires_grad_(True)
        for judge, real, fake in zip(self.judges, (a, b), (fake_a, fake_b), strict=True):
            for pictures, answer in ((real, 1.0), (fake.detach(), 0.0)):
                step.zero_grad()
                away(judge(pictures), answer).backward()  # type: ignore[no-untyped-call]
                step.step()
        self.judges.requires_grad_(False)
        fooling = [
            away(judge(fake), 1.0)
            for judge, fake in zip(self.judges, (fake_a, fake_b), strict=True)
        ]
        cycle = functional.l1_loss(self.back.translate(fake_b), a) + functional.l1_loss(
            self.forth.translate(fake_a), b
        )
        loss = torch.stack(fooling).sum() + lambda_cycle * cycle
        if lambda_id:  # a third of the generators' work
            same = functional.l1_loss(self.back.translate(a), a) + functional.l1_loss(
                self.forth.translate(b), b
            )
            loss = loss + lambda_id * same
        return loss


def away(judged: Tensor, answer: float) -> Tensor:
    """Mean squared distance of a judge's shares from its answer: least-squares loss (Mao et al.
    2017).
    """
    return (judged - answer).square().mean()


def measure(generator: Generator, images: Tensor, mean: Levels | None, std: Levels | None) -> None:
    """Set the units of a generator: what is given in grey levels, else as uint8 pictures (n, h, w,
    c) have it.
    """
    channels = images.shape[3]
    if mean is not None and len(mean) != channels:
        raise ValueError(
            f"mean = {list(mean)}: wanted is one number a channel, and the pictures have {channels}"
        )
    if std is not None and (len(std) != channels or min(std) <= 0):
        raise ValueError(
            f"std = {list(std)}: wanted are {channels} numbers above 0, one a channel of the pictures"
        )
    seen = [_moments(images[..., channel]) for channel in range(channels)]
    middle = mean or [one for one, _ in seen]
    spread = std or [max(one, 1.0) for _, one in seen]
    generator.units.set([level / 255 for level in middle], [level / 255 for level in spread])


def _moments(levels: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 levels, counted: a copy in floats would be eight times
    as large.
    """
    counts, level = (
        torch.bincount(levels.flatten(), minlength=256).double(),
        torch.arange(256.0, dtype=torch.float64),
    )
    mean = (counts * level).sum() / counts.sum()
    return float(mean), float(((counts * (level - mean) ** 2).sum() / counts.sum()).sqrt())


KERAS = re.compile(r"(conv2d|instance_normalization)(?:_(\d+))?/(kernel|bias|gamma|beta)(?::0)?$")


def fill(generator: Generator, path: Path) -> None:
    """Give a generator the weights in a file; units it does not hold stay. Raises ValueError where
    it does not fit.
    """
    arrays = read_tensors(path)
    own = generator.state_dict()
    state = arrays if own.keys() & arrays.keys() else _from_keras(arrays, list(own))
    state = {"units.mean": own["units.mean"], "units.std": own["units.std"], **state}
    wrong = sorted(own.keys() ^ state.keys()) or [
        name for name in own if own[name].shape != state[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{path}: no generator of {len(own)} arrays for these pictures; lacking or other: {wrong[0]}"
        )
    generator.load_state_dict(state)


def _from_keras(arrays: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Arrays under Keras's names, which count layers in order, under ours; kernels (h, w, in, out)
    are turned.
    """
    found: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}
    for name, array in arrays.items():
        if told := KERAS.search(name):
            found.setdefault((told[1], told[3]), []).append((int(told[2] or 0), array))
    ours = {"weight": ("conv2d", "kernel"), "bias": ("conv2d", "bias")}
    ours |= {part: ("instance_normalization", part) for part in ("gamma", "beta")}
    state: dict[str, Tensor] = {}
    for ending, kind in ours.items():
        mine = [name for name in names if name.endswith(f".{ending}")]
        ordered = [
            array for _, array in sorted(found.get(kind, []), key=lambda numbered: numbered[0])
        ]
        turned = [
            array.permute(3, 2, 0, 1) if ending == "weight" and array.ndim == 4 else array
            for array in ordered
        ]
        state |= dict(zip(mine, turned, strict=False))
    return state
