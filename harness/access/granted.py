"""The grants of attacks, defenses, parts and metrics, and nothing else.

An access object lives in the component's own process. It is built from the files that the host
copied into the stage's scratch folder: what a component was not granted is not on this side of the
wall at all, so the checks here only turn a missing file into a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

from harness.access.context import Coordinates, Deadline, StageContext
from harness.access.predictions import Predictions
from harness.errors import Undeclared
from harness.learn.anatomy import Anatomy, Architecture, Unit
from harness.learn.rules import BatchStamping
from harness.learn.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from harness.learn.hooks import FitSettings
    from harness.learn.images import ImageSet
    from harness.learn.poisoning import PoisonedSet
    from harness.learn.recipes import Recipe
    from harness.learn.training import History


class Workbench:
    """Always there, whatever is granted."""

    def __init__(self, context: StageContext, granted: AbstractSet[str]) -> None:
        self._context = context
        self._granted = frozenset(granted)
        self._calls: dict[str, int] = {}
        self.images_processed = 0
        self._precision: str | None = None
        self._stepping: str | None = None
        self.record: dict[str, float] = {}
        """Numbers worth a row (mask density, loss reached); a `Result`'s own record wins over it.
        """

    @property
    def task(self) -> Task:
        """The classification problem."""
        return self._context.task

    @property
    def recipe(self) -> Recipe:
        """The grid's recipe for victims; `recipe.replace(epochs=10)` makes a variant."""
        if self._context.recipe is None:
            raise Undeclared(
                "the grid's recipe belongs to a model: "
                'add "model" to `needs`, or bring a recipe of your own'
            )
        return self._context.recipe

    @property
    def device(self) -> str:
        """The device to compute on: `cpu` or `cuda:0`."""
        return self._context.device

    @property
    def scratch(self) -> Path:
        """An empty folder to write to, deleted afterwards."""
        return self._context.scratch

    @property
    def deadline(self) -> Deadline:
        """When the stage will be killed."""
        return self._context.deadline

    def generator(self, stream: str) -> torch.Generator:
        """Return a CPU generator of the component's own, the same in every run of this stage; one a
        stream name.
        """
        return _generator(self.seed(stream))

    def seed(self, stream: str) -> int:
        """Return the seed behind `generator(stream)`, for other libraries' generators; 63 bits."""
        return self._context.coordinates.own(stream)

    def fresh_model(self) -> nn.Module:
        """Return a newly initialised network of the cell's architecture, in float32 on `device`.

        The first call of every component of a stage kind starts from the same weights; further
        calls from others.
        """
        from harness.learn.device import seeded_build

        if self._context.model is None:
            raise Undeclared("this stage belongs to no model, so there is no fresh one")
        network = seeded_build(
            self._context.model, self.task, self._context.coordinates.shared(self._nth("init"))
        )
        return network.to(self.device)

    def fit(
        self,
        model: nn.Module,
        data: ImageSet,
        recipe: Recipe | None = None,
        **settings: Unpack[FitSettings],
    ) -> History:
        """Train `model` in place on `data` and leave it in eval mode.

        `settings` are hooks (see `harness.learn.Hooks`) and single fields that replace those of
        `recipe` (default: the grid's). Raises `Diverged` on a non-finite loss, ValueError for a
        setting that is neither.
        """
        from harness.learn.hooks import Hooks
        from harness.learn.training import fit

        chosen = self.recipe if recipe is None else recipe
        hook_names = {field.name for field in fields(Hooks)}
        hooks: dict[str, Any] = {}
        changes: dict[str, Any] = {}
        for name, value in settings.items():
            if name in hook_names:
                hooks[name] = value
            else:
                changes[name] = value
        if changes:
            chosen = chosen.replace(**changes)
        call = self._nth("fit")

        def draw(stream: str) -> torch.Generator:
            return _generator(self._context.coordinates.shared(f"{call}/{stream}"))

        history = fit(
            model,
            data,
            chosen,
            generator=draw,
            hooks=Hooks(**hooks),
            device=self.device,
            deadline=self.deadline.check,
            progress=self._context.progress,
            count=self.tick,
        )
        self._precision = history.precision
        self._stepping = history.stepping
        return history

    def account(self) -> dict[str, Any]:
        """Return the manifest's account of the work: images processed; precision of the last `fit`,
        and how it made steps.
        """
        return {
            "images": self.images_processed,
            "precision": self._precision,
            "stepping": self._stepping,
        }

    def tick(self, images: int = 0, done: int | None = None, of: int = 0) -> None:
        """Count images (a forward and backward pass counts one) in a loop that `fit` does not run,
        show progress.

        Raises OutOfTime once the deadline has passed.
        """
        self.images_processed += images
        self.deadline.check()
        if done is not None:
            self._context.progress(done, of, None)

    def anatomy(self, model: nn.Module) -> Anatomy:
        """Return the names of `model`'s parts. Raises `Incompatible` where the architecture has no
        such parts.
        """
        return self._architecture("anatomy").anatomy(model)

    def units(self, model: nn.Module) -> Iterable[Unit]:
        """Return the prunable channels of `model`."""
        return self._architecture("prunable units").units(model)

    def part(self, name: str) -> Any:
        """Return what fills the parameter `name`: a module in eval mode, or an `ImageSet` where it
        is a dataset.
        """
        if name not in self._context.parts:
            known = ", ".join(sorted(self._context.parts)) or "none"
            raise Undeclared(f"no parameter {name!r} is a component; those that are: {known}")
        return self._context.parts[name]()

    def _architecture(self, purpose: str) -> Architecture:
        if self._context.model is None:
            raise Undeclared(f"this stage belongs to no model, so there is no {purpose}")
        return self._context.model

    def _nth(self, name: str) -> str:
        """Return `name` for the first call, `name/1` for the second: every call draws differently,
        the same in each run.
        """
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        return f"{name}/{call}" if call else name


