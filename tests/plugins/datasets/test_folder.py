"""Folders of pictures: nothing in them is dropped or shifted silently."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plugins.datasets import folder as module
from plugins.datasets.folder import PictureFolder
from plugins.datasets.listing import SUFFIXES
from tests.kit.command import Bench


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)


def picture(path: Path, level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for split in ("train", "test"):
        for label, name in enumerate(("10", "2", "ant")):
            for number in range(2):
                picture(root / split / name / f"{number}.png", 20 * label + number)
    return root


def nested(root: Path) -> str:
    picture(root / "train/ant/batch2/0.png")
    return "train/ant/batch2 is a folder within a class"


def nested_test(root: Path) -> str:
    picture(root / "test/ant/batch2/0.png")
    return "test/ant/batch2 is a folder within a class"


def unknown_suffix(root: Path) -> str:
    (root / "train/ant/7.heic").write_bytes(b"")
    return "train/ant/7.heic is no picture by its name"


def no_suffix(root: Path) -> str:
    shutil.copy(root / "train/ant/0.png", root / "train/ant/picture")
    return "train/ant/picture is no picture by its name"


def text(root: Path) -> str:
    (root / "test/ant/notes.txt").write_text("")
    return "test/ant/notes.txt is no picture by its name"


def loose(root: Path) -> str:
    picture(root / "train/3.png")
    return "train/3.png lies beside the folders of the classes"


def list_of_labels(root: Path) -> str:
    (root / "train/labels.csv").write_text("")
    return "train/labels.csv lies beside the folders of the classes"


def system_folder(root: Path) -> str:
    picture(root / "train/__MACOSX/._0.png")
    return "class '__MACOSX' has no training picture"


def empty_class(root: Path) -> str:
    shutil.rmtree(root / "train/2")
    (root / "train/2").mkdir()
    return "class '2' has no training picture: .*train/2 is empty"


def empty_test_class(root: Path) -> str:
    shutil.rmtree(root / "test/2")
    (root / "test/2").mkdir()
    return "class '2' has no test picture: .*test/2 is empty"


def empty_test(root: Path) -> str:
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    return "test has no pictures; remove it if there is no test set"


def third_split(root: Path) -> str:
    (root / "test").rename(root / "val")
    return "set/val is neither 'train' nor 'test' and would not be read"


def capitals(root: Path) -> str:
    (root / "train").rename(root / "Train")
    (root / "test").rename(root / "Test")
    return "has a folder 'Test' but none called 'train'"


def pipe(root: Path) -> str:
    os.mkfifo(root / "train/ant/5.png")
    return "train/ant/5.png is no file"


def dangling(root: Path) -> str:
    (root / "train/ant/5.png").symlink_to(root / "nowhere.png")
    return "train/ant/5.png is no file"


@pytest.mark.parametrize(
    "change",
    [
        nested,
        nested_test,
        unknown_suffix,
        no_suffix,
        text,
        loose,
        list_of_labels,
        system_folder,
        empty_class,
        empty_test_class,
        empty_test,
        third_split,
        capitals,
        pipe,
        dangling,
    ],
)
def test_what_would_not_be_read_is_refused_by_name(
    change: Callable[[Path], str], data: Path
) -> None:
    told = change(data)
    with pytest.raises(ValueError, match=told):
        PictureFolder(path=data).facts()


def test_classes_alone_lie_beside_anything_but_pictures(data: Path) -> None:
    (data / "train/README.md").write_text("")
    assert PictureFolder(path=data / "train").facts().train_count == 6
    picture(data / "train/7.png")
    with pytest.raises(ValueError, match=r"train/7\.png lies beside"):
        PictureFolder(path=data / "train").facts()


def test_every_suffix_is_read_in_capitals_too(data: Path) -> None:
    for suffix in sorted(SUFFIXES):
        picture(data / "train/ant" / f"x{suffix}")
        (data / "train/ant" / f"x{suffix}").rename(data / "train/ant" / f"y{suffix.upper()}")
    assert PictureFolder(path=data, size=8).facts().train_count == 6 + len(SUFFIXES)
    assert len(PictureFolder(path=data, size=8).load().train_images) == 6 + len(SUFFIXES)


def test_what_file_managers_hide_is_passed_over(data: Path) -> None:
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini"):
        for place in ("train", "train/ant", "."):
            (data / place / name).write_bytes(b"")
    (data / "train/.ipynb_checkpoints").mkdir()
    assert PictureFolder(path=data).facts().train_count == 6


def test_transparent_pictures_are_refused_and_not_shown_with_hidden_colours(data: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., :3] = (255, 0, 255)
    Image.fromarray(pixels).save(data / "train/ant/1.png")
    with pytest.raises(ValueError, match=r"train/ant/1\.png: it has transparent pixels"):
        PictureFolder(path=data).load()


def test_pictures_that_change_while_they_are_read_are_not_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = PictureFolder(path=data, size=8)
    first = dataset.load()
    shutil.rmtree(tmp_path / "cache")
    decode = module.PictureFolder._decode

    def meanwhile(self: PictureFolder) -> object:
        picture(data / "train/ant/1.png", 255)
        return decode(self)

    with monkeypatch.context() as patched:
        patched.setattr(module.PictureFolder, "_decode", meanwhile)
        with pytest.raises(ValueError, match="changed while they were read"):
            dataset.load()
    picture(data / "train/ant/1.png", 41)
    assert np.array_equal(dataset.load().train_images, first.train_images)


def test_the_manifest_lists_the_classes_in_order(data: Path, bench: Bench) -> None:
    grid = data.parent / "grid.toml"
    grid.write_text(
        """
        [[dataset]]
        name = "folder"
        path = "set"
        size = 8
        [[model]]
        name = "small-cnn"
        width = 4
        [[attack]]
        name = "none"
        [[defense]]
        name = "none"
        [training]
        epochs = 1
        [[metric]]
        name = "acc"
        """
    )
    result = bench("run", "grid.toml", "--store", "store", cwd=data.parent)
    assert result.returncode == 0, result.stderr
    lists = []
    for path in (data.parent / "store/objects").rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["spec"]["stage"] == "data":
            lists.append(manifest["record"]["classes"])
    assert lists == [["10", "2", "ant"]]


def test_the_class_order_of_published_sets_is_shown(bench: Bench) -> None:
    shown = bench("show", "cifar10").stdout
    assert "classes:    0 airplane, 1 automobile, 2 bird" in shown
    assert "classes:    0" not in bench("show", "npz").stdout
    assert "numbered in the order of their names" in bench("show", "folder").stdout
