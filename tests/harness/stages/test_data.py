"""How a dataset is split, and what a defender is granted of it. Every picture carries its number,
so that it is known again in whatever split it turns up.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from harness.access.context import Deadline
from harness.stages import Job, data, grant

KIT = """
import numpy as np
from harness import Dataset, Facts, Pictures

class Numbered(Dataset):
    train: int = 60
    test: int = 30
    lie: str = ""
    def facts(self):
        return Facts(4, 1, 2, 1, self.train, self.test, "numbered")
    def load(self):
        parts = []
        for first, count in ((0, self.train), (10000, self.test)):
            numbers = np.arange(first, first + count, dtype="<u2")
            parts += [numbers.view(np.uint8).reshape(count, 1, 2, 1), numbers.astype(np.int32) * 7 % 4]
        if self.lie == "dtype":
            parts[0] = parts[0].astype(np.float32)
        if self.lie == "shape":
            parts[2] = parts[2].reshape(-1, 2, 1, 1)
        if self.lie == "count":
            parts[0], parts[1] = parts[0][1:], parts[1][1:]
        if self.lie == "labels":
            parts[1] = parts[1][1:]
        if self.lie == "range":
            parts[3] = parts[3] + 1
        return Pictures(*parts)
"""

Splits = dict[str, tuple[list[int], list[int]]]
Split = Callable[..., Splits]


@pytest.fixture(scope="module", autouse=True)
def kit(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kit")
    (folder / "numbered_kit.py").write_text(KIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Numbers and labels of the pictures of each split, by what the stage leaves."""
    numbers = itertools.count()
    folder = tmp_path_factory.mktemp("stages")

    def run(**params: Any) -> Splits:
        out = folder / str(next(numbers))
        out.mkdir()
        component = {
            "kind": "dataset",
            "name": "numbered",
            "target": "numbered_kit:Numbered",
            "params": params,
        }
        data.run(job(out, component=component))
        return {path.stem: numbered(path) for path in out.glob("*.safetensors")}

    return run


def job(out: Path, inputs: Path = Path(), **payload: Any) -> Job:
    return Job(payload, inputs, out, out, "cpu", Deadline(None), lambda done, of, loss: None)


def numbered(path: Path) -> tuple[list[int], list[int]]:
    arrays = load_file(path)
    images = np.ascontiguousarray(arrays["images"])
    assert images.shape[1:] == (1, 2, 1)
    numbers = images.reshape(len(images), 2).view("<u2").ravel()
    return numbers.tolist(), arrays["labels"].tolist() if "labels" in arrays else []


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "train": st.integers(1, 80),
        "test": st.integers(0, 40),
        "pool": st.integers(0, 30),
        "pool_from": st.sampled_from(["train", "test"]),
        "pool_in_train": st.booleans(),
        "validation": st.integers(0, 30),
        "take": st.integers(1, 80),
        "take_test": st.integers(1, 40),
        "split_seed": st.integers(0, 3),
    },
)
DEFAULTS = {
    "pool": 0,
    "pool_from": "train",
    "pool_in_train": False,
    "validation": 0,
    "take": None,
    "take_test": None,
}


@settings(deadline=None, max_examples=80)
@given(SETTINGS)
def test_splits_are_as_large_as_a_plan_says_and_share_nothing(
    split: Split, params: dict[str, Any]
) -> None:
    table = {"train": 60, "test": 30, **DEFAULTS, **params}
    try:
        sizes = data.sizes(table, table["train"], table["test"])
    except ValueError:
        assume(False)
    found = split(**params)
    numbers = {name: found[name][0] for name in ("train", "pool", "validation", "test")}
    assert {name: len(held) for name, held in numbers.items()} == {
        name: getattr(sizes, name) for name in numbers
    }
    assert sizes.training == (table["take"] or table["train"]) - sizes.validation
    for name, (held, labels) in found.items():
        assert len(set(held)) == len(held)
        assert labels == [number * 7 % 4 for number in held]
        from_test = name == "test" or (name == "pool" and table["pool_from"] == "test")
        assert all((number >= 10000) == from_test for number in held)
    for one, other in itertools.combinations(numbers, 2):
        shared = set(numbers[one]) & set(numbers[other])
        if (
            {one, other} == {"train", "pool"}
            and table["pool_in_train"]
            and table["pool_from"] == "train"
        ):
            assert shared == set(numbers["pool"])
        else:
            assert shared == set(), (one, other)
    # In the data set's own order, which some papers poison the first of.
    assert numbers["train"] == sorted(numbers["train"])
    assert numbers["test"] == sorted(numbers["test"])
    unused = table["train"] - len(
        {n for name in ("train", "pool", "validation") for n in numbers[name] if n < 10000}
    )
    assert unused == table["train"] - (table["take"] or table["train"])


@pytest.mark.parametrize("place", ["train", "test"])
def test_a_larger_pool_begins_with_the_smaller_one(split: Split, place: str) -> None:
    small, large = (split(pool=pool, pool_from=place, validation=8) for pool in (6, 20))
    assert large["pool"][0][:6] == small["pool"][0]
    assert large["validation"] == small["validation"]