class Granted(Workbench):
    """A workbench with grants: `files` opens each granted thing by its name in `needs`."""

    def __init__(
        self,
        context: StageContext,
        granted: AbstractSet[str],
        files: Mapping[str, Callable[[], Any]],
    ) -> None:
        super().__init__(context, granted)
        self._files = files

    def _take(self, what: str) -> Any:
        self._check(what)
        return self._files[what]()

    def _check(self, what: str) -> None:
        if what not in self._granted:
            listed = ", ".join(sorted(self._granted)) or "nothing"
            raise Undeclared(
                f"{what!r} was not declared: `needs` names {listed}. "
                "Add it to `needs` to be granted it"
            )


class Access(Granted):
    """The grants of one defense. Every method returns a fresh copy that is the defense's own."""

    def victim(self) -> nn.Module:
        """Return the suspect model on `device`, in eval mode. Needs `victim`."""
        return cast("nn.Module", self._take("victim"))

    def clean(self) -> ImageSet:
        """Return the defender's clean images with labels. Needs `clean-labelled`."""
        return cast("ImageSet", self._take("clean-labelled"))

    def unlabelled(self) -> ImageSet:
        """Return the defender's clean images; `labels` is None. Needs `clean-unlabelled`."""
        return cast("ImageSet", self._take("clean-unlabelled"))

    def training_set(self) -> ImageSet:
        """Return the training set as the attacker delivered it, in an order that tells nothing.
        Needs `training-set`.
        """
        return cast("ImageSet", self._take("training-set"))

    def oracle(self) -> Oracle:
        """Trigger and test data, for published variants that leak; every row is marked. Needs
        `oracle`.
        """
        return cast("Oracle", self._take("oracle"))


@dataclass(frozen=True)
class Oracle:
    """The secrets of a cell: the trigger, its effect (`label_table`), and the test set."""

    trigger: nn.Module | None
    label_table: tuple[int, ...]
    test: ImageSet


class Attacker(Protocol):
    """The part of an `Attack` that its access object asks."""

    @property
    def batch_stamping(self) -> BatchStamping | None:
        """The stamping that `fit` does in each batch."""
        ...

    def label_table(self, classes: int) -> list[int]:
        """Return for each true label the label that its triggered images should get."""
        ...


