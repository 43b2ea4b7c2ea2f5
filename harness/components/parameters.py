"""Parameters that are components or files, and parameters that are not part of the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from harness.components.base import Component, load_component
from harness.components.kinds import kind_of
from harness.components.spec import IN_PLACE, ComponentSpec

C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class Reference:
    """A parameter that names a component: resolved like a grid entry, an upstream stage in the
    plan.

    An attack that fills a parameter is no stage but the component itself. The host puts it in place
    once it is resolved: `target` is then its class, `params` are complete, and `component` is
    there.
    """

    kind: str
    name: str
    preset: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None

    @cached_property
    def component(self) -> Component:
        """The component itself. Raises ValueError where the host has not put it in place."""
        if self.target is None:
            raise ValueError(
                f"{self.kind} {self.name!r} is only named here; "
                "the host puts attacks alone in place"
            )
        return load_component(ComponentSpec(self.target, self.params))

    @classmethod
    def read(cls, kind: str, value: Any) -> Self:
        """Read what a grid may hold: a name, or a table `{name = ..., preset = ..., <parameters>}`.

        Raises ValueError with what would be right.
        """
        if isinstance(value, Reference):
            if value.kind != kind:
                raise ValueError(f"a {kind} is expected here, not a {value.kind}")
            return cls(kind, value.name, value.preset, dict(value.params))
        if isinstance(value, str):
            return cls(kind, value)
        if isinstance(value, Mapping) and set(value) == {IN_PLACE}:
            return cls(**value[IN_PLACE])
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(
                f'a {kind} is expected here: "name" or {{name = "...", <its parameters>}}'
            )
        params = {key: item for key, item in value.items() if key not in ("name", "preset")}
        return cls(kind, value["name"], value.get("preset"), params)

    def table(self) -> dict[str, Any]:
        """Return the table that `read` understands."""
        if self.target is not None:
            return {
                IN_PLACE: {
                    "kind": self.kind,
                    "name": self.name,
                    "target": self.target,
                    "params": self.params,
                }
            }
        preset = {"preset": self.preset} if self.preset else {}
        return {"name": self.name, **preset, **self.params}


@dataclass(frozen=True)
class Unbound:
    """The value of `use`: a reference that takes its kind from the field it is the default of."""

    name: str
    preset: str | None
    params: Mapping[str, Any]


@dataclass(frozen=True)
class ReferenceMark:
    """The mark of a field that takes a component of `kind`; it reads a `Reference`."""

    kind: str

    def read(self, value: Any) -> Reference:
        """Read what a grid or `use` gives. Raises ValueError with what would be right."""
        if isinstance(value, Unbound):
            return Reference(self.kind, value.name, value.preset, value.params)
        return Reference.read(self.kind, value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(Reference.table),
        )


class Use(Generic[C]):
    """The type of a parameter that is a component: `teacher: Use[Defense] = use("ft", epochs=10)`.

    The body reads what was made of it with `access.part("teacher")`: a `Part` gives its module; a
    `Dataset` an `ImageSet` of its training images, resized to the task; a `Model` a fresh network;
    a `Defense` (of a defense) the defended module, made from the owner's victim with the owner's
    grant. An `Attack` is no stage: the owner calls its methods,
    `self.<name>.component.trigger(task)`, and what it needs or uses is granted to the owner.
    """

    # The attributes of a `Reference`, for type checkers: to them a field declared `Use[Attack]` is
    # one of these.
    name: str
    target: str | None
    component: C

    @classmethod
    def __class_getitem__(cls, kind: type[C]) -> Any:
        """Return the type `Use[Defense]`; a subclass of one of the six counts as its kind."""
        return Annotated[Reference, ReferenceMark(kind_of(kind))]


def use(name: str, /, preset: str | None = None, **params: Any) -> Any:
    """Return a default for a `Use[...]` field."""
    return Unbound(name, preset, params)


class OutsideKeyMark:
    """The mark of a field that moves no number: a root folder, a download switch."""


NotInKey = OutsideKeyMark()
"""`root: Annotated[Path | None, NotInKey] = None`: the field is not part of the key."""


class FileMark:
    """The mark of a path whose content, not its name, is in the key."""


File = Annotated[Path, Field(strict=False), FileMark()]
"""A path parameter keyed by content. Relative paths are looked up beside the grid, then in
`$BENCH_DATA`.
"""


class FolderMark(OutsideKeyMark):
    """The mark of the path of a folder, which moves no number by itself: what is in it is the
    component's to fingerprint.
    """


Folder = Annotated[Path, Field(strict=False), FolderMark()]
"""A folder, looked up like a `File`, and not part of the key. It need not exist: a dataset may be
put there.
"""
