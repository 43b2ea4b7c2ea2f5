"""The grants of attacks, defenses, parts and metrics, and nothing else.

An access object lives in the component's own process. It is built from the files that the host
copied into the stage's scratch folder: what a component was not granted is not on this side of the
wall at all, so the checks here only turn a missing file into a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

from harness.access.context import Coordinates, StageContext
from harness.access.predictions import Predictions
from harness.access.workbench import Workbench
from harness.errors import Undeclared
from harness.learn.rules import BatchStamping

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from harness.learn.hooks import FitSettings
    from harness.learn.images import ImageSet
    from harness.learn.poisoning import PoisonedSet


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
        """Return trigger and test data, for published variants that leak; every row is marked.
        Needs `oracle`.
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
        return self._kept_stream("selection", self._selecting.shared("select"))

    def fit_poisoned(self, trigger: nn.Module | None, **settings: Unpack[FitSettings]) -> nn.Module:
        """Train a fresh model on the poisoned training set by the grid's recipe: the default
        `implant`.
        """
        from harness.learn.poisoning import training_data  # torch: children alone call this

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

    def unlabelled_validation(self) -> ImageSet:
        """Return the images of the validation split, in a drawn order; `labels` is None.

        Needs `validation-unlabelled`.
        """
        return cast("ImageSet", self._take("validation-unlabelled"))

    def test(self) -> ImageSet:
        """Return the test split. Needs `test`."""
        return cast("ImageSet", self._take("test"))

    def unlabelled_test(self) -> ImageSet:
        """Return the images of the test split, in a drawn order; `labels` is None.

        Needs `test-unlabelled`.
        """
        return cast("ImageSet", self._take("test-unlabelled"))

    def training_set(self) -> ImageSet:
        """Return the poisoned training set as a defense received it. Needs `training-set`."""
        return cast("ImageSet", self._take("training-set"))

    def poisoned(self) -> np.ndarray:
        """Return a boolean array: the rows of the training set, as a defense received it, that are
        poisoned. Needs `poisoned`.
        """
        return cast("np.ndarray", self._take("poisoned"))

    def trigger(self) -> Oracle:
        """Return the trigger with its label table and the test split. Needs `trigger`."""
        return cast("Oracle", self._take("trigger"))

    def result(self) -> Mapping[str, Any] | None:
        """Return the defense's result: verdict and `record` (with `seconds`, `images`); None
        for the undefended model. Needs `result`.
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
