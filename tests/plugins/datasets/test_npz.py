from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.components import Pictures
from plugins.datasets.npz import Npz


def arrays(
    train: int = 6, test: int = 4, shape: tuple[int, ...] = (5, 4, 3), classes: int = 3
) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "train_images": draw.integers(0, 256, (train, *shape), np.uint8),
        "train_labels": np.arange(train) % classes,
        "test_images": draw.integers(0, 256, (test, *shape), np.uint8),
        "test_labels": np.arange(test) % classes,
    }


def written(folder: Path, compressed: bool = False, **content: Any) -> Path:
    path = folder / "pictures.npz"
    (np.savez_compressed if compressed else np.savez)(path, **content)
    return path


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    counts=st.tuples(st.integers(3, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=st.sampled_from([(), (1,), (3,)]),
    kind=st.sampled_from(["int64", "int32", "uint8", ">i4"]),
    compressed=st.booleans(),
)
def test_what_was_written_is_loaded(
    tmp_path: Path,
    counts: tuple[int, int],
    size: tuple[int, int],
    channels: tuple[int, ...],
    kind: str,
    compressed: bool,
) -> None:
    content = arrays(*counts, shape=(*size, *channels))
    typed = {
        name: array.astype(kind) if name.endswith("labels") else array
        for name, array in content.items()
    }
    npz = Npz(path=written(tmp_path, compressed, **typed))
    facts, pictures = npz.facts(), npz.load()
    assert (facts.classes, facts.train_count, facts.test_count) == (3, *counts)
    assert (facts.height, facts.width, facts.channels) == (*size, *(channels or (1,)))
    for name, array in content.items():
        loaded = getattr(pictures, name)
        assert loaded.dtype == (np.uint8 if name.endswith("images") else np.int64)
        assert np.array_equal(loaded.reshape(array.shape), array)
    assert (
        pictures.train_images.shape[1:]
        == pictures.test_images.shape[1:]
        == (*size, *(channels or (1,)))
    )


def test_fortran_order_is_read_as_it_was_meant(tmp_path: Path) -> None:
    content = arrays()
    path = written(
        tmp_path, **{**content, "train_images": np.asfortranarray(content["train_images"])}
    )
    loaded = Npz(path=path).load().train_images
    assert np.array_equal(loaded, content["train_images"])
    assert loaded.flags.c_contiguous


def test_the_fingerprint_is_the_content_s(tmp_path: Path) -> None:
    path = written(tmp_path, **arrays())
    moved = path.rename(tmp_path / "elsewhere.npz")
    assert Npz(path=moved).facts().fingerprint == hashlib.sha256(moved.read_bytes()).hexdigest()


def test_a_missing_test_pair_is_empty(tmp_path: Path) -> None:
    content = {name: array for name, array in arrays().items() if name.startswith("train")}
    npz = Npz(path=written(tmp_path, **content))
    pictures: Pictures = npz.load()
    assert npz.facts().test_count == len(pictures.test_images) == len(pictures.test_labels) == 0
    assert pictures.test_images.shape == (0, 5, 4, 3)


def test_more_classes_than_labels_may_be_named(tmp_path: Path) -> None:
    assert Npz(path=written(tmp_path, **arrays()), classes=7).facts().classes == 7


def test_other_arrays_are_ignored(tmp_path: Path) -> None:
    assert Npz(path=written(tmp_path, **arrays(), names=np.array(["a", "b"]))).facts().classes == 3


def changed(**by: Any) -> dict[str, Any]:
    return {name: array for name, array in {**arrays(), **by}.items() if array is not None}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": (
        changed(train_labels=None),
        "no array train_labels; it holds test_images, test_labels, train_images",
    ),
    "half a test set": (changed(test_labels=None), "no array test_labels"),
    "nothing": (
        {},
        "no array train_images; it holds nothing. Expected: train_images, train_labels",
    ),
    "floats": (
        changed(train_images=np.zeros((6, 5, 4, 3))),
        "train_images is float64, not uint8 with values from 0",
    ),
    "channels first": (
        changed(train_images=np.zeros((6, 3, 5, 4), np.uint8)),
        r"train_images has shape \(6, 3, 5, 4\), channels first; "
        r"store x.transpose\(0, 2, 3, 1\) instead",
    ),
    "four channels": (
        changed(train_images=np.zeros((6, 5, 4, 4), np.uint8)),
        "with 1 or 3 channels",
    ),
    "flat": (
        changed(train_images=np.zeros((6, 60), np.uint8)),
        r"shape \(6, 60\); expected: \(n, height, width",
    ),
    "no image": (
        changed(test_images=np.zeros((0, 5, 4, 3), np.uint8)),
        "no pixel; leave an empty test set out",
    ),
    "other size": (
        changed(test_images=np.zeros((4, 5, 5, 3), np.uint8)),
        r"test images have \(height, width, channels\) \(5, 5, 3\), "
        r"training images \(5, 4, 3\); they must be equal",
    ),
    "too few labels": (
        changed(train_labels=np.zeros(5, int)),
        r"has shape \(5,\); expected: \(6,\), a label for each",
    ),
    "one-hot": (
        changed(train_labels=np.eye(6, dtype=int)),
        r"train_labels has shape \(6, 6\); expected: \(6,\)",
    ),
    "float labels": (
        changed(test_labels=np.zeros(4)),
        "test_labels is float64; labels are whole numbers from 0",
    ),
    "negative": (
        changed(test_labels=np.array([0, 1, -1, 2])),
        "test_labels holds -1; labels go from 0 up",
    ),
    "counted from 1": (
        changed(train_labels=np.array([1, 2, 3] * 2)),
        "holds no 0, but labels go up to 3; count",
    ),
    "only in the test set": (
        changed(test_labels=np.array([0, 1, 2, 3])),
        "holds no 3, .* meant with classes = 4",
    ),
    "objects": (
        changed(train_labels=np.array([{}] * 6)),
        "labels holds Python objects, which are never unpickled",
    ),
}


