"""How a dataset is split."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.components.spec import ComponentSpec
from harness.stages import data
from harness.stages.payloads import DataPayload
from harness.stages.splits import sizes as split_sizes
from tests.kit.numbered import MODULE, UNSPLIT, job, numbered

Splits = dict[str, tuple[list[int], list[int]]]
Split = Callable[..., Splits]


@pytest.fixture(scope="module", autouse=True)
def kit(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kit")
    (folder / "numbered_kit.py").write_text(MODULE)
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
        component = ComponentSpec("numbered_kit:Numbered", params, "dataset", "numbered")
        data.run(job(out, DataPayload(component, "numbered")))
        return {path.stem: numbered(path) for path in out.glob("*.safetensors")}

    return run


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


@settings(deadline=None, max_examples=80)
@given(SETTINGS)
def test_splits_are_as_large_as_a_plan_says_and_share_nothing(
    split: Split, params: dict[str, Any]
) -> None:
    table = {"train": 60, "test": 30, **UNSPLIT, **params}
    try:
        sizes = split_sizes(table, table["train"], table["test"])
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


def test_a_dataset_whose_content_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    component = ComponentSpec("numbered_kit:Numbered", {}, "dataset", "numbered")
    with pytest.raises(ValueError, match="dataset 'numbered' changed after it was planned with"):
        data.run(job(tmp_path, DataPayload(component, "of another day")))
    assert list(tmp_path.glob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        (
            "dtype",
            r"train images are float32 \(60, 1, 2, 1\); "
            r"the dataset's facts promise uint8 \(60, 1, 2, 1\)",
        ),
        ("shape", r"test images are uint8 \(30, 2, 1, 1\)"),
        ("count", r"train images are uint8 \(59, 1, 2, 1\)"),
        ("labels", r"train labels are int32 \(59,\); whole numbers of shape \(60,\) are expected"),
        ("range", r"test labels go from 1 to 4; there are 4 classes"),
    ],
)
def test_a_dataset_that_is_not_what_it_promised(lie: str, complaint: str, split: Split) -> None:
    with pytest.raises(ValueError, match=complaint):
        split(lie=lie)