class AttackAccess(Workbench):
    """The means of an attack: the clean training set and, in `implant`, its own poisoned images."""

    def __init__(
        self,
        context: StageContext,
        attack: Attacker,
        train: ImageSet,
        poisoned: PoisonedSet | None,
        select: Coordinates,
    ) -> None:
        super().__init__(context, {"train"})
        self.attack = attack
        self.train = train
        self._poisoned = poisoned
        self._selecting = select

    @property
    def label_table(self) -> tuple[int, ...]:
        """For each true label the label its triggered images should get, -1 where the class is not
        attacked.
        """
        return tuple(self.attack.label_table(self.task.classes))

    @property
    def poisoned(self) -> PoisonedSet:
        """The result of `poison`. Only in `implant`."""
        if self._poisoned is None:
            raise Undeclared("there is no poisoned set before `poison` has made it")
        return self._poisoned

    def selection(self) -> torch.Generator:
        """Return the generator of the replicate's one permutation, which all attacks share: a 1 %
        set is part of a 5 % set.
        """
        return _generator(self._selecting.shared("select"))

    def fit_poisoned(self, trigger: nn.Module | None, **settings: Unpack[FitSettings]) -> nn.Module:
        """Train a fresh model on the poisoned training set by the grid's recipe: the default
        `implant`.
        """
        from harness.learn.poisoning import training_data

        model = self.fresh_model()
        stamping = self.attack.batch_stamping
        data, hooks = training_data(self.train, self._poisoned, trigger, stamping)
        combined = cast("FitSettings", {**hooks, **settings})
        self.fit(model, data, **combined)
        return model


class PartAccess(Access):
    """The grants of a part: no more than its owner's. `train` is the clean training set, for an
    attack's parts.
    """

    def train(self) -> ImageSet:
        """Return the attacker's clean training set. Needs `train`."""
        return cast("ImageSet", self._take("train"))


class MetricAccess(Granted):
    """The grants of a metric that measures."""

    def __init__(
        self,
        context: StageContext,
        granted: AbstractSet[str],
        files: Mapping[str, Callable[[], Any]],
    ) -> None:
        super().__init__(context, granted, files)
        self.arrays: dict[str, Any] = {}

    def model(self) -> nn.Module:
        """Return the model under measurement, in eval mode. Needs `model`."""
        return cast("nn.Module", self._take("model"))

    def predictions(self) -> Predictions:
        """Return the model's predictions over the test set. Needs `predictions`."""
        return cast("Predictions", self._take("predictions"))

    def validation(self) -> ImageSet:
        """Return the validation split. Needs `validation`."""
        return cast("ImageSet", self._take("validation"))

    def test(self) -> ImageSet:
        """Return the test split. Needs `test`."""
        return cast("ImageSet", self._take("test"))

    def training_set(self) -> ImageSet:
        """Return the poisoned training set as a defense received it. Needs `training-set`."""
        return cast("ImageSet", self._take("training-set"))

    def poisoned(self) -> np.ndarray:
        """Return a boolean array: the rows of `training_set()` that are poisoned. Needs
        `training-set`.
        """
        self._check("training-set")
        return cast("np.ndarray", self._files["poisoned"]())

    def trigger(self) -> Oracle:
        """Return the trigger with its label table and the test split. Needs `trigger`."""
        return cast("Oracle", self._take("trigger"))

    def result(self) -> Mapping[str, Any] | None:
        """Return the defense's result: verdict and `record` (with `seconds`, `images`); None
        undefended. Needs `result`.
        """
        return cast("Mapping[str, Any] | None", self._take("result"))

    def reference(self) -> Mapping[str, Any] | None:
        """Return the metric's own `values` and `arrays` on the reference model; None on that model.
        Needs `reference`.
        """
        return cast("Mapping[str, Any] | None", self._take("reference"))

    def save(self, **arrays: Any) -> None:
        """Keep arrays beside the numbers (a distance matrix): later measurements find them through
        `reference`.
        """
        self.arrays.update(arrays)


def _generator(start: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(start)