@pytest.mark.filterwarnings("ignore:.*pickle.*")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_a_sentence_that_names_the_file(tmp_path: Path, case: str) -> None:
    content, sentence = WRONG[case]
    path = written(tmp_path, **content)
    for read in (Npz(path=path).facts, Npz(path=path).load):
        with pytest.raises(ValueError, match=sentence) as error:
            read()
        assert str(error.value).startswith(f"{path}: ")


def test_labels_must_be_classes(tmp_path: Path) -> None:
    path = written(tmp_path, **arrays())
    with pytest.raises(ValueError, match="train_labels holds 2; labels go 0 to 1, as classes = 2"):
        Npz(path=path, classes=2).facts()


def test_an_absent_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(ValueError, match=r"no such file; expected: an \.npz file"):
            Npz(path=path).facts()


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pictures.npz"
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)
    said = r"not an \.npz file \(.*\); write one with numpy\.savez: train_images"
    with pytest.raises(ValueError, match=said):
        Npz(path=path).facts()


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_found_wherever_it_is(tmp_path: Path, compressed: bool) -> None:
    path = written(tmp_path, compressed, **arrays())
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        # The local header: 30 bytes, the name, and 20 bytes of sizes that nobody reads.
        start = (
            archive.getinfo("train_images.npy").header_offset + 30 + len("train_images.npy") + 20
        )
    for offset in range(start, start + 200, 20):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 0xFF]) + content[offset + 1 :])
        with pytest.raises(ValueError, match=r"pictures\.npz: train_images"):
            Npz(path=path).load()


@pytest.mark.parametrize("compressed", [False, True])
def test_whatever_is_damaged_the_file_is_named(tmp_path: Path, compressed: bool) -> None:
    path = written(tmp_path, compressed, **arrays())
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [member.header_offset for member in archive.infolist()]
    # The headers of the members, and the directory at the end.
    places = [start + offset for start in starts for offset in range(0, 30, 3)]
    places += range(archive.start_dir, len(content), 5)
    said = []
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            Npz(path=path).load()  # nobody reads all that is in a header
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 2 * len(starts)
    assert all(sentence.startswith(f"{path}: ") for sentence in said)


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    path = written(tmp_path, **changed(train_images=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", b"not an array")
    with pytest.raises(ValueError, match=r"train_images cannot be read .* the file is damaged"):
        Npz(path=path).facts()


def test_images_of_0_and_1_are_refused_and_not_taken_for_black_ones(tmp_path: Path) -> None:
    content = arrays()
    content["test_images"] = content["test_images"] // 128
    with pytest.raises(ValueError, match=r"pictures\.npz: test_images holds 0 and 1 only, .*255"):
        Npz(path=written(tmp_path, **content)).load()


@pytest.mark.parametrize("name", ["val_images", "val_labels", "extra_images"])
def test_a_split_that_would_not_be_read_is_named(name: str, tmp_path: Path) -> None:
    content = {**arrays(), name: np.zeros(3, np.uint8)}
    with pytest.raises(ValueError, match=rf"pictures\.npz: {name} would not be read"):
        Npz(path=written(tmp_path, **content)).facts()


def test_other_arrays_are_no_matter(tmp_path: Path) -> None:
    assert Npz(path=written(tmp_path, **arrays(), names=np.array(["a"]))).facts().train_count == 6
