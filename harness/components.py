"""The interfaces of everything a plugin can bring, and how their parameters are declared.

A component is a frozen pydantic model: its fields are its parameters (typed, defaulted, validated, part of the key), its
docstring's first line is what `bench list` shows, a string under a field is that field's meaning in `bench show`.
Importing this module costs no torch; bodies import what they need.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from harness.access import Access, AttackAccess, MetricAccess, PartAccess
    from harness.learn.poisoning import PoisonedSet

KINDS = ("attack", "defense", "model", "dataset", "metric", "part")

DEFENSE_NEEDS = frozenset({"victim", "clean-labelled", "clean-unlabelled", "training-set", "oracle"})
PART_NEEDS = (DEFENSE_NEEDS - {"oracle"}) | {"train", "model"}
ATTACK_NEEDS = frozenset({"model"})
METRIC_NEEDS = frozenset({"predictions", "model", "validation", "test", "training-set", "trigger", "result", "reference"})

RESERVED = frozenset({"name", "as", "preset", "sweep", "seeds", "training", "grant", "on", "established"})
"""Keys of a grid entry that are not parameters."""


class Component(BaseModel):
    """What all six kinds share."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    version: ClassVar[int] = 1
    """Raise it when results change for a reason that the sources do not show."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named parameter sets; `"bcu/gtsrb"` wins over `"bcu"` on that dataset. Expanded before hashing."""
    seeded: ClassVar[bool] = True
    """False drops the replicate from key and seeds: one artefact serves all replicates."""
    citation: ClassVar[str] = ""
    """The paper, in one line."""

    def compatible(self, context: Context) -> str | None:
        """The reason why this component cannot work in `context`, or None."""
        return None


@dataclass(frozen=True)
class Task:
    """The classification problem, as far as everybody may know it.

    `height`, `width` in pixels, `channels` 1 or 3; images outside models are [0,1] floats (NCHW) or uint8 (NHWC).
    `train_count` is the number of training images a victim sees.
    """

    dataset: str
    classes: int
    height: int
    width: int
    channels: int
    train_count: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Traits:
    """What a plan knows of another component of the cell: its name, parameters and the facts its class declares.

    `facts` holds `has_trigger`, `label_map`, `training_controlled` for attacks and `anatomy`, `units` (bool: does the
    class override the method) for models.
    """

    kind: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """Where a component is asked to work. Members that do not apply are None."""

    task: Task
    model: Traits | None = None
    attack: Traits | None = None
    defense: Traits | None = None


# --- parameters that are components, files, or not part of the key -------------------------------------------------

C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class Reference:
    """A parameter that names a component: resolved like a grid entry, an upstream stage in the plan."""

    kind: str
    name: str
    preset: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, kind: str, value: Any) -> Self:
        """From what a grid may hold: a name, or a table `{name = ..., preset = ..., <parameters>}`.

        Raises ValueError with what would be right.
        """
        if isinstance(value, Reference):
            if value.kind != kind:
                raise ValueError(f"a {kind} is wanted here, not a {value.kind}")
            return cls(kind, value.name, value.preset, dict(value.params))
        if isinstance(value, str):
            return cls(kind, value)
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(f'a {kind} is wanted here: "name" or {{name = "...", <its parameters>}}')
        params = {key: item for key, item in value.items() if key not in ("name", "preset")}
        return cls(kind, value["name"], value.get("preset"), params)

    def table(self) -> dict[str, Any]:
        """The table that `read` understands."""
        preset = {"preset": self.preset} if self.preset else {}
        return {"name": self.name, **preset, **self.params}


class Use(Generic[C]):
    """The type of a parameter that is a component: `teacher: Use[Defense] = use("ft", epochs=10)`.

    The body reads what was made of it with `access.part("teacher")`: a `Part` gives its module; a `Dataset` an `ImageSet`
    of its training images, resized to the task; a `Model` a fresh network; a `Defense` (of a defense) the defended module,
    made from the owner's victim with the owner's grant.
    """

    @classmethod
    def __class_getitem__(cls, kind: type[C]) -> Any:
        """`Use[Defense]`; a subclass of one of the six counts as its kind."""
        return Annotated[Reference, _ReferenceSchema(kind_of(kind))]


@dataclass(frozen=True)
class _ReferenceSchema:
    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def read(value: Any) -> Reference:
            reference = value if isinstance(value, Unbound) else Reference.read(self.kind, value)
            if isinstance(reference, Unbound):
                reference = Reference(self.kind, reference.name, reference.preset, reference.params)
            return reference

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.table())
        )


