"""Published sets of single picture files, in their layouts: whole, wrong and half unpacked."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.introspect.classes import faults
from harness.introspect.parameters import resolve
from harness.stages.splits import sizes
from plugins.datasets.celeba8 import CelebA8
from plugins.datasets.imagenet_subset import FIRST_TWELVE, IMAGENETTE, ImageNetSubset
from plugins.datasets.lisa import Lisa
from plugins.datasets.pictures import PictureFiles
from plugins.datasets.tiny_imagenet import TinyImageNet
from tests.kit.command import Bench
from tests.kit.layouts import (
    IDS,
    Pairs,
    save,
    write_celeba,
    write_imagenet,
    write_lisa,
    write_tiny_imagenet,
)

VIDEO = "vid0/frameAnnotations-vid_cmp2.avi_annotations"


def small_lisa(root: Path) -> Pairs:
    """Write LISA, and return what is loaded, but not how it is split."""
    signs = write_lisa(root)
    return signs, np.zeros(0), signs, np.zeros(0)


SETS: dict[type[PictureFiles], Callable[[Path], Pairs]] = {
    CelebA8: write_celeba,
    ImageNetSubset: write_imagenet,
    Lisa: small_lisa,
    TinyImageNet: write_tiny_imagenet,
}
each_set = pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.called)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)


def opened(kind: type[PictureFiles], root: Path, **given: Any) -> PictureFiles:
    """Return a set in `root`; LISA with its two most frequent kinds and merge."""
    if kind is Lisa:
        given = {"classes": 3, "size": 8, **given}
    return kind(root=root, **given)


# --- reading them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CelebA8, ImageNetSubset, TinyImageNet], ids=lambda k: k.called)
def test_what_the_files_hold_is_loaded(kind: type[PictureFiles], tmp_path: Path) -> None:
    pairs = SETS[kind](tmp_path / "set")
    dataset = kind(root=tmp_path / "set")
    facts = dataset.facts()
    loaded = dataset.load()
    assert facts.classes == (8 if kind is CelebA8 else 3)
    assert (facts.train_count, facts.test_count) == (len(pairs[0]), len(pairs[2]))
    assert (facts.height, facts.width, facts.channels) == pairs[0].shape[1:]
    assert np.array_equal(loaded.train_images, pairs[0])
    assert np.array_equal(loaded.train_labels, pairs[1])
    assert np.array_equal(loaded.test_images, pairs[2])
    assert np.array_equal(loaded.test_labels, pairs[3])
    assert loaded.train_images.dtype == np.uint8
    assert loaded.train_labels.dtype == loaded.test_labels.dtype == np.int64


@each_set
def test_a_plan_decodes_nothing(
    kind: type[PictureFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SETS[kind](tmp_path / "set")
    monkeypatch.setattr(Image, "open", None)
    assert opened(kind, tmp_path / "set").facts().train_count > 0
    with pytest.raises(ValueError, match="not callable"):
        opened(kind, tmp_path / "set").load()


@each_set
def test_pictures_are_decoded_once(
    kind: type[PictureFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SETS[kind](tmp_path / "set")
    first = opened(kind, tmp_path / "set").load()
    monkeypatch.setattr(Image, "open", None)
    again = opened(kind, tmp_path / "set", pool=2).load()
    assert np.array_equal(first.train_images, again.train_images)
    assert np.array_equal(first.test_labels, again.test_labels)
    with pytest.raises(ValueError, match="not callable"):
        opened(kind, tmp_path / "set", resample="box").load()


@each_set
def test_the_fingerprint_is_the_content_s(kind: type[PictureFiles], tmp_path: Path) -> None:
    SETS[kind](tmp_path / "set")
    first = opened(kind, tmp_path / "set").facts().fingerprint
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    copy = opened(kind, tmp_path / "copy", take=2)
    assert copy.facts().fingerprint == first
    for path in (copy.files()[0], copy.files()[-1]):
        before = path.read_bytes()
        times = path.stat()
        path.write_bytes(before + b"\n")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert copy.facts().fingerprint != first
        path.write_bytes(before)
    assert opened(kind, tmp_path / "copy", resample="box").facts().fingerprint != first
    assert opened(kind, tmp_path / "copy", size=16).facts().fingerprint != first


@each_set
def test_a_missing_set_is_one_sentence_with_the_way_to_it(
    kind: type[PictureFiles], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"^{kind.called} is not in {tmp_path}") as caught:
        kind(root=tmp_path).facts()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "name another root, or " in sentence
    assert "fetch it: " in sentence if kind is CelebA8 else "unpack " in sentence


@each_set
def test_they_are_found_in_bench_data(
    kind: type[PictureFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SETS[kind](tmp_path / "data" / kind.home)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    if kind is Lisa:
        assert Lisa(classes=3).facts().classes == 3
    else:
        assert kind().facts().train_count > 0


@each_set
def test_the_classes_are_sound(kind: type[PictureFiles]) -> None:
    assert faults("dataset", kind) == []
    assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize("kind", [ImageNetSubset, Lisa], ids=lambda kind: kind.called)
def test_memory_holds_the_pictures_once(kind: type[PictureFiles], tmp_path: Path) -> None:
    if kind is ImageNetSubset:
        write_imagenet(tmp_path, size=16, each=25)
    else:
        write_lisa(tmp_path)
    dataset = opened(kind, tmp_path, size=512)
    for way in ("decoded", "read again"):
        tracemalloc.start()
        loaded = dataset.load()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        size = loaded.train_images.nbytes + loaded.test_images.nbytes
        assert size > 60e6
        assert peak < size + 36e6, way  # NumPy writes archives through two buffers of 16 MiB


# --- wrong and half unpacked ones -----------------------------------------------------------------


def no_pictures_of_celeba(root: Path) -> str:
    shutil.rmtree(root / "celeba/img_align_celeba")
    return "there is no folder .*/img_align_celeba; unpack img_align_celeba.zip there"


def half_of_celeba(root: Path) -> str:
    for number in range(5, 33):
        (root / f"celeba/img_align_celeba/{number:06}.jpg").unlink()
    return "img_align_celeba lacks 26 of 30 pictures, 000005.jpg first; unpack"


def cut_attributes(root: Path) -> str:
    path = root / "celeba/list_attr_celeba.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    return "list_attr_celeba.txt has 29 pictures, and its first line says '32'"


def cut_line_of_attributes(root: Path) -> str:
    path = root / "celeba/list_attr_celeba.txt"
    path.write_text(path.read_text()[:-8])
    return "list_attr_celeba.txt, line 34: expected a picture and 6 attributes, found 4 words"


def strange_attribute(root: Path) -> str:
    path = root / "celeba/list_attr_celeba.txt"
    text = path.read_text().replace("000001.jpg -1 -1", "000001.jpg -1  0")
    path.write_text(text)
    return "list_attr_celeba.txt, line 3: expected 1 or -1, found '0'"


def other_attributes(root: Path) -> str:
    path = root / "celeba/list_attr_celeba.txt"
    path.write_text(path.read_text().replace("Smiling", "Laughing"))
    return "list_attr_celeba.txt, line 2: there is no attribute Smiling"


def empty_attributes(root: Path) -> str:
    (root / "celeba/list_attr_celeba.txt").write_text("")
    return "list_attr_celeba.txt, line 2: there is no attribute Heavy_Makeup"


def no_partition(root: Path) -> str:
    (root / "celeba/list_eval_partition.txt").unlink()
    return "No such file or directory: '.*list_eval_partition.txt'"


def cut_partition(root: Path) -> str:
    path = root / "celeba/list_eval_partition.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return "000032.jpg stands in one of .*list_attr_celeba.txt and .*list_eval_partition.txt alone"


def fourth_part(root: Path) -> str:
    path = root / "celeba/list_eval_partition.txt"
    path.write_text(path.read_text().replace("000007.jpg 0", "000007.jpg 3"))
    return "list_eval_partition.txt, line 7: expected a picture and 0, 1 or 2, found '000007.jpg 3'"


def fewer_pictures(root: Path) -> str:
    (root / f"train/{IDS[1]}/images/{IDS[1]}_3.JPEG").unlink()
    return f"{IDS[1]}/images has 3 pictures, and other classes have 4"


def no_class(root: Path) -> str:
    shutil.rmtree(root / f"train/{IDS[2]}")
    return f"there is no folder .*train/{IDS[2]}"


def empty_class(root: Path) -> str:
    for path in (root / f"train/{IDS[0]}/images").iterdir():
        path.unlink()
    return f"train/{IDS[0]}/images has no pictures"


def half_a_file(root: Path) -> str:
    (root / f"train/{IDS[0]}/images/{IDS[0]}_0.JPEG.part").write_bytes(b"")
    return f"{IDS[0]}_0.JPEG.part is no picture by its name"


def twice_the_same_id(root: Path) -> str:
    (root / "wnids.txt").write_text(f"{IDS[0]}\n{IDS[0]}\n")
    return "wnids.txt should hold a WordNet ID a line, each once; it has 2, 1 of them different"


def rearranged(root: Path) -> str:
    (root / "val/val_annotations.txt").unlink()
    return "no file .*val_annotations.txt, which has the labels; folders of classes below val are"


def no_validation(root: Path) -> str:
    shutil.rmtree(root / "val/images")
    return "there is no folder .*val/images"


def fewer_validation_pictures(root: Path) -> str:
    (root / "val/images/val_2.JPEG").unlink()
    return "val_annotations.txt, line 3: there is no picture .*val_2.JPEG"


def fewer_annotations(root: Path) -> str:
    path = root / "val/val_annotations.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return "val/images has 6 pictures, and .*val_annotations.txt 5 lines"


def cut_annotation(root: Path) -> str:
    path = root / "val/val_annotations.txt"
    path.write_text(path.read_text() + "val_6.JPEG")
    return "val_annotations.txt, line 7: '' is no class of wnids.txt"


def class_of_val_alone(root: Path) -> str:
    shutil.rmtree(root / f"train/{IDS[1]}")
    return f"val/{IDS[1]} is a class that train has not"


def class_of_train_alone(root: Path) -> str:
    shutil.rmtree(root / f"val/{IDS[1]}")
    return f"there is no folder .*val/{IDS[1]}"


def no_val(root: Path) -> str:
    shutil.rmtree(root / "val")
    return "there is no folder .*/val"


def flat_val(root: Path) -> str:
    shutil.move(root / f"val/{IDS[1]}/ILSVRC2012_val_00000001.JPEG", root / "val")
    return "val/ILSVRC2012_val_00000001.JPEG lies beside the folders of the classes"


def packed_class(root: Path) -> str:
    shutil.rmtree(root / f"train/{IDS[1]}")
    (root / f"train/{IDS[1]}.tar").write_bytes(b"")
    return f"train/{IDS[1]}.tar is not unpacked to a folder {IDS[1]}"


def deeper(root: Path) -> str:
    save(np.zeros((8, 8, 3), np.uint8), root / f"train/{IDS[0]}/images/0.JPEG")
    return f"{IDS[0]}/images is a folder within a class"


def no_frames(root: Path) -> str:
    shutil.rmtree(root / "vid0")
    return "40 of 40 frames are missing, .*/frame_0.png first"


def one_frame_less(root: Path) -> str:
    (root / VIDEO / "frame_7.png").unlink()
    return "1 of 40 frames are missing, .*/frame_7.png first"


def with_commas(root: Path) -> str:
    path = root / "allAnnotations.csv"
    path.write_text(path.read_text().replace(";", ","))
    return "allAnnotations.csv has no column 'Filename'; its first line should name Filename, Anno"


def cut_row(root: Path) -> str:
    path = root / "allAnnotations.csv"
    path.write_text(path.read_text()[:-60])
    return "allAnnotations.csv, line 84 is cut off"


def box_of_words(root: Path) -> str:
    path = root / "allAnnotations.csv"
    path.write_text(path.read_text().replace(";4;3;12;11;", ";4;3;12;x;", 1))
    return r"allAnnotations.csv, line 2: the corners \['4', '3', '12', 'x'\] are no whole numbers"


def empty_box(root: Path) -> str:
    path = root / "allAnnotations.csv"
    path.write_text(path.read_text().replace(";4;3;12;11;", ";4;3;12;3;", 1))
    return r"allAnnotations.csv, line 2: the box \(4, 3, 12, 3\) is empty"


def fewer_kinds(root: Path) -> str:
    path = root / "allAnnotations.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:50]))
    return "allAnnotations.csv has signs of 2 kinds, and classes = 3 are asked for"


CHANGES = [
    (CelebA8, no_pictures_of_celeba),
    (CelebA8, half_of_celeba),
    (CelebA8, cut_attributes),
    (CelebA8, cut_line_of_attributes),
    (CelebA8, strange_attribute),
    (CelebA8, other_attributes),
    (CelebA8, empty_attributes),
    (CelebA8, no_partition),
    (CelebA8, cut_partition),
    (CelebA8, fourth_part),
    (TinyImageNet, fewer_pictures),
    (TinyImageNet, no_class),
    (TinyImageNet, empty_class),
    (TinyImageNet, half_a_file),
    (TinyImageNet, twice_the_same_id),
    (TinyImageNet, rearranged),
    (TinyImageNet, no_validation),
    (TinyImageNet, fewer_validation_pictures),
    (TinyImageNet, fewer_annotations),
    (TinyImageNet, cut_annotation),
    (ImageNetSubset, class_of_val_alone),
    (ImageNetSubset, class_of_train_alone),
    (ImageNetSubset, no_val),
    (ImageNetSubset, flat_val),
    (ImageNetSubset, packed_class),
    (ImageNetSubset, deeper),
    (Lisa, no_frames),
    (Lisa, one_frame_less),
    (Lisa, with_commas),
    (Lisa, cut_row),
    (Lisa, box_of_words),
    (Lisa, empty_box),
    (Lisa, fewer_kinds),
]


@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_a_wrong_layout_is_told_with_the_file_and_the_remedy(
    kind: type[PictureFiles], change: Callable[[Path], str], tmp_path: Path
) -> None:
    SETS[kind](tmp_path / "set")
    told = change(tmp_path / "set")
    remedy = "fetch it again: " if kind is CelebA8 else "unpack "
    reason = rf"^{kind.called} in {tmp_path}/set cannot be read \(.*{told}.*\); {remedy}"
    for ask in (opened(kind, tmp_path / "set").facts, opened(kind, tmp_path / "set").load):
        with pytest.raises(ValueError, match=reason):
            ask()


@each_set
def test_a_damaged_picture_is_named(kind: type[PictureFiles], tmp_path: Path) -> None:
    SETS[kind](tmp_path / "set")
    train, _ = opened(kind, tmp_path / "set").pairs()
    path, _ = train[1]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"{path} is no picture that Pillow can read"):
        opened(kind, tmp_path / "set").load()


# --- Tiny ImageNet --------------------------------------------------------------------------------


def test_training_pictures_alone_need_no_validation_set(tmp_path: Path) -> None:
    pairs = write_tiny_imagenet(tmp_path / "tiny")
    whole = TinyImageNet(root=tmp_path / "tiny").facts()
    shutil.rmtree(tmp_path / "tiny/val")
    dataset = TinyImageNet(root=tmp_path / "tiny", test_set=False)
    assert (dataset.facts().train_count, dataset.facts().test_count) == (12, 0)
    assert dataset.facts().fingerprint != whole.fingerprint
    loaded = dataset.load()
    assert np.array_equal(loaded.train_images, pairs[0])
    assert loaded.test_images.shape == (0, 64, 64, 3)


def test_classes_of_tiny_imagenet_are_in_the_order_of_ids_and_have_words(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    names = [f"{IDS[0]} tench", IDS[1], f"{IDS[2]} parachute"]
    assert TinyImageNet(root=tmp_path).class_names() == names
    (tmp_path / "words.txt").unlink()
    assert TinyImageNet(root=tmp_path).class_names() == list(IDS)


# --- ImageNet -------------------------------------------------------------------------------------


def test_labels_are_places_in_the_list_of_classes(tmp_path: Path) -> None:
    pairs = write_imagenet(tmp_path)
    (tmp_path / "train/n09999999.tar").write_bytes(b"")
    dataset = ImageNetSubset(root=tmp_path, classes=(IDS[2], IDS[0]))
    loaded = dataset.load()
    assert dataset.facts().classes == 2
    assert dataset.class_names() == (IDS[2], IDS[0])
    assert loaded.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(loaded.train_images, pairs[0][[6, 7, 8, 0, 1, 2]])
    assert np.array_equal(loaded.test_images, pairs[2][[2, 0]])
    other = ImageNetSubset(root=tmp_path, classes=(IDS[0], IDS[2]))
    assert other.facts().fingerprint != dataset.facts().fingerprint
    with pytest.raises(ValueError, match=f"there is no folder .*train/{FIRST_TWELVE[1]}"):
        ImageNetSubset(root=tmp_path, classes=FIRST_TWELVE).facts()


@pytest.mark.parametrize("classes", [(IDS[0],), (IDS[0], IDS[0]), (IDS[0], "tench")])
def test_a_list_that_is_none_is_refused(classes: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"list two or more WordNet IDs, each once|n\\d"):
        ImageNetSubset(root=tmp_path, classes=classes)


@pytest.mark.parametrize(("height", "width"), [(12, 30), (30, 12), (13, 30)])
def test_the_middle_is_cut_out_or_the_whole_is_squeezed(
    height: int, width: int, tmp_path: Path
) -> None:
    write_imagenet(tmp_path, size=16)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    save(pixels, tmp_path / f"train/{IDS[0]}/{IDS[0]}_0.JPEG")
    side = min(height, width)
    upper = (height - side) // 2
    left = (width - side) // 2
    cut = Image.fromarray(pixels[upper : upper + side, left : left + side])
    middle = np.asarray(cut.resize((16, 16), Image.Resampling.BILINEAR))
    squeezed = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR))
    loaded = ImageNetSubset(root=tmp_path, size=16).load()
    assert np.array_equal(loaded.train_images[0], middle)
    loaded = ImageNetSubset(root=tmp_path, size=16, crop="none").load()
    assert np.array_equal(loaded.train_images[0], squeezed)


def test_presets_of_imagenet_list_classes_that_a_grid_can_name(tmp_path: Path) -> None:
    for name in IMAGENETTE:
        for split, count in (("train", 2), ("val", 1)):
            for number in range(count):
                path = tmp_path / "imagenette2" / split / name / f"{number}.JPEG"
                save(np.zeros((8, 8, 3), np.uint8), path)
    found = resolve(
        "dataset",
        "plugins.datasets.imagenet_subset:ImageNetSubset",
        None,
        None,
        "imagenet10",
        {"root": "imagenette2", "size": 8},
        str(tmp_path),
        None,
    )["component"]
    assert found["facts"]["classes"] == 10
    assert found["facts"]["train_count"] == 20
    assert found["identity"]["classes"] == list(IMAGENETTE)
    assert "root" not in found["identity"]


COUNTS = {"imagenet10": (9469, 3925), "imagenet12": (15_600, 600)}
"""Pictures of the presets' classes: in Imagenette's folders, and in ImageNet's."""


