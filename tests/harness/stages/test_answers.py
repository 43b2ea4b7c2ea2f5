"""Answers to a stream come back to the test images that they are for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.stages.answers import open_predictions
from tests.kit.answered import CLASSES, answered

LABELS = np.array([3, 1, 2, 0, 1])
GIVEN = {
    "clean": np.array([3, 1, 2, 0, 2]),
    "triggered": np.array([0, 0, 0, 0, 1]),
    "variant.noise": np.array([1, 1, 1, 0, 1]),
}


def test_each_set_is_in_the_order_of_the_test_set(tmp_path: Path) -> None:
    answered(tmp_path, LABELS, **GIVEN)
    found = open_predictions(tmp_path)
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.clean, GIVEN["clean"])
    assert found.triggered is not None
    np.testing.assert_array_equal(found.triggered, GIVEN["triggered"])
    assert set(found.variants) == {"noise"}
    np.testing.assert_array_equal(found.variants["noise"], GIVEN["variant.noise"])
    places = load_file(tmp_path / "places" / "places.safetensors")["clean"]
    np.testing.assert_array_equal(found.logits, np.repeat(places[:, None], CLASSES, 1))
    assert found.record == {"seconds": 0.0, "images": 0.0}


def test_without_a_trigger_there_are_clean_answers_only(tmp_path: Path) -> None:
    answered(tmp_path, LABELS, clean=GIVEN["clean"])
    found = open_predictions(tmp_path)
    assert found.triggered is None
    assert found.variants == {}


def test_the_record_of_the_defense_comes_along(tmp_path: Path) -> None:
    answered(tmp_path, LABELS, clean=GIVEN["clean"])
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "result.json").write_text(json.dumps({"record": {"seconds": 2.5}}))
    assert open_predictions(tmp_path).record == {"seconds": 2.5}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answers": np.zeros(14, np.int64)}, r"int64 \(14,\)"),
        ({"answers": np.zeros(15, np.int32)}, "the answers are int32"),
        ({"logits": np.zeros((3, CLASSES), np.float16)}, "with 3 logits"),
    ],
)
def test_answers_to_something_else_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray], told: str
) -> None:
    answered(tmp_path, LABELS, **GIVEN)
    path = tmp_path / "answers" / "answers.safetensors"
    arrays = {**load_file(path), **change}
    save_file(arrays, path)
    with pytest.raises(ValueError, match=told):
        open_predictions(tmp_path)
