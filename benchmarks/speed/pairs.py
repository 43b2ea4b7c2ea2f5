"""The gain from searching pervasive backdoors together rather than one pair of classes after the
other. Prints one line for each number of pictures of a pair in a step.

    python benchmarks/speed/pairs.py

Both ways make the same steps on the same pictures, in turn within one process, so that a machine
that others use slows both alike; what counts is the median of the ratios of neighbours. A third way
is the paper's formula as it stands, one pair at a time: a decoder that multiplies the zeros and
draws of its upsampling, and features of the pictures themselves encoded again in each step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from harness import Task
from plugins.models.resnet20 import ResNet20
from plugins.parts.codec import Codec, Decoder
from plugins.parts.pervasive_backdoors import Pervasive
from plugins.parts.pervasive_search import Lot, Search
from plugins.parts.pervasive_settings import PervasiveSettings

CLASSES = 10
SIDE = 32


class Uncounted:
    """Stands for a workbench."""

    def tick(self, images: int = 0, done: int | None = None, of: int = 0) -> None:
        """Count nothing."""

    def seed(self, stream: str) -> int:
        """Return the same for every stream."""
        return 0

    def generator(self, stream: str) -> torch.Generator:
        """Return a new one."""
        return torch.Generator().manual_seed(0)


class PlainDecoder(Decoder):
    """Convolves the whole upsampled map."""

    def responses(self, drawn: Sequence[Tensor]) -> list[Tensor]:
        """Keep the draws as they are."""
        return [noise / self.unit for noise in drawn]

    def forward(
        self, features: Tensor, responses: Sequence[Tensor] = (), places: Sequence[Tensor] = ()
    ) -> Tensor:
        """Put features between the draws."""
        whole = responses[0].clone()
        whole[:, :, ::2, ::2] = features / self.unit
        first, second = self.convolutions
        decoded: Tensor = second(torch.relu(first(whole)))
        return decoded * 127.5 + 127.5


class PlainSearch(Search):
    """Encodes the pictures themselves in each step."""

    def _descend(self, lanes: list[int], places: Tensor) -> tuple[Tensor, Tensor]:
        for row in set(self.rows.tolist()):
            with torch.no_grad():
                self.codec.encoder(self.lot.levels[row, places])
        return super()._descend(lanes, places)


def groups(pairs: Sequence[tuple[int, int]], together: bool) -> list[list[tuple[int, int]]]:
    """Return pairs that are searched in one batch."""
    if together:
        return [list(pairs)]
    return [[pair] for pair in pairs]


def epoch(searches: Sequence[Search]) -> float:
    """Return the seconds of a step for each pair."""
    started = time.perf_counter()
    for search in searches:
        search.epoch()
    return time.perf_counter() - started


def measure(model: nn.Module, batch: int, count: int, rounds: int, at_once: int) -> list[str]:
    """Time the three ways in turn; return the lines for this number of pictures."""
    torch.manual_seed(0)
    codec = Codec("pool1", 3, "random", 3).eval().requires_grad_(False)
    plain = Codec("pool1", 3, "random", 3).eval().requires_grad_(False)
    plain.decoder = PlainDecoder("pool1", 3, "random", 3)
    plain.load_state_dict(codec.state_dict())
    plain.eval().requires_grad_(False)
    codec.to(memory_format=torch.channels_last)
    settings = PervasiveSettings(batch=batch, at_once=at_once)
    images = torch.randint(0, 256, (1, batch, SIDE, SIDE, 3), dtype=torch.uint8)
    lot = Lot.of(images, codec.encoder, batch)
    pairs = [(0, target) for target in range(count)]
    half = SIDE // 2

    def build(kind: type[Search], coded: Codec, together: bool) -> Callable[[], float]:
        backdoor = Pervasive(settings, coded, (half, half))
        searches = []
        for group in groups(pairs, together):
            access = Uncounted()
            search = kind(access, model, coded, settings, backdoor, lot, group, "")  # type: ignore[arg-type]
            searches.append(search)
        return lambda: epoch(searches)

    ways = {
        "together": build(Search, codec, True),
        "one by one": build(Search, codec, False),
        "as it stands": build(PlainSearch, plain, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    lines = []
    for name in ways:
        ratios = []
        for slow, fast in zip(seconds[name], seconds["together"], strict=True):
            ratios.append(slow / fast)
        each = 1000 * statistics.median(seconds[name]) / (count * batch)
        ratios.sort()
        lines.append(
            f"{batch} pictures, {count} pairs, {name}: {each:.2f} ms a picture, "
            f"{statistics.median(ratios):.2f} times together "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="measurements of each way (default: 9)")
    add("--threads", type=int, default=2, help="CPU threads (default: 2)")
    add("--pairs", type=int, default=16, help="pairs of classes (default: 16)")
    add("--at-once", type=int, default=96, help="pictures that go together (default: 96)")
    add("--batches", type=int, nargs="+", default=[1, 4, 16, 32], help="pictures of a pair")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = Task("noise", max(CLASSES, options.pairs), SIDE, SIDE, 3, 1)
    torch.manual_seed(0)
    model = ResNet20().build(task).eval().requires_grad_(False)
    for batch in options.batches:
        for line in measure(model, batch, options.pairs, options.rounds, options.at_once):
            print(line, flush=True)


if __name__ == "__main__":
    main()
