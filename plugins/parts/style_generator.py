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
from operator import itemgetter
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
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive
from plugins.parts.sunset import sunset
from plugins.parts.weights_file import read_tensors

SMALLEST = 10
"""pixels: the discriminators halve a picture three times and reflect its border by two pixels"""

Levels = tuple[Annotated[float, Field(ge=0, le=255)], ...]


class StyleGenerator(Part):
    """CycleGAN from the training pictures to another style: a dataset's, or sunsets of their own.

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
    citation = (
        "Zhu et al.: Unpaired Image-to-Image Translation "
        "using Cycle-Consistent Adversarial Networks, ICCV 2017"
    )

    style: Use[Dataset] | None = None
    """training pictures of this dataset, resized, are the style; none: sunsets drawn from the seed
    """
    weights: File | None = None
    """a ready generator, so that none is trained: .npz or .safetensors, with this network's names
    or those that Keras gives the released one (conv2d_11/kernel, instance_normalization_7/gamma)
    """
    mean: Levels | None = None
    """grey level of each channel that is 0 to the networks; none: the training pictures' mean,
    which is the released code's (125.307, 122.95, 113.865) on CIFAR-10
    """
    std: Levels | None = None
    """grey levels that are 1 to the networks; none: the training pictures' deviation, which is the
    released code's (62.9932, 62.0887, 66.7048) on CIFAR-10
    """
    per_class: Count = 500
    """training pictures of each class that are translated; of a smaller class all"""
    epochs: CountOrZero = 2000
    """passes over them"""
    batch: Count = 100
    """pictures of either side a step"""
    lr: Positive = 2e-4
    """of all four networks' Adam"""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """share of its last step that Adam keeps; of its squared gradients it keeps 0.999"""
    lambda_cycle: NotNegative = 1.0
    """weight of coming back unchanged (the first CycleGAN's is 10)"""
    lambda_id: NotNegative = 0.1
    """weight of leaving pictures that are in a generator's own style unchanged"""
    judge_width: Count = 64
    """channels of the discriminators' first layer; the last has eight times as many"""
    flip: bool | None = None
    """mirror pictures of both sides at random; none: all but signs and digits"""

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """Make the network that translates."""
        with global_random(0):
            return Generator(task.channels)

    def make(self, access: PartAccess) -> nn.Module:
        """Train a generator, or read it. Raises ValueError where the file holds no such one."""
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
        recipe = self._recipe(access)
        judging = torch.optim.Adam(game.judges.parameters(), self.lr, (self.beta, 0.999))

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            count = len(batch.images)
            places = torch.randint(len(theirs), (count,), generator=draws)
            chosen = theirs[places].to(batch.images.device, non_blocking=True)
            style = augment(to_float(chosen), recipe, draws)
            access.tick(images=count)
            return game.play(batch.images, style, judging, self.lambda_cycle, self.lambda_id)

        game.judges.requires_grad_(False)  # what requires gradients now is what `fit` trains
        access.fit(game, ours, recipe, loss=loss, keep={"judging": judging})

    def _recipe(self, access: PartAccess) -> Recipe:
        flip = access.task.mirrors if self.flip is None else self.flip
        return Recipe(
            epochs=self.epochs,
            batch=self.batch,
            optimizer="adam",
            lr=self.lr,
            betas=(self.beta, 0.999),
            weight_decay=0.0,
            flip=flip,
            # within one context autocast keeps what it cast of the discriminators before they moved
            precision="fp32",
            deterministic=access.numerics["deterministic"],
        )


class Game(nn.Module):
    """Two generators, G = `forth` to the style and F = `back`, and a judge for each side.

    The first judge is that of the training pictures, the second that of the style.
    """

    def __init__(self, channels: int, judge_width: int = 64) -> None:
        super().__init__()
        self.forth = Generator(channels)
        self.back = Generator(channels)
        self.judges = nn.ModuleList(discriminator(channels, judge_width) for _ in range(2))

    def play(
        self,
        images: Tensor,
        style: Tensor,
        judging: torch.optim.Optimizer,
        lambda_cycle: float,
        lambda_id: float,
    ) -> Tensor:
        """Compute the generators' loss on [0,1] pictures of both sides, after the judges' steps.

        `judging` is the judges' optimiser.
        """
        a = self.forth.units.normalised(images)
        b = self.forth.units.normalised(style)
        fake_b = self.forth.translate(a)
        fake_a = self.back.translate(b)
        self.judges.requires_grad_(True)
        for judge, real, fake in zip(self.judges, (a, b), (fake_a, fake_b), strict=True):
            for pictures, answer in ((real, 1.0), (fake.detach(), 0.0)):
                judging.zero_grad()
                error = away(judge(pictures), answer)
                error.backward()  # type: ignore[no-untyped-call]
                judging.step()
        self.judges.requires_grad_(False)
        judge_a, judge_b = self.judges
        fooling_a = away(judge_a(fake_a), 1.0)
        fooling_b = away(judge_b(fake_b), 1.0)
        cycle_a = functional.l1_loss(self.back.translate(fake_b), a)
        cycle_b = functional.l1_loss(self.forth.translate(fake_a), b)
        cycle = cycle_a + cycle_b
        fooling = torch.stack([fooling_a, fooling_b]).sum()
        loss = fooling + lambda_cycle * cycle
        if lambda_id:  # a third of the generators' work
            same_a = functional.l1_loss(self.back.translate(a), a)
            same_b = functional.l1_loss(self.forth.translate(b), b)
            same = same_a + same_b
            loss = loss + lambda_id * same
        return loss


