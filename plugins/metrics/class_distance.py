"""Distance from each class to each other: how far its pictures move until a network errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Context, Incompatible, Metric, MetricAccess, NotInKey, Part, Use, use
from harness.learn import ImageSet
from plugins.parts.codec import Codec
from plugins.parts.pervasive_backdoors import Backdoor, Pervasive, Toned
from plugins.parts.pervasive_search import Answer, Lot, Search
from plugins.parts.pervasive_settings import AUTHOR, DECK, PervasiveSettings
from plugins.parts.ranges import Count

Pair = tuple[int, int]
"""The class that pictures are of, and the one that they are turned to."""


class ClassDistance(PervasiveSettings, Metric):
    """Class distance: how far pictures of a class move until the network takes them for another.

    For each ordered pair of classes one backdoor is searched that turns 90 % of 100 validation
    pictures of the first to the second, at the smallest distance: 0.001 times the mean squared
    difference of an ImageNet encoder's features. The smallest of several searches counts. Numbers
    are the mean over pairs that have a distance, and by name: pairs without one (`failed`) of all
    `pairs`, the `smallest`, the growth over the network that a defense started from (`increase`, a
    mean over pairs, in percent), what the backdoors turn of further pictures of the class
    (`held_out`, in percent) and how similar these stay (`ssim`); the effort of a search (`steps` of
    the optimiser), and by how much its distance fell in the last third of it (`falling`, in
    percent). Distances fall with every step: only networks that were measured alike compare.
    """

    citation = "Tao et al.: DECK - Model Hardening for Defending Pervasive Backdoors, NDSS 2024"
    needs: ClassVar[AbstractSet[str]] = frozenset({"model", "validation", "reference"})
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool | None] = True
    seeded = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": DECK,
        "author": {**AUTHOR, "decoder": {"name": "deck-decoder", "preset": "author"}},
    }

    decoder: Use[Part] = use("deck-decoder")
    """encoder that distances are measured by, with its decoder"""
    backdoor: Literal["deck", "filter"] = "deck"
    """what is searched: DECK's backdoor; or a filter, which sets mean and deviation of each colour
    and changes no feature
    """
    images: Count = 100
    """validation pictures of a class that a search sees; of a smaller class all"""
    epochs: Count = 300
    """passes over them"""
    searches: Count = 3
    """searches for each pair, with pictures and draws of their own"""
    pairs: Count | None = None
    """how many ordered pairs are drawn; none: all are measured. The paper draws 20 for networks of
    TrojAI
    """
    together: Annotated[int, Field(ge=1), NotInKey] = 30
    """pairs that are searched at a time; moves rounding errors only"""

    def unused(self) -> Mapping[str, str]:
        """See `Component.unused`: a filter has no kernels."""
        unused = dict(super().unused())
        if self.backdoor == "filter":
            for name in ("z", "m", "spread", "bias", "normalised", "dropout", "kernel_rate"):
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
        model = access.model().requires_grad_(False)
        codec = access.part("decoder").requires_grad_(False)
        codec.to(memory_format=torch.channels_last)
        pairs = self._pairs(access)
        found = Found(access.task.classes, self.searches, pairs, self.epochs)
        rounds: list[tuple[int, list[Pair]]] = []
        for number in range(self.searches):
            for group in self._groups(data, pairs):
                rounds.append((number, group))
        for place in access.steps(len(rounds), keep={"found": found}):
            number, group = rounds[place]
            order = torch.randperm(len(data), generator=access.generator(f"pictures/{number}"))
            self._search(access, model, codec, data, order, group, number, found)
        access.save(**found.arrays())
        numbers = found.numbers()
        reference = access.reference()
        if reference is not None:
            grown = increase(found.distances(), reference["arrays"]["distances"])
            if grown is not None:
                numbers["increase"] = grown
        numbers["decoder_psnr"] = float(codec.psnr)
        numbers["decoder_ssim"] = float(codec.ssim)
        return numbers

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
        model: nn.Module,
        codec: Codec,
        data: ImageSet,
        order: Tensor,
        pairs: Sequence[Pair],
        number: int,
        found: Found,
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
        lot = self._lot(images, [some[:seen] for some in places], codec)
        rows = [(classes.index(row), column) for row, column in pairs]
        kind = self._backdoor(codec, lot)
        search = Search(access, model, codec, self, kind, lot, rows, f"search/{number}")
        steps = access.steps(self.epochs, keep={"search": search, "found": found})
        for epoch in steps:
            search.epoch()
            found.note(number, pairs, epoch, search.distances)
            if not search.running:
                steps.end()
        lanes = range(len(pairs))
        further = None
        if held:
            other = self._lot(images, [some[seen : seen + held] for some in places], codec)
            further = search.ask(lanes, search.best, other)
        found.end(number, pairs, search, further)

    def _lot(self, images: Tensor, places: Sequence[Tensor], codec: Codec) -> Lot:
        chosen = torch.stack([images[some.to(images.device)] for some in places])
        return Lot.of(chosen, codec.encoder, self.at_once)

    def _backdoor(self, codec: Codec, lot: Lot) -> Backdoor:
        if self.backdoor == "filter":
            return Toned(self)
        height, width = lot.features.shape[-2:]
        return Pervasive(self, codec, (height, width))


class Found:
    """What searches found, as arrays by search, class and target; NaN where there is nothing."""

    def __init__(self, classes: int, searches: int, pairs: Sequence[Pair], epochs: int) -> None:
        shape = (searches, classes, classes)
        self.pairs = list(pairs)
        self.trials = np.full(shape, np.nan)
        """distances"""
        self.steps = np.full(shape, np.nan)
        self.held_out = np.full(shape, np.nan)
        self.ssim = np.full(shape, np.nan)
        self.curves = np.full((*shape, epochs), np.nan, dtype=np.float32)
        """The smallest distance so far, after each epoch that was made."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all of it but the pairs."""
        return {name: value for name, value in vars(self).items() if name != "pairs"}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned."""
        vars(self).update(state)

    def note(
        self, number: int, pairs: Sequence[Pair], epoch: int, distances: Sequence[float]
    ) -> None:
        """Record the distances so far."""
        for (row, column), distance in zip(pairs, distances, strict=True):
            if np.isfinite(distance):
                self.curves[number, row, column, epoch] = distance

    def end(
        self, number: int, pairs: Sequence[Pair], search: Search, further: Answer | None
    ) -> None:
        """Record a search that is over, and what it says of `further` pictures."""
        batches = -(-search.lot.count // search.batch)
        for lane, (row, column) in enumerate(pairs):
            control = search.controllers[lane]
            self.steps[number, row, column] = control.steps * batches
            if not np.isfinite(control.best):
                continue
            self.trials[number, row, column] = control.best
            if further is not None:
                self.held_out[number, row, column] = further.success[lane]
                self.ssim[number, row, column] = further.similarity[lane]

    def distances(self) -> np.ndarray:
        """Return the smallest distance of each pair, (classes, classes)."""
        return smallest(self.trials)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it, to be kept."""
        return {
            "distances": self.distances(),
            "trials": self.trials,
            "steps": self.steps,
            "held_out": self.held_out,
            "ssim": self.ssim,
            "curves": self.curves,
        }

    def numbers(self) -> dict[str, float]:
        """Return the sums that rows show."""
        distances = self.distances()
        measured = distances[np.isfinite(distances)]
        numbers = {
            "pairs": float(len(self.pairs)),
            "failed": float(len(self.pairs) - len(measured)),
            "steps": mean(self.steps),
        }
        if not len(measured):
            return numbers
        numbers[""] = float(measured.mean())
        numbers["smallest"] = float(measured.min())
        if np.isfinite(self.held_out).any():
            numbers["held_out"] = 100 * mean(self.held_out)
            numbers["ssim"] = mean(self.ssim)
        fall = falling(self.curves)
        if fall is not None:
            numbers["falling"] = fall
        return numbers


