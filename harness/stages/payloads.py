"""The payload of each stage kind: all that its body is told beside its inputs.

A plan makes a payload, the body reads it, and between the two processes it is JSON (`to_json`
here, `harness.stages.wire` on the other side).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from harness.access.context import Coordinates
from harness.components.spec import ComponentSpec
from harness.keys import Shared
from harness.learn.task import Task

RecipeJSON = Mapping[str, Any]
"""All fields of a `Recipe` as JSON."""


@dataclass(frozen=True)
class Structure:
    """The network that a stored state fits: the model, as every defense since has rebuilt it."""

    model: ComponentSpec
    rebuilds: tuple[ComponentSpec, ...] = ()

    @cached_property
    def key_entry(self) -> Shared:
        """The structure as keys hold it."""
        rebuilds = [defense.key_entry for defense in self.rebuilds]
        return Shared(model=self.model.key_entry, rebuilds=rebuilds)

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
    """A `StageContext` as far as a plan knows it. `parts`: fillings by the parameter's name.

    `numerics` has what the grid's recipe says of precision and determinism, as far as it is not the
    default, where the recipe itself is not here.
    """

    task: Task
    coordinates: Coordinates
    model: ComponentSpec | None = None
    recipe: RecipeJSON | None = None
    parts: Mapping[str, Filling] = field(default_factory=dict)
    numerics: RecipeJSON = field(default_factory=dict)


@dataclass(frozen=True)
class Payload:
    """Base of all payloads; `kind` names the stage kind, and so the module of the body.

    Everything in a payload is in the stage's key, so that no two works can share one: a component
    by its `key_entry`, which leaves out what moves no number (where its class lies, paths, fields
    marked `NotInKey`), everything else by itself.
    """

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the payload as nested dicts and lists, for the body."""
        return {name: _for_body(getattr(self, name)) for name in _field_names(type(self))}

    def in_key(self) -> dict[str, Any]:
        """Return the payload as nested dicts and lists, for the key."""
        return {name: _for_key(getattr(self, name)) for name in _field_names(type(self))}