def away(judged: Tensor, answer: float) -> Tensor:
    """Return the mean squared distance of a judge's shares from the answer.

    This is the least-squares loss (Mao et al. 2017).
    """
    return (judged - answer).square().mean()


def measure(generator: Generator, images: Tensor, mean: Levels | None, std: Levels | None) -> None:
    """Set the units of a generator: what is given in grey levels, else measured.

    It is measured on uint8 pictures (n, h, w, c). Raises ValueError where as many numbers as the
    pictures have channels are not given, or deviations are not above 0.
    """
    channels = images.shape[3]
    if mean is not None and len(mean) != channels:
        raise ValueError(
            f"mean = {list(mean)}: one number for each channel is expected, "
            f"and the pictures have {channels}"
        )
    if std is not None and (len(std) != channels or min(std) <= 0):
        raise ValueError(
            f"std = {list(std)}: {channels} numbers above 0 are expected, "
            "one for each channel of the pictures"
        )
    means: list[float] = []
    deviations: list[float] = []
    for channel in range(channels):
        level, deviation = _moments(images[..., channel])
        deviation = max(deviation, 1.0)
        if mean is not None:
            level = mean[channel]
        if std is not None:
            deviation = std[channel]
        means.append(level / 255)
        deviations.append(deviation / 255)
    generator.units.set(means, deviations)


def _moments(levels: Tensor) -> tuple[float, float]:
    """Compute mean and standard deviation of uint8 levels from their counts.

    A copy in floats would be eight times as large.
    """
    counts = torch.bincount(levels.flatten(), minlength=256).double()
    level = torch.arange(256.0, dtype=torch.float64)
    mean = (counts * level).sum() / counts.sum()
    squares = counts * (level - mean) ** 2
    variance = squares.sum() / counts.sum()
    return float(mean), float(variance.sqrt())


KERAS = re.compile(r"(conv2d|instance_normalization)(?:_(\d+))?/(kernel|bias|gamma|beta)(?::0)?$")
"""A layer's kind, its number, and its array, in Keras's name of an array."""
KERAS_KINDS = {
    "weight": ("conv2d", "kernel"),
    "bias": ("conv2d", "bias"),
    "gamma": ("instance_normalization", "gamma"),
    "beta": ("instance_normalization", "beta"),
}
"""Kind and array in Keras's names, by the ending of ours."""


def fill(generator: Generator, path: Path) -> None:
    """Give a generator the weights in a file; units that the file does not hold stay.

    Raises ValueError where it does not fit.
    """
    arrays = read_tensors(path)
    own = generator.state_dict()
    state = arrays
    if not own.keys() & arrays.keys():
        state = _from_keras(arrays, list(own))
    for units in ("units.mean", "units.std"):
        state.setdefault(units, own[units])
    wrong = sorted(own.keys() ^ state.keys())
    if not wrong:
        wrong = [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(
            f"{path}: no generator of {len(own)} arrays for these pictures; "
            f"lacking or other: {wrong[0]}"
        )
    generator.load_state_dict(state)


def _from_keras(arrays: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return arrays under our names instead of Keras's, which count layers in order.

    Kernels (h, w, in, out) are turned.
    """
    numbered: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}
    for name, array in arrays.items():
        parts = KERAS.search(name)
        if parts is not None:
            kind = (parts[1], parts[3])
            number = int(parts[2] or 0)
            numbered.setdefault(kind, []).append((number, array))
    state: dict[str, Tensor] = {}
    for ending, kind in KERAS_KINDS.items():
        ours = [name for name in names if name.endswith(f".{ending}")]
        theirs = sorted(numbered.get(kind, []), key=itemgetter(0))
        for name, (_, array) in zip(ours, theirs, strict=False):
            if ending == "weight" and array.ndim == 4:
                array = array.permute(3, 2, 0, 1)
            state[name] = array
    return state