def mean(values: np.ndarray) -> float:
    """Return the mean of what is no NaN."""
    return float(values[np.isfinite(values)].mean())


def smallest(trials: np.ndarray) -> np.ndarray:
    """Return the smallest of trials (searches, ...) that succeeded; NaN where none did."""
    filled = np.where(np.isfinite(trials), trials, np.inf).min(0)
    distances: np.ndarray = np.where(np.isfinite(filled), filled, np.nan)
    return distances


def increase(distances: np.ndarray, before: np.ndarray) -> float | None:
    """Return the mean over pairs of relative growth (Eq. 12), in percent.

    Pairs without a distance on either network are left out; None if no pair has both.
    """
    both = np.isfinite(distances) & np.isfinite(before)
    if not both.any():
        return None
    growth = (distances[both] - before[both]) / before[both]
    return float(100 * growth.mean())


def falling(curves: np.ndarray) -> float | None:
    """Return by how many percent curves (..., epochs) fall in the last third of their epochs.

    A mean over those that have a value by then; None if there is none.
    """
    falls: list[float] = []
    for curve in curves.reshape(-1, curves.shape[-1]):
        known = np.flatnonzero(np.isfinite(curve))
        if not len(known):
            continue
        end = known[-1]
        begin = end - (end + 1) // 3
        if np.isfinite(curve[begin]):
            falls.append(100 * float(1 - curve[end] / curve[begin]))
    if not falls:
        return None
    return float(np.mean(falls))