def test_presets_give_the_papers_splits(tmp_path: Path) -> None:
    splits = {}
    for name, preset in ImageNetSubset.presets.items():
        params = ImageNetSubset(root=tmp_path, **preset).model_dump()
        split = sizes(params, *COUNTS[name])
        splits[name] = (split.train, split.pool, split.validation, split.test)
    params = Lisa(root=tmp_path, **Lisa.presets["deck"]).model_dump()
    split = sizes(params, 7043 - 704, 704)
    splits["lisa"] = (split.train, split.pool, split.validation, split.test)
    assert splits == {
        "imagenet10": (9469, 0, 0, 3925),
        "imagenet12": (15_600, 780, 0, 600),
        "lisa": (5635, 316, 704, 704),
    }
    assert list(FIRST_TWELVE) == sorted(set(FIRST_TWELVE))
    assert (len(FIRST_TWELVE), len(set(IMAGENETTE))) == (12, 10)


# --- LISA -----------------------------------------------------------------------------------------


def numbers(images: np.ndarray, signs: np.ndarray) -> list[int]:
    """Return which of the signs each image is."""
    places = {sign.tobytes(): number for number, sign in enumerate(signs)}
    return [places[image.tobytes()] for image in images]


def test_signs_are_cut_out_of_their_frames(tmp_path: Path) -> None:
    """Yield has 40 signs, stop and merge 20 each, and dip, with 3, is none of three classes."""
    signs = write_lisa(tmp_path)
    dataset = Lisa(root=tmp_path, classes=3, size=8)
    facts = dataset.facts()
    loaded = dataset.load()
    assert (facts.classes, facts.train_count, facts.test_count) == (3, 72, 8)
    assert dataset.class_names() == ["merge", "stop", "yield"]
    train = numbers(loaded.train_images, signs)
    test = numbers(loaded.test_images, signs)
    assert sorted(train + test) == list(range(80))
    assert train == sorted(train)
    assert test == sorted(test)
    labels = np.array([2] * 40 + [1] * 20 + [0] * 20)
    assert np.array_equal(loaded.train_labels, labels[train])
    assert np.array_equal(loaded.test_labels, labels[test])
    assert Counter(loaded.test_labels.tolist()) == {2: 4, 1: 2, 0: 2}