def test_splits_follow_the_split_seed_and_nothing_else(split: Split) -> None:
    params = {"pool": 10, "validation": 10, "take": 50}
    assert split(**params) == split(**params)
    assert split(**params, split_seed=1) != split(**params)
    assert set(split(**params, pool_in_train=True)["train"][0]) == set(
        split(**params)["train"][0]
    ) | set(split(**params)["pool"][0])


def test_every_split_holds_the_classes_alike(split: Split) -> None:
    found = split(pool=20, validation=10, take=50, take_test=18)
    for name in ("pool", "validation", "test"):
        counts = np.bincount(found[name][1], minlength=4)
        assert counts.max() - counts.min() <= 1 + (name != "validation"), name


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        (
            "dtype",
            r"train images are float32 \(60, 1, 2, 1\); the dataset's facts promise uint8 \(60, 1, 2, 1\)",
        ),
        ("shape", r"test images are uint8 \(30, 2, 1, 1\)"),
        ("count", r"train images are uint8 \(59, 1, 2, 1\)"),
        ("labels", r"train labels are int32 \(59,\); whole numbers of shape \(60,\) are wanted"),
        ("range", r"test labels go from 1 to 4; there are 4 classes"),
    ],
)
def test_a_dataset_that_is_not_what_it_promised(lie: str, complaint: str, split: Split) -> None:
    with pytest.raises(ValueError, match=complaint):
        split(lie=lie)


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"take": 61}, "take = 61, but there are 60 training images"),
        ({"take_test": 31}, "take_test = 31, but there are 30 test images"),
        (
            {"pool": 60},
            "pool and validation hold back 60 of 60 training images: none is left to train on",
        ),
        ({"pool": 30, "validation": 10, "take": 40}, "hold back 40 of 40 training images"),
        ({"pool": 60, "pool_in_train": True}, "hold back 60 of 60"),
        ({"validation": 60, "pool_from": "test"}, "hold back 60 of 60"),
        (
            {"pool": 30, "pool_from": "test"},
            "the pool holds back 30 of 30 test images: none is left to test on",
        ),
    ],
)
def test_splits_that_leave_nothing(params: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        data.sizes({**DEFAULTS, **params}, 60, 30)


# --- stratified orders ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 2**32))
def test_every_prefix_holds_the_classes_in_their_proportions(labels: list[int], seed: int) -> None:
    """There is one share of which every class has its part, give or take less than one picture."""
    array = np.array(labels, dtype=np.int64)
    order = data.stratified(array, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    classes, sizes = np.unique(array, return_counts=True)
    for length in range(len(labels) + 1):
        counts = np.array([(array[order[:length]] == label).sum() for label in classes])
        if length:
            assert ((counts - 1) / sizes).max() <= ((counts + 1) / sizes).min() + 1e-12
        for size in set(sizes.tolist()):
            alike = counts[sizes == size]
            assert alike.max() - alike.min() <= 1


def test_orders_are_random_within_and_between_classes() -> None:
    labels = np.repeat(np.arange(4), 10)
    orders = [data.stratified(labels, np.random.default_rng(seed)) for seed in range(200)]
    first = np.bincount([order[0] for order in orders], minlength=40)
    assert (first > 0).sum() > 30  # every picture may come first
    assert data.stratified(labels, np.random.default_rng(5)).tolist() == orders[5].tolist()


# --- grants ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """A pool of 40 numbered pictures, and the stage that grants some of them."""

    folder: Path

    def __call__(
        self, count: int, *, labelled: bool = True, replicate: int = 0
    ) -> tuple[list[int], list[int]]:
        out = self.folder / f"{count}-{labelled}-{replicate}"
        out.mkdir()
        at = {"replicate": replicate, "dataset": "numbered", "stage": "grant", "component": ""}
        grant.run(job(out, self.folder, count=count, labelled=labelled, coordinates=at))
        return numbered(out / "images.safetensors")


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    numbers = np.arange(40, dtype="<u2")
    (tmp_path / "data").mkdir()
    arrays: dict[str, Any] = {
        "images": numbers.view(np.uint8).reshape(40, 1, 2, 1).copy(),
        "labels": numbers.astype(np.int64) % 4,
    }
    save_file(arrays, tmp_path / "data" / "pool.safetensors")
    return Pool(tmp_path)


def test_a_smaller_grant_is_the_beginning_of_a_larger_one(pool: Pool) -> None:
    small, large = pool(5), pool(20)
    assert large[0][:5] == small[0]
    assert large[1] == [number % 4 for number in large[0]]
    assert np.bincount(large[1]).tolist() in ([5, 5, 5, 5], *itertools.permutations([5, 5, 4, 6]))


def test_a_grant_without_labels_is_the_same_pictures(pool: Pool) -> None:
    labelled, blind = pool(12), pool(12, labelled=False)
    assert blind == (labelled[0], [])


def test_each_defense_seed_has_an_order_of_its_own(pool: Pool) -> None:
    orders = [pool(40, replicate=replicate)[0] for replicate in range(3)]
    assert len({json.dumps(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(40)) for order in orders)
