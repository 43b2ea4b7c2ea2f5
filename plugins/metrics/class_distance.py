"""Distance from each class to each other: how far its pictures move until a network errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness import Context, Incompatible, Metric, MetricAccess, NotInKey, Part, Use, use
from harness.learn import ImageSet
from plugins.parts.distance_matrices import Matrices
from plugins.parts.pair_inversion import PairSettings
from plugins.parts.pair_search import Pair, PairSearches, Pictures
from plugins.parts.patch_distance import MOTH, OF_PATCHES, PatchDistance
from plugins.parts.pervasive_distance import OF_KERNELS, PervasiveDistance
from plugins.parts.pervasive_settings import AUTHOR, DECK, PervasiveSettings
from plugins.parts.ranges import Count, Positive


class ClassDistance(PervasiveSettings, Metric):
    """Class distance: how far pictures of a class move until the network takes them for another.

    For each ordered pair of classes one backdoor is searched that turns 90 % of 100 validation
    pictures of the first to the second, at the smallest distance: 0.001 times the mean squared
    difference of an ImageNet encoder's features; or, of MOTH's patch, the size of its mask, summed
    over the colours. The smallest of several searches counts. Numbers are the mean over pairs that
    have a distance, and by name: pairs without one (`failed`) of all `pairs`, the `smallest`, the
    growth over the network that a defense started from (`increase`, in percent: a mean over pairs
    that have a distance on both; `left_out` counts the others), what the backdoors turn of further
    pictures of the class (`held_out`, in percent) and how similar these stay (`ssim`); the effort
    of a search (`steps` of the optimiser), and by how much its distance fell in the last third of
    it (`falling`, in percent). Distances fall with every step: only networks that were measured
    alike compare.
    """

    citation = "Tao et al.: DECK - Model Hardening for Defending Pervasive Backdoors, NDSS 2024"
    needs: ClassVar[AbstractSet[str]] = frozenset({"model", "validation", "reference"})
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool | None] = True
    seeded = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": DECK,
        "author": {**AUTHOR, "decoder": {"name": "deck-decoder", "preset": "author"}},
        "moth": MOTH,
    }

    decoder: Use[Part] = use("deck-decoder")
    """encoder that distances are measured by, with its decoder"""
    backdoor: Literal["deck", "filter", "moth"] = "deck"
    """what is searched: DECK's backdoor; a filter, which sets mean and deviation of each colour and
    changes no feature; or MOTH's patch, for which no decoder is made and `alpha` weighs the size of
    the mask
    """
    mask_rate: Positive = 0.1
    """learning rate of Adam for the patch of MOTH"""
    images: Count = 100
    """validation pictures of a class that a search sees; of a smaller class all"""
    epochs: Count = 300
    """passes over them; MOTH's code makes 1000"""
    searches: Count = 3
    """searches for each pair, with pictures and draws of their own"""
    pairs: Count | None = None
    """how many ordered pairs are drawn; none: all are measured. The paper draws 20 for networks of
    TrojAI
    """
    together: Annotated[int, Field(ge=1), NotInKey] = 30
    """pairs that are searched at a time; moves rounding errors only"""

    def unused(self) -> Mapping[str, str]:
        """See `Component.unused`: a filter has no kernels, a patch knows no features."""
        unused = dict(super().unused())
        if self.backdoor == "moth":
            pervasive = [name for name in PervasiveSettings.model_fields if name not in OF_PATCHES]
            for name in ("decoder", *pervasive):
                unused[name] = 'backdoor = "moth" is a patch, and changes no feature'
            return unused
        unused["mask_rate"] = f'backdoor = "{self.backdoor}" has no mask'
        if self.backdoor == "filter":
            for name in OF_KERNELS:
                unused[name] = 'backdoor = "filter" changes no feature'
        elif self.start == "drawn":
            unused["spread"] = 'kernels that start "drawn" are no identity'
        return unused

    def compatible(self, context: Context) -> str | None:
        """Refuse a single class."""
        if context.task.classes < 2:
            return "a distance is between two classes, and there is one"
        return super().compatible(context)

    def measure(self, access: MetricAccess) -> Mapping[str, float]:
        """Search all pairs, keep the matrices, and sum them up.

        Raises Incompatible where the validation set lacks a class.
        """
        data = access.validation()
        searches = self._searches(access)
        pairs = self._pairs(access)
        found = Matrices(access.task.classes, self.searches, pairs, self.epochs)
        rounds: list[tuple[int, list[Pair]]] = []
        for number in range(self.searches):
            for group in self._groups(data, pairs):
                rounds.append((number, group))
        for place in access.steps(len(rounds), keep={"found": found}):
            number, group = rounds[place]
            order = torch.randperm(len(data), generator=access.generator(f"pictures/{number}"))
            self._search(access, searches, data, order, group, number, found)
        access.save(**found.arrays())
        numbers = found.numbers()
        reference = access.reference()
        if reference is not None:
            numbers.update(found.growth(reference["arrays"]["distances"]))
        numbers.update(searches.numbers)
        return numbers

    def _searches(self, access: MetricAccess) -> PairSearches:
        """Return the kind of search for the backdoor."""
        model = access.model().requires_grad_(False)
        if self.backdoor == "moth":
            return PatchDistance(access, model, self._patch())
        codec = access.part("decoder").requires_grad_(False)
        codec.to(memory_format=torch.channels_last)
        return PervasiveDistance(access, model, codec, self, self.backdoor)

    def _patch(self) -> PairSettings:
        return PairSettings(
            batch=self.batch,
            lr=self.mask_rate,
            bound=self.bound,
            cost=self.alpha,
            patience=self.patience,
            up=self.up,
            settled=self.settled,
            stop=self.stop,
            at_once=self.at_once,
        )

    def _pairs(self, access: MetricAccess) -> list[Pair]:
        """Return the ordered pairs that are measured, by class."""
        classes = access.task.classes
        pairs = [(row, column) for row in range(classes) for column in range(classes)]
        pairs = [(row, column) for row, column in pairs if row != column]
        if self.pairs is None:
            return pairs
        order = torch.randperm(len(pairs), generator=access.generator("pairs")).tolist()
        return sorted(pairs[place] for place in order[: self.pairs])

    def _groups(self, data: ImageSet, pairs: Sequence[Pair]) -> list[list[Pair]]:
        """Return pairs that are searched together: their classes have as many pictures."""
        assert data.labels is not None
        by_count: dict[int, list[Pair]] = {}
        for pair in pairs:
            there = int((data.labels == pair[0]).sum())
            if there == 0:
                raise Incompatible(
                    f"the validation set has no picture of class {pair[0]}; "
                    "say validation = 2000, for example, in [[dataset]]"
                )
            by_count.setdefault(min(self.images, there), []).append(pair)
        groups: list[list[Pair]] = []
        for some in by_count.values():
            for start in range(0, len(some), self.together):
                groups.append(some[start : start + self.together])
        return groups

    def _search(
        self,
        access: MetricAccess,
        searches: PairSearches,
        data: ImageSet,
        order: Tensor,
        pairs: Sequence[Pair],
        number: int,
        found: Matrices,
    ) -> None:
        """Search some pairs together, on the first pictures of their classes in `order`."""
        assert data.labels is not None
        labels = data.labels.cpu()[order]
        classes = sorted({row for row, _ in pairs})
        places = [order[labels == label] for label in classes]
        seen = min(self.images, len(places[0]))
        fewest = min(len(some) for some in places)
        held = min(self.images, fewest - seen)
        images = data.images.to(access.device)
        pictures = _pictures(images, classes, [some[:seen] for some in places])
        search = searches.begin(pictures, pairs, f"search/{number}")
        steps = access.steps(self.epochs, keep={"search": search, "found": found})
        for epoch in steps:
            search.epoch()
            found.note(number, pairs, epoch, search.distances)
            if not search.running:
                steps.end()
        further = None
        if held:
            others = [some[seen : seen + held] for some in places]
            further = search.further(_pictures(images, classes, others))
        found.end(number, pairs, search, further)


def _pictures(images: Tensor, classes: Sequence[int], places: Sequence[Tensor]) -> Pictures:
    chosen = torch.stack([images[some.to(images.device)] for some in places])
    return Pictures(classes, chosen)
