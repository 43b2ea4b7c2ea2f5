"""Download a published data set, without a time-out.

`python -m plugins.datasets.fetch NAME [FOLDER]`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from plugins.datasets.celeba8 import CelebA8
from plugins.datasets.cifar10 import Cifar10
from plugins.datasets.gtsrb import Gtsrb
from plugins.datasets.mnist import Mnist
from plugins.datasets.published import Published
from plugins.datasets.stl10 import Stl10
from plugins.datasets.svhn import Svhn

KINDS: tuple[type[Published], ...] = (CelebA8, Cifar10, Gtsrb, Mnist, Stl10, Svhn)
SETS = {kind.called: kind for kind in KINDS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch a set; return 0 if it is there afterwards."""
    parser = argparse.ArgumentParser(
        prog="python -m plugins.datasets.fetch", description="Download a data set."
    )
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument(
        "folder", nargs="?", type=Path, help="default: $BENCH_DATA, or datasets in the cache folder"
    )
    parser.add_argument(
        "--online", action="store_true", help="of gtsrb, the training set of the first round"
    )
    given = parser.parse_args(arguments)
    if given.online and given.name != "gtsrb":
        parser.error("--online is for gtsrb")
    root = None
    if given.folder:
        root = given.folder.expanduser().absolute()
    dataset: Published
    if given.online:
        dataset = Gtsrb(root=root, edition="online")
    else:
        dataset = SETS[given.name](root=root)
    folder = dataset.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f".{given.name}.lock"):  # a plan may be fetching the same
            dataset.fetch()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        print(f"{type(error).__name__}: {reason}", file=sys.stderr)
        return 1
    print(f"{given.name} is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
