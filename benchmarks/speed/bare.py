"""One victim such as those of equal.toml, trained by a process that does nothing else.

Says "ready", waits for a line, trains, prints the seconds: so that several can begin at once.
"""

from __future__ import annotations

import sys

import torch
from figures import timed

from harness import Recipe, Task
from harness.learn import ImageSet
from harness.learn.training import fit
from plugins.models.small_cnn import SmallCNN

SIDE = 16
IMAGES = 4000
RECIPE = Recipe(batch=128, lr=0.01, crop=2, epochs=16)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=torch.uint8)
    data = ImageSet(images, torch.randint(0, 10, (IMAGES,)))
    net = SmallCNN().build(Task("noise", 10, SIDE, SIDE, 3, 1))

    def train(recipe: Recipe) -> None:
        fit(net, data, recipe, generator=stream)

    train(RECIPE.replace(epochs=1))
    print("ready", flush=True)
    sys.stdin.readline()
    print(timed(lambda: train(RECIPE)), flush=True)


def stream(name: str) -> torch.Generator:
    """Return a generator for a stream that `fit` draws from."""
    return torch.Generator().manual_seed(len(name))


if __name__ == "__main__":
    main()