@dataclass(frozen=True)
class Unbound:
    """What `use` returns: a reference that takes its kind from the field it is the default of."""

    name: str
    preset: str | None
    params: Mapping[str, Any]


def use(name: str, /, preset: str | None = None, **params: Any) -> Any:
    """A default for a `Use[...]` field."""
    return Unbound(name, preset, params)


class _NotInKey:
    """Marks a field that moves no number: a root folder, a download switch."""


NotInKey = _NotInKey()
"""`root: Annotated[Path | None, NotInKey] = None`: the field is not part of the key."""


class _FileMark:
    """Marks a path whose content, not its name, is in the key."""


File = Annotated[Path, Field(strict=False), _FileMark()]
"""A path parameter keyed by content. Relative paths are looked up beside the grid, then in `$BENCH_DATA`."""


# --- the six kinds -------------------------------------------------------------------------------------------------

LabelMapKind = Literal["all-to-one", "all-to-all", "source-specific"]
Quantise = Literal["truncate", "round", "none"]


class Attack(Component):
    """Makes a victim: data-poisoning if the host trains it, training-controlled if it overrides `implant`.

    Stage `poison` runs `trigger`, `craft` and, for a data-poisoning attack, `poison`; stage `victim` runs `implant`. The
    trigger's state is saved again after `implant`, which may have trained it. A training-controlled attack's `poison`
    runs only where an in-training defense asks for a training set, with the finished trigger.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset()
    """`model`, where `craft` or `poison` works against the cell's architecture: one poisoned set a model then."""

    has_trigger: ClassVar[bool] = True
    """False for the attack that is none: no triggered test set, no ASR."""
    recipe: ClassVar[Mapping[str, Any] | str | None] = None
    """The attack's own schedule (fields of `Recipe`, or a recipe's name); goes before `[training] recipe`."""

    def label_table(self, classes: int) -> list[int]:
        """For each true label the label its triggered images should get; -1 where the class is not attacked."""
        raise NotImplementedError

    def trigger(self, task: Task) -> nn.Module | None:
        """The structure of the trigger: maps [0,1] NCHW batches to triggered ones. Its state is filled by `craft`."""
        raise NotImplementedError

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Fill the trigger's parameters and buffers (draw, optimise, read). Default: nothing to fill."""

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """The poisoned part of the training set."""
        raise NotImplementedError

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train the victim. Default: the host's `fit` on the poisoned set."""
        return access.fit_poisoned(trigger)

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        """Further named triggers whose predictions are stored too (WaNet's noise mode). Default: none."""
        return {}

    @property
    def test_quantise(self) -> Quantise:
        """How a triggered test image returns to uint8 before a model sees it; "none": it stays float."""
        return "truncate"

    @property
    def training_controlled(self) -> bool:
        """Whether the attack trains the victim itself; its exported training set is then stamped afterwards."""
        return type(self).implant is not Attack.implant


class TargetedAttack(Attack):
    """An attack with a target label; `label_table` follows from it."""

    target: Annotated[int, Field(ge=0)] = 0
    """the target label"""
    label_map: LabelMapKind = "all-to-one"
    """which label a triggered image of class y should get: target; (y+1) mod K; target for the classes in `sources`"""
    sources: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """attacked classes of a source-specific label map"""

    def label_table(self, classes: int) -> list[int]:
        """See `Attack.label_table`. Raises ValueError where target or sources are no classes of the task."""
        wrong = [label for label in (self.target, *self.sources) if label >= classes]
        if wrong:
            raise ValueError(f"label {wrong[0]} is no class of a task with {classes} classes (0 to {classes - 1})")
        if self.label_map == "all-to-all":
            return [(label + 1) % classes for label in range(classes)]
        if self.label_map == "source-specific":
            return [self.target if label in self.sources else -1 for label in range(classes)]
        return [self.target] * classes

    def compatible(self, context: Context) -> str | None:
        """Target and sources must be classes of the task; a source-specific map must name its sources."""
        if (self.label_map == "source-specific") != bool(self.sources):
            return 'label_map = "source-specific" and sources go together'
        try:
            self.label_table(context.task.classes)
        except ValueError as error:
            return str(error)
        return None