def _for_body(value: Any) -> Any:
    """Turn dataclasses into dicts and tuples into lists; a component is what builds it again."""
    if isinstance(value, ComponentSpec):
        return {
            "target": value.target,
            "params": value.params,
            "kind": value.kind,
            "name": value.name,
            "files": value.files,
        }
    if is_dataclass(value):
        return {name: _for_body(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        return {name: _for_body(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_for_body(item) for item in value]
    return value


# A grid of ten thousand cells puts thirty thousand payloads into keys, most of them made of the
# same few components, tasks and recipes: these are `Shared`, whose text is written once.


def _for_key(value: Any) -> Any:
    """Turn dataclasses into dicts and tuples into lists; a component is its `key_entry`."""
    kind = type(value)
    if value is None or kind in _PLAIN:
        return value
    if kind in _WITH_ENTRY:
        return value.key_entry
    if kind in _REPEATED:
        return _shared(value)
    if kind in (tuple, list):
        return [_for_key(item) for item in value]
    if kind is dict:
        return {name: _for_key(item) for name, item in value.items()}
    return {name: _for_key(getattr(value, name)) for name in _field_names(kind)}


_PLAIN = frozenset({str, int, bool, float, Shared})
_WITH_ENTRY = frozenset({ComponentSpec, Structure})
_REPEATED = frozenset({Task, Coordinates})


@lru_cache(maxsize=100_000)
def _shared(value: Task | Coordinates) -> Shared:
    return Shared(asdict(value))


_FIELD_NAMES: dict[type[Any], tuple[str, ...]] = {}


def _field_names(kind: type[Any]) -> tuple[str, ...]:
    names = _FIELD_NAMES.get(kind)
    if names is None:
        names = _FIELD_NAMES[kind] = tuple(member.name for member in fields(kind))
    return names


@dataclass(frozen=True)
class DataPayload(Payload):
    """`component`: the dataset to decode and split; `fingerprint` stands for its content."""

    kind: ClassVar[str] = "data"
    component: ComponentSpec
    fingerprint: str


@dataclass(frozen=True)
class WithContext(Payload):
    """Base of the payloads of stages in which one component works."""

    component: ComponentSpec
    context: ContextSpec


@dataclass(frozen=True)
class PoisonPayload(WithContext):
    """`component`: the attack."""

    kind: ClassVar[str] = "poison"


@dataclass(frozen=True)
class VictimPayload(WithContext):
    """`component`: the attack; `structure`: of the network that it trains."""

    kind: ClassVar[str] = "victim"
    structure: Structure


@dataclass(frozen=True)
class ExportPayload(WithContext):
    """`component`: the attack."""

    kind: ClassVar[str] = "export"


@dataclass(frozen=True)
class GrantPayload(Payload):
    """`count` images of `split` in the order that `coordinates` draw."""

    kind: ClassVar[str] = "grant"
    coordinates: Coordinates
    split: str
    count: int
    labelled: bool


@dataclass(frozen=True)
class PartPayload(WithContext):
    """`component`: the part; `granted`: within its owner's `needs`; `structure`: of the suspect,
    for a part that is granted the victim.
    """

    kind: ClassVar[str] = "part"
    granted: tuple[str, ...]
    structure: Structure | None


@dataclass(frozen=True)
class DefendPayload(WithContext):
    """`component`: the defense; `granted`: its `needs`; `structure`: of the model that it starts
    from, `defended_structure`: of the model that it leaves; `attack`: for the grant `oracle` only.
    """

    kind: ClassVar[str] = "defend"
    granted: tuple[str, ...]
    structure: Structure
    defended_structure: Structure
    attack: ComponentSpec | None


@dataclass(frozen=True)
class StampPayload(Payload):
    """`attack`: the one whose triggers are tried; None where there is no trigger."""

    kind: ClassVar[str] = "stamp"
    task: Task
    coordinates: Coordinates
    attack: ComponentSpec | None


@dataclass(frozen=True)
class AskPayload(Payload):
    """Base of the payloads of stages in which a model is asked about images. `structure`: of the
    model. No attack: the process of a model must not know it.
    """

    task: Task
    coordinates: Coordinates
    structure: Structure


@dataclass(frozen=True)
class EvaluatePayload(AskPayload):
    """About a whole stream."""

    kind: ClassVar[str] = "evaluate"


@dataclass(frozen=True)
class RecheckPayload(AskPayload):
    """About a sample of it."""

    kind: ClassVar[str] = "recheck"


@dataclass(frozen=True)
class ScorePayload(Payload):
    """`metrics`: those of one distribution, by the name that their rows are stored under."""

    kind: ClassVar[str] = "score"
    metrics: Mapping[str, ComponentSpec]


@dataclass(frozen=True)
class MeasurePayload(WithContext):
    """`component`: the metric; `row`: the name that its row is stored under; `structure`: of the
    model; `attack`: for metrics that need the trigger only.
    """

    kind: ClassVar[str] = "measure"
    row: str
    structure: Structure
    attack: ComponentSpec | None


@dataclass(frozen=True)
class PreviewPayload(WithContext):
    """`component`: the attack; `images`: how many to show at most."""

    kind: ClassVar[str] = "preview"
    images: int


@dataclass(frozen=True)
class ShowPayload(WithContext):
    """`component`: the part, which needs nothing; `images`: how many to show."""

    kind: ClassVar[str] = "show"
    images: int


PAYLOADS: Mapping[str, type[Payload]] = {
    payload.kind: payload
    for payload in (
        DataPayload,
        PoisonPayload,
        VictimPayload,
        ExportPayload,
        GrantPayload,
        PartPayload,
        DefendPayload,
        StampPayload,
        EvaluatePayload,
        RecheckPayload,
        ScorePayload,
        MeasurePayload,
        PreviewPayload,
        ShowPayload,
    )
}
"""The payload class of each stage kind."""
