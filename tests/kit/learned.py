"""A tiny network and a defense's access to it, for tests of what a method does inside a stage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness import Task
from harness.access.context import Coordinates, Deadline, StageContext
from harness.access.granted import Access, AttackAccess
from harness.components import Anatomy, Model, PoisoningAttack
from harness.learn.evaluation import predict
from harness.learn.images import ImageSet
from harness.learn.recipes import Recipe
from plugins.attacks.none import NoAttack
from plugins.models.small_cnn import SmallCNN

CLEAN = frozenset({"victim", "clean-labelled"})


class Tiny(Model):
    """4 and 8 channels, 3 classes; with BatchNorm or without, with a hidden linear layer or
    without.
    """

    task: ClassVar[Task] = Task("noise", classes=3, height=8, width=8, channels=1, train_count=30)

    norms: bool = True
    """BatchNorm after convolutions"""
    hidden: int = 0
    """outputs of a linear layer before the head"""

    def build(self, task: Task) -> nn.Module:
        net = nn.Sequential()
        for name, inputs, outputs in (("stem", task.channels, 4), ("stage1", 4, 8)):
            norm = [nn.BatchNorm2d(outputs)] if self.norms else []
            net.add_module(
                name, nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU())
            )
        net.add_module("pool", nn.AdaptiveAvgPool2d(1))
        net.add_module("flatten", nn.Flatten())
        if self.hidden:
            net.add_module("hidden", nn.Linear(8, self.hidden))
        net.add_module("head", nn.Linear(self.hidden or 8, task.classes))
        return net

    def anatomy(self, module: nn.Module) -> Anatomy:
        return Anatomy(stem="stem", stages=("stage1",), features="pool", head="head")


def pictures(count: int = 30, spread: int = 0, channels: int = 1) -> ImageSet:
    """Draw images of three classes that differ in brightness, by 80 levels; up to `spread` is added
    to each image at random.
    """
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 80, (count, 8, 8, channels), generator=generator)
    shift = torch.randint(0, spread + 1, (count, 1, 1, 1), generator=generator)
    images = (noise + shift + 80 * labels[:, None, None, None]).clamp(0, 255).to(torch.uint8)
    return ImageSet(images, labels)


def stage_context(
    model: Model | None = None, stage: str = "defend", component: str = "any"
) -> StageContext:
    return StageContext(
        task=Tiny.task,
        model=model or Tiny(),
        recipe=Recipe(epochs=1, batch=16, lr=0.05, precision="fp32"),
        coordinates=Coordinates(replicate=0, dataset="noise", stage=stage, component=component),
        device="cpu",
        scratch=Path("nowhere"),
        deadline=Deadline(None),
        progress=lambda done, of, loss: None,
        parts={},
    )


def access_to(
    net: nn.Module,
    data: ImageSet | None = None,
    model: Model | None = None,
    needs: Set[str] = CLEAN,
    parts: Mapping[str, Callable[[], Any]] | None = None,
    training: ImageSet | None = None,
) -> Access:
    """Grant what a defense gets whose victim is `net`: fresh copies of it, and clean images."""
    data = pictures() if data is None else data
    files = {
        "victim": lambda: copy.deepcopy(net).eval(),
        "clean-labelled": lambda: data,
        "clean-unlabelled": lambda: data.unlabelled(),
        "training-set": lambda: training,
    }
    return Access(replace(stage_context(model), parts=parts or {}), needs, files)


def trained(model: Model | None = None, epochs: int = 20) -> nn.Module:
    """Train a network that knows the pictures."""
    torch.manual_seed(0)
    net = (model or Tiny()).build(Tiny.task)
    access_to(net, model=model).fit(net, pictures(90), epochs=epochs)
    return net


@cache
def clean_network(channels: int = 1) -> nn.Module:
    """Train a network that knows the pictures, of the architecture that `crafting` and `attacked`
    work with.
    """
    train = pictures(90, 0, channels)
    torch.manual_seed(0)
    model = SmallCNN(width=8)
    net = model.build(task_of(train))
    access = AttackAccess(
        stage_context(model, "part"),
        NoAttack(),
        train,
        None,
        Coordinates(0, "noise", "part", "any"),
    )
    access.fit(net, train, epochs=30)
    return net.eval()


def stamped(data: ImageSet) -> Tensor:
    """Return the images with a bright square in a corner."""
    images = data.images.clone()
    images[:, -3:, -3:] = 255
    return images


def backdoored(model: Model | None = None, epochs: int = 20) -> nn.Module:
    """Train a network that knows the pictures and takes stamped ones for class 0."""
    torch.manual_seed(0)
    net, data = (model or Tiny()).build(Tiny.task), pictures(90)
    poison = ImageSet(stamped(data), torch.zeros(len(data), dtype=torch.int64))
    access_to(net, model=model).fit(net, data.join(poison), epochs=epochs)
    return net


def judged(net: nn.Module) -> tuple[float, float]:
    """Return the accuracy on new pictures, and the share of those of other classes that go to class
    0 when they are stamped.
    """
    test = pictures(150)
    assert test.labels is not None
    clean, _ = predict(net, test.images)
    fooled, _ = predict(net, stamped(test))
    others = test.labels != 0
    accuracy = float((clean == test.labels).float().mean())
    return accuracy, float((fooled[others] == 0).float().mean())


def crafting(
    attack: PoisoningAttack,
    train: ImageSet,
    parts: Mapping[str, nn.Module] | None = None,
    replicate: int = 0,
) -> AttackAccess:
    """Grant what `craft` and `poison` get; `parts` are the networks that fill parameters."""
    at = Coordinates(replicate, "noise", "poison", "any")
    opened = {name: partial(copy.deepcopy, part) for name, part in (parts or {}).items()}
    around = replace(
        stage_context(SmallCNN(width=8)), task=task_of(train), coordinates=at, parts=opened
    )
    return AttackAccess(around, attack, train, None, at)


def task_of(train: ImageSet) -> Task:
    """Return the task of these pictures."""
    return replace(
        Tiny.task,
        height=train.images.shape[1],
        width=train.images.shape[2],
        channels=train.images.shape[3],
    )


def attacked(
    attack: PoisoningAttack,
    epochs: int,
    spread: int = 0,
    channels: int = 1,
    parts: Mapping[str, nn.Module] | None = None,
) -> tuple[float, float]:
    """Return accuracy and attack success rate of a victim made in the two stages of an attack,
    whose parts are `parts`.

    With a `spread` classes overlap: a clean-label trigger is not learned where the class itself
    says everything. The success is over images of attacked classes other than the one that they are
    mapped to.
    """
    model = SmallCNN(width=8)
    train, select = pictures(300, spread, channels), Coordinates(0, "noise", "poison", "any")
    task = task_of(train)
    trigger = attack.trigger(task)
    access = crafting(attack, train, parts)
    attack.craft(access, trigger)
    poisoned = attack.poison(access, trigger)
    around = replace(
        stage_context(model, "victim"),
        task=task,
        recipe=Recipe(epochs=epochs, batch=32, lr=0.02, schedule="cosine", precision="fp32"),
        parts={name: partial(copy.deepcopy, part) for name, part in (parts or {}).items()},
    )
    victim = attack.implant(AttackAccess(around, attack, train, poisoned, select), trigger)
    test = pictures(150, spread, channels)
    clean, _ = predict(victim, test.images)
    fooled, _ = predict(victim, test.images, trigger=trigger, quantise=attack.test_quantise)
    wanted = torch.tensor(attack.label_table(task.classes))[test.labels]
    counted = (wanted >= 0) & (wanted != test.labels)
    return float((clean == test.labels).float().mean()), float(
        (fooled == wanted)[counted].float().mean()
    )
