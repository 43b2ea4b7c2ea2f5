"""Defenses, which make a suspect model harmless, or tell whether it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from harness.components.base import Component

if TYPE_CHECKING:
    from torch import nn

    from harness.access.granted import Access


@dataclass(frozen=True)
class Result:
    """The outcome of a defense that is more than a bare module. At least one of `model` and a
    verdict is set.

    `flagged`: is the victim backdoored; `score`: the larger, the surer; `targets`: suspected target
    labels; `suspects`: indices into the granted training set thought poisoned; `record`: finite
    numbers that become rows.
    """

    model: nn.Module | None = None
    flagged: bool | None = None
    score: float | None = None
    targets: Sequence[int] = ()
    suspects: Sequence[int] = ()
    record: Mapping[str, float] = field(default_factory=dict)


class Defense(Component):
    """Base of all defenses: from its grants, a defended model, a verdict, or both."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"victim", "clean-labelled"})
    """Within victim, clean-labelled, clean-unlabelled, training-set, oracle."""

    def grants(self) -> AbstractSet[str]:
        """Return what this instance is granted, where parameters decide. Default: `needs`."""
        return self.needs

    def defend(self, access: Access) -> nn.Module | Result:
        """Do the work. Ask `access` for everything; nothing else is there."""
        raise NotImplementedError

    @property
    def gives_model(self) -> bool:
        """False where the result is a verdict and never a model, so that nothing can be `on` it."""
        return True

    def rebuild(self, model: nn.Module) -> nn.Module:
        """Return the structure a defended state is loaded into, given the undefended one. Default:
        unchanged.
        """
        return model