def test_a_sign_is_resized_from_its_box_alone(tmp_path: Path) -> None:
    signs = write_lisa(tmp_path)
    loaded = Lisa(root=tmp_path, classes=3, size=12, test_share=0.01).load()
    first = Image.fromarray(signs[0]).resize((12, 12), Image.Resampling.BILINEAR)
    held = numbers(
        Lisa(root=tmp_path, classes=3, size=8, test_share=0.01).load().test_images, signs
    )
    assert held != [0]
    assert np.array_equal(loaded.train_images[0], np.asarray(first))


def test_the_most_frequent_kinds_are_taken_and_of_equals_the_first(tmp_path: Path) -> None:
    write_lisa(tmp_path)
    assert Lisa(root=tmp_path, classes=2).class_names() == ["merge", "yield"]
    assert Lisa(root=tmp_path, classes=4).class_names() == ["dip", "merge", "stop", "yield"]


def test_the_split_is_a_matter_of_its_seed_and_not_of_the_place(tmp_path: Path) -> None:
    signs = write_lisa(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    held = []
    prints = []
    for root, seed in (("one", 0), ("two", 0), ("one", 1)):
        dataset = Lisa(root=tmp_path / root, classes=3, size=8, split_seed=seed)
        held.append(numbers(dataset.load().test_images, signs))
        prints.append(dataset.facts().fingerprint)
    assert held[0] == held[1] != held[2]
    assert prints[0] == prints[1] != prints[2]


def test_views_of_one_sign_stay_together_if_asked(tmp_path: Path) -> None:
    signs = write_lisa(tmp_path, track=2)
    single = Lisa(root=tmp_path, classes=3, size=8).load()
    together = Lisa(root=tmp_path, classes=3, size=8, test_by="track").load()
    tracks = []
    for loaded in (single, together):
        sides = []
        for images in (loaded.train_images, loaded.test_images):
            sides.append({number // 2 for number in numbers(images, signs)})
        tracks.append(sides)
    assert tracks[0][0] & tracks[0][1]
    assert not tracks[1][0] & tracks[1][1]
    assert Counter(together.test_labels.tolist()) == {2: 4, 1: 2, 0: 2}


def test_tracks_of_one_name_in_two_videos_are_two(tmp_path: Path) -> None:
    write_lisa(tmp_path)
    path = tmp_path / "allAnnotations.csv"
    before = {sign.track for sign in Lisa(root=tmp_path, classes=3)._signs()}
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream, delimiter=";"))
    shutil.copytree(tmp_path / "vid0", tmp_path / "vid1")
    for row in rows[1:41:2]:
        row[0] = row[0].replace("vid0", "vid1")
    path.write_text("\n".join(";".join(row) for row in rows) + "\n")
    after = {sign.track for sign in Lisa(root=tmp_path, classes=3)._signs()}
    assert len(after) == len(before) + 8, "those of yield"


def test_a_box_beyond_its_frame_is_named(tmp_path: Path) -> None:
    write_lisa(tmp_path)
    path = tmp_path / "allAnnotations.csv"
    path.write_text(path.read_text().replace(";4;3;12;11;", ";4;3;12;17;", 1))
    told = r"frame_0.png has 40 x 16 pixels, and the part to be read, \(4, 3, 12, 17\), lies beyond"
    with pytest.raises(ValueError, match=told):
        Lisa(root=tmp_path, classes=3).load()


def test_a_share_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    write_lisa(tmp_path, counts=(40, 20, 20, 1))
    assert Lisa(root=tmp_path, classes=4).facts().train_count == 73
    with pytest.raises(ValueError, match="no sign 'dip' is left to train on; lower test_share"):
        Lisa(root=tmp_path, classes=4, test_share=0.8).facts()


# --- in a grid ------------------------------------------------------------------------------------

GRID = """
[[dataset]]
name = "imagenet-subset"
root = "pictures"
classes = ["n03888257", "n01440764"]
size = 8
pool = 2
[[model]]
name = "small-cnn"
width = 4
[[attack]]
name = "none"
[[defense]]
name = "none"
[[defense]]
name = "bcu"
epochs = 1
grant.clean-unlabelled = {dataset = "tiny-imagenet", count = 8}
[training]
epochs = 1
[[metric]]
name = "acc"
"""


def test_a_grid_reads_one_set_and_takes_pictures_of_another(bench: Bench, tmp_path: Path) -> None:
    write_imagenet(tmp_path / "pictures", size=8, each=6)
    write_tiny_imagenet(tmp_path / "data/tiny-imagenet-200")
    (tmp_path / "grid.toml").write_text(GRID)
    around = {"BENCH_DATA": str(tmp_path / "data")}
    done = bench("run", "grid.toml", "--store", "store", cwd=tmp_path, env=around)
    assert done.returncode == 0, done.stdout + done.stderr
    lists = []
    for path in (tmp_path / "store/objects").rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["spec"]["stage"] == "data":
            lists.append(manifest["record"]["classes"])
    assert sorted(lists) == [
        [f"{IDS[0]} tench", IDS[1], f"{IDS[2]} parachute"],
        [IDS[2], IDS[0]],
    ]