class PoisoningAttack(TargetedAttack):
    """An attack with the usual parameters of data poisoning, from which `poison` follows."""

    poison_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """share of `rate_of` that is poisoned"""
    rate_of: Literal["train", "eligible"] = "train"
    """what `poison_rate` is a share of: the training set, or its eligible images"""
    eligible: Literal["all", "non-target", "target"] = "all"
    """which images may be poisoned"""
    order: Literal["random", "first"] = "random"
    """which of them are: a prefix of the replicate's permutation, or the first in dataset order"""
    add: bool = False
    """add poisoned copies and keep the originals, instead of replacing them"""
    quantise: Quantise = "truncate"
    """how a stamped image returns to uint8; "none" keeps floats (only with `when` after loading)"""
    when: Literal["dataset", "before-augment", "after-augment"] = "dataset"
    """stamp once before training, or each batch before or after augmentation"""
    clean_label: ClassVar[bool] = False
    """True where poisoned images keep their labels."""

    @property
    def test_quantise(self) -> Quantise:
        """Test images are stamped as training images are."""
        return self.quantise

    def compatible(self, context: Context) -> str | None:
        """As a targeted attack; and floats cannot be kept in a uint8 training set."""
        if self.quantise == "none" and self.when == "dataset":
            return 'quantise = "none" keeps floats, which a uint8 training set cannot: use when = "before-augment"'
        return super().compatible(context)

    def stamp(self, access: AttackAccess, trigger: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The poisoned version of training images (uint8 NHWC, with their true labels). Default: the trigger, quantised.

        For attacks that poison with something else than they test with (clean-label attacks perturb first).
        """
        from harness.learn.poisoning import stamp

        return stamp(trigger, images, "truncate" if self.quantise == "none" else self.quantise)

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """The images that the base parameters select, stamped and relabelled."""
        from harness.learn.poisoning import poison

        assert trigger is not None
        return poison(self, access, trigger)


@dataclass(frozen=True)
class Result:
    """What a defense may return besides a bare module. At least one of `model` and a verdict is set.

    `flagged`: is the victim backdoored; `score`: the larger, the surer; `targets`: suspected target labels;
    `suspects`: indices into the granted training set thought poisoned; `record`: finite numbers that become rows.
    """

    model: nn.Module | None = None
    flagged: bool | None = None
    score: float | None = None
    targets: Sequence[int] = ()
    suspects: Sequence[int] = ()
    record: Mapping[str, float] = field(default_factory=dict)


class Defense(Component):
    """Turns what it is granted into a defended model, a verdict, or both."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"victim", "clean-labelled"})
    """Within victim, clean-labelled, clean-unlabelled, training-set, oracle."""

    def grants(self) -> AbstractSet[str]:
        """What this instance is granted, where parameters decide. Default: `needs`."""
        return self.needs

    def defend(self, access: Access) -> nn.Module | Result:
        """Do the work. Ask `access` for everything; nothing else is there."""
        raise NotImplementedError

    def rebuild(self, model: nn.Module) -> nn.Module:
        """The structure a defended state is loaded into, given the undefended one. Default: unchanged."""
        return model


@dataclass(frozen=True)
class Anatomy:
    """Names (as in `named_modules`) of a classifier's parts, so that methods work on any net.

    `stages` go from shallow to deep; `features` outputs what `head` (the last linear layer) takes, up to flattening;
    `blocks` are the residual blocks (or the layers between two poolings) in order, where a method cuts within a stage.
    """

    stem: str
    stages: tuple[str, ...]
    features: str
    head: str
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Prunable channels of one layer: `module` (BatchNorm, else convolution or linear) with `count` outputs."""

    module: str
    count: int


class Model(Component):
    """A classifier. Normalisation is inside: it takes [0,1] floats."""

    mean: tuple[float, ...] | None = None
    """per-channel mean subtracted from [0,1] inputs; none: no normalisation"""
    std: tuple[float, ...] | None = None
    """per-channel standard deviation that inputs are divided by"""

    def build(self, task: Task) -> nn.Module:
        """A freshly initialised network for the task (initialisation draws from torch's global generator)."""
        raise NotImplementedError

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Where its parts are. Raise `Incompatible` (the default does) where the net has no such parts."""
        from harness.errors import Incompatible

        raise Incompatible(f"model {type(self).__name__} names no anatomy")

    def units(self, module: nn.Module) -> Iterable[Unit]:
        """Its prunable channels; default: every BatchNorm layer, else every convolution and linear layer but the last."""
        from harness.learn.layers import prunable_units

        return prunable_units(module)


@dataclass(frozen=True)
class Pictures:
    """A data set in memory: uint8 NHWC images, int64 labels; the test pair may be empty for out-of-distribution data."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Facts:
    """What a plan must know of a dataset before it is decoded. `fingerprint` stands for its content in keys."""

    classes: int
    height: int
    width: int
    channels: int
    train_count: int
    test_count: int
    fingerprint: str


class Dataset(Component):
    """Real or procedural pictures and how they are split; the splits are the same for every grant and replicate."""

    seeded: ClassVar[bool] = False

    pool: Annotated[int, Field(ge=0)] = 0
    """images held back from every victim for the defender; grants are prefixes of it"""
    pool_from: Literal["train", "test"] = "train"
    """which original split the pool is taken from"""
    pool_in_train: bool = False
    """whether the pool stays in the training set (some published settings)"""
    validation: Annotated[int, Field(ge=0)] = 0
    """images held back from the original training set for selection and class distances"""
    take: Annotated[int, Field(ge=1)] | None = None
    """keep only this many of the original training images, a stratified sample; none: all"""
    take_test: Annotated[int, Field(ge=1)] | None = None
    """keep only this many of the original test images, a stratified sample; none: all"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """moves the split, independently of replicates"""

    def facts(self) -> Facts:
        """Read as little as possible: header, index or parameters. Raises ValueError with the command that mends it."""
        raise NotImplementedError

    def load(self) -> Pictures:
        """Decode everything, before any split."""
        raise NotImplementedError


@dataclass(frozen=True)
class Predictions:
    """A model's answers over the test set, as numpy arrays over its n images.

    `labels` true labels; `clean` predicted labels; `mapped` what triggered images should get (-1: not attacked);
    `triggered` predicted labels of triggered images, None without a trigger; `variants` the same for other named
    triggers; `logits` of the clean images (n, classes) in half precision; `record` numbers of the defense stage, with
    `seconds` it took and `images` it processed.
    """

    labels: np.ndarray
    clean: np.ndarray
    mapped: np.ndarray
    triggered: np.ndarray | None
    variants: Mapping[str, np.ndarray]
    logits: np.ndarray
    record: Mapping[str, float]

    @property
    def attacked(self) -> np.ndarray:
        """Boolean mask of the images that ASR and RA count: attacked, and not of the mapped label already."""
        return (self.mapped >= 0) & (self.mapped != self.labels)


class Metric(Component):
    """Turns predictions, or a model with data, into numbers."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions"})
    """Within predictions, model, validation, test, training-set, trigger, result, reference."""
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool | None] = None
    """None: neither, or it depends on the attack."""

    def score(self, predictions: Predictions) -> float | Mapping[str, float]:
        """One number, or several by name. For metrics that need no model."""
        raise NotImplementedError

    def measure(self, access: MetricAccess) -> float | Mapping[str, float]:
        """For metrics that need the model or data: a stage of its own."""
        raise NotImplementedError

    def combine(self, values: Sequence[float]) -> Mapping[str, float]:
        """What a table shows of a group of replicates. Default: mean, std (n-1), n, computed by the host."""
        raise NotImplementedError


class Part(Component):
    """Fills a parameter of another component with a module made in a stage of its own (a robust model, a decoder)."""

    needs: ClassVar[AbstractSet[str]] = frozenset()
    """What the owner is granted at most, or, in an attack, `train`; and `model` to work with the cell's architecture.
    A part that needs nothing is made once for all datasets of the same image size and class count."""

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """The structure that the stored state is loaded into; `model` is a network of the cell, if `needs` names it."""
        raise NotImplementedError

    def make(self, access: PartAccess) -> nn.Module:
        """The finished module."""
        raise NotImplementedError


BY_KIND: Mapping[str, type[Component]] = {
    "attack": Attack,
    "defense": Defense,
    "model": Model,
    "dataset": Dataset,
    "metric": Metric,
    "part": Part,
}


def kind_of(component: type[Component]) -> str:
    """Which of the six kinds a class is. Raises TypeError for another class."""
    for kind, base in BY_KIND.items():
        if issubclass(component, base):
            return kind
    raise TypeError(f"{component.__name__} is none of {', '.join(base.__name__ for base in BY_KIND.values())}")


def summary(component: type[Component]) -> str:
    """The first line of the class's own docstring."""
    return (inspect.getdoc(component) or "").partition("\n")[0]
