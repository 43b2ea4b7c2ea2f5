"""The payload of each stage kind: all that its body is told beside its inputs.

A plan makes a payload, the body reads it, and between the two processes it is JSON (`to_json`
here, `harness.stages.wire` on the other side).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from harness.access.context import Coordinates
from harness.components.spec import ComponentSpec
from harness.learn.task import Task

RecipeFields = Mapping[str, Any]
"""All fields of a `Recipe` as JSON."""


@dataclass(frozen=True)
class Structure:
    """The network that a stored state fits: the model, as every defense since has rebuilt it."""

    model: ComponentSpec
    rebuilds: tuple[ComponentSpec, ...] = ()

    def rebuilt_by(self, defense: ComponentSpec) -> Structure:
        """Return the structure after one more defense that overrides `rebuild`."""
        return replace(self, rebuilds=(*self.rebuilds, defense))


@dataclass(frozen=True)
class Filling:
    """A component that fills a parameter of another; `structure` is that of a defended model."""

    component: ComponentSpec
    structure: Structure | None = None


@dataclass(frozen=True)
class ContextSpec:
    """A `StageContext` as far as a plan knows it. `parts`: fillings by the parameter's name."""

    task: Task
    coordinates: Coordinates
    model: ComponentSpec | None = None
    recipe: RecipeFields | None = None
    parts: Mapping[str, Filling] = field(default_factory=dict)


@dataclass(frozen=True)
class Payload:
    """Base of all payloads; `kind` names the stage kind, and so the module of the body."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the payload as nested dicts and lists."""
        return asdict(self)


@dataclass(frozen=True)
class DataPayload(Payload):
    """`component`: the dataset to decode and split."""

    kind: ClassVar[str] = "data"
    component: ComponentSpec


@dataclass(frozen=True)
class PoisonPayload(Payload):
    """`component`: the attack."""

    kind: ClassVar[str] = "poison"
    component: ComponentSpec
    context: ContextSpec


@dataclass(frozen=True)
class VictimPayload(Payload):
    """`component`: the attack; `structure`: of the network that it trains."""

    kind: ClassVar[str] = "victim"
    component: ComponentSpec
    context: ContextSpec
    structure: Structure


@dataclass(frozen=True)
class ExportPayload(Payload):
    """`component`: the attack."""

    kind: ClassVar[str] = "export"
    component: ComponentSpec
    context: ContextSpec


@dataclass(frozen=True)
class GrantPayload(Payload):
    """`count` images in the order that `coordinates` draw."""

    kind: ClassVar[str] = "grant"
    coordinates: Coordinates
    count: int
    labelled: bool


@dataclass(frozen=True)
class PartPayload(Payload):
    """`component`: the part; `granted`: within its owner's `needs`; `structure`: of the suspect
    that the owner works on, if it works on one.
    """

    kind: ClassVar[str] = "part"
    component: ComponentSpec
    context: ContextSpec
    granted: tuple[str, ...]
    structure: Structure | None


@dataclass(frozen=True)
class DefendPayload(Payload):
    """`component`: the defense; `granted`: its `needs`; `structure`: of the model that it starts
    from, `defended_structure`: of the model that it leaves; `attack`: for the grant `oracle` only.
    """

    kind: ClassVar[str] = "defend"
    component: ComponentSpec
    context: ContextSpec
    granted: tuple[str, ...]
    structure: Structure
    defended_structure: Structure
    attack: ComponentSpec | None


@dataclass(frozen=True)
class EvaluatePayload(Payload):
    """`component`: the attack whose triggers are tried; `structure`: of the model."""

    kind: ClassVar[str] = "evaluate"
    component: ComponentSpec
    context: ContextSpec
    structure: Structure


@dataclass(frozen=True)
class ScorePayload(Payload):
    """`metrics`: those of one distribution, by the name that their rows are stored under."""

    kind: ClassVar[str] = "score"
    metrics: Mapping[str, ComponentSpec]


@dataclass(frozen=True)
class MeasurePayload(Payload):
    """`component`: the metric; `row`: the name that its row is stored under; `structure`: of the
    model; `attack`: for metrics that need the trigger.
    """

    kind: ClassVar[str] = "measure"
    component: ComponentSpec
    context: ContextSpec
    row: str
    structure: Structure
    attack: ComponentSpec


@dataclass(frozen=True)
class PreviewPayload(Payload):
    """`component`: the attack; `images`: how many to show at most."""

    kind: ClassVar[str] = "preview"
    component: ComponentSpec
    context: ContextSpec
    images: int
