"""Published data sets, from small files in their real formats; and folders of pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.components import Dataset
from harness.introspect.parameters import resolve
from harness.introspect.problems import ParameterError
from harness.stages.splits import sizes
from plugins.datasets import fetch, published
from plugins.datasets.celeba8 import CelebA8
from plugins.datasets.cifar10 import Cifar10
from plugins.datasets.folder import PictureFolder
from plugins.datasets.gtsrb import Gtsrb
from plugins.datasets.mnist import Mnist
from plugins.datasets.published import Published
from plugins.datasets.stl10 import Stl10
from plugins.datasets.svhn import Svhn
from tests.kit.layouts import Pairs, write_celeba
from tests.kit.places import ROOT

SETS: list[type[Published]] = [CelebA8, Cifar10, Gtsrb, Mnist, Stl10, Svhn]
each_set = pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.called)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)


def drawn(shape: tuple[int, ...], train: int = 20, test: int = 10, classes: int = 10) -> Pairs:
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (count, *shape), np.uint8) for count in (train, test)]
    return images[0], np.arange(train) % classes, images[1], np.arange(test) % classes


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


# --- small files in the formats of the real ones --------------------------------------------------


def write_mnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    pairs = drawn((28, 28, 1))
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for split, images, labels in (("train", *pairs[:2]), ("t10k", *pairs[2:])):
        header = struct.pack(">4i", 0x803, len(images), 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x801, len(labels))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
    return pairs


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    from torchvision.datasets import CIFAR10

    pairs = drawn((32, 32, 3))
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def batch(name: str, images: np.ndarray, labels: np.ndarray) -> list[str]:
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (folder / name).write_bytes(
            pickle.dumps({"data": rows, "labels": labels.tolist()}, protocol=2)
        )
        return [name, md5(folder / name)]

    parts = zip(np.split(pairs[0], 5), np.split(pairs[1], 5), strict=True)
    train = [batch(f"data_batch_{number}", *part) for number, part in enumerate(parts, start=1)]
    test = [batch("test_batch", *pairs[2:])]
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": list("abcdefghij")}, protocol=2)
    )
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    return pairs


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    pairs = drawn((32, 32, 3))
    root.mkdir(parents=True, exist_ok=True)
    told = {}
    for split, images, labels in (("train", *pairs[:2]), ("test", *pairs[2:])):
        path = root / f"{split}_32x32.mat"
        ten = np.where(labels == 0, 10, labels).astype(np.uint8)[
            :, None
        ]  # the digit 0 is class 10 in the files
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": ten}, do_compression=True)
        told[split] = ["http://nowhere.invalid", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", told)
    return pairs


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    from torchvision.datasets import STL10

    pairs = drawn((96, 96, 3))
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    lists: dict[str, list[list[str]]] = {"train": [], "test": []}
    for split, images, labels in (("train", *pairs[:2]), ("test", *pairs[2:])):
        # Column by column, and labels from 1.
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        lists[split] = [
            [f"{split}_{part}.bin", md5(folder / f"{split}_{part}.bin")] for part in "Xy"
        ]
    (folder / "unlabeled_X.bin").write_bytes(b"")
    lists["train"].append(["unlabeled_X.bin", md5(folder / "unlabeled_X.bin")])
    monkeypatch.setattr(STL10, "train_list", lists["train"])
    monkeypatch.setattr(STL10, "test_list", lists["test"])
    return pairs


def write_gtsrb(root: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    pairs = drawn((32, 32, 3), train=43, test=6, classes=43)
    base = root / "gtsrb"
    for image, label in zip(*pairs[:2], strict=True):
        folder = base / f"GTSRB/Final_Training/Images/{label:05}"
        folder.mkdir(parents=True)
        Image.fromarray(image).save(folder / "00000_00000.ppm")
        (folder / f"GT-{label:05}.csv").write_text("Filename;Width\n")
    tests = base / "GTSRB/Final_Test/Images"
    tests.mkdir(parents=True)
    with (base / "GT-final_test.csv").open("w", newline="") as stream:
        table = csv.writer(stream, delimiter=";")
        table.writerow(["Filename", "Width", "Height", "ClassId"])
        for number, (image, label) in enumerate(zip(*pairs[2:], strict=True)):
            Image.fromarray(image).save(tests / f"{number:05}.ppm")
            table.writerow([f"{number:05}.ppm", 32, 32, label])
    return pairs


WRITERS: Mapping[type[Published], Callable[[Path, pytest.MonkeyPatch], Pairs]] = {
    CelebA8: lambda root, _: write_celeba(root),
    Cifar10: write_cifar10,
    Gtsrb: write_gtsrb,
    Mnist: write_mnist,
    Stl10: write_stl10,
    Svhn: write_svhn,
}


# --- reading them ---------------------------------------------------------------------------------


@each_set
def test_what_the_files_hold_is_loaded(
    kind: type[Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = WRITERS[kind](tmp_path / "data", monkeypatch)
    dataset = kind(root=tmp_path / "data")
    facts, pictures = dataset.facts(), dataset.load()
    assert (facts.train_count, facts.test_count) == (len(pairs[0]), len(pairs[2]))
    assert (facts.height, facts.width, facts.channels) == pairs[0].shape[1:]
    assert facts.classes == {CelebA8: 8, Gtsrb: 43}.get(kind, 10)
    assert np.array_equal(pictures.train_images, pairs[0])
    assert np.array_equal(pictures.train_labels, pairs[1])
    assert np.array_equal(pictures.test_images, pairs[2])
    assert np.array_equal(pictures.test_labels, pairs[3])
    assert pictures.train_images.dtype == np.uint8
    assert pictures.train_labels.dtype == pictures.test_labels.dtype == np.int64


@each_set
def test_the_fingerprint_is_the_content_s(
    kind: type[Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[kind](tmp_path / "data", monkeypatch)
    first = kind(root=tmp_path / "data").facts().fingerprint
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert kind(root=tmp_path / "copy", take=2).facts().fingerprint == first
    changed = kind(root=tmp_path / "copy").files()[-1]
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x07")
    if kind in (Cifar10, Svhn):  # counted by reading them, which shows the damage
        with pytest.raises(ValueError, match="fetch it again"):
            kind(root=tmp_path / "copy").facts()
    else:
        assert kind(root=tmp_path / "copy").facts().fingerprint != first


@each_set
def test_a_missing_set_is_one_sentence_with_the_command(
    kind: type[Published], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"^{kind.called} is not in {tmp_path}; ") as caught:
        kind(root=tmp_path).facts()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert f"-m plugins.datasets.fetch {kind.called} {tmp_path}" in sentence
    assert "download = true" in sentence
    with pytest.raises(ValueError, match=rf"fetch {kind.called} '{tmp_path}/my data'"):
        kind(root=tmp_path / "my data").facts()


@pytest.mark.parametrize("kind", [Cifar10, Stl10, Svhn, Mnist], ids=lambda kind: kind.called)
def test_a_damaged_set_is_named(
    kind: type[Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[kind](tmp_path / "data", monkeypatch)
    damaged = kind(root=tmp_path / "data").files()[0]
    damaged.unlink()
    dataset = kind(root=tmp_path / "data")
    with pytest.raises(
        ValueError,
        match=rf"{kind.called} in .* cannot be read .*fetch it again: .*fetch {kind.called}",
    ):
        dataset.facts()
    with pytest.raises(ValueError, match="cannot be read"):
        dataset.load()


@pytest.mark.parametrize("kind", [*SETS, PictureFolder], ids=lambda kind: kind.__name__)
def test_the_classes_are_sound(kind: type[Dataset]) -> None:
    from harness.introspect.classes import faults

    assert faults("dataset", kind) == []
    assert all(field.description for field in kind.model_fields.values())
    assert kind.__doc__


# --- where they lie -------------------------------------------------------------------------------


def test_the_root_is_bench_data_or_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Mnist().root == tmp_path / "cache/datasets"
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    assert Mnist().root == tmp_path / "data"
    write_mnist(tmp_path / "cache/datasets", monkeypatch)
    assert Mnist().root == tmp_path / "cache/datasets", "where it is goes before where it could be"
    write_mnist(tmp_path / "data", monkeypatch)
    assert Mnist().root == tmp_path / "data"
    assert Mnist(root=tmp_path).root == tmp_path


def test_a_stage_finds_what_the_plan_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages know nothing of $BENCH_DATA; where the files are is in no key."""
    write_mnist(tmp_path / "data", monkeypatch)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    answer = resolve(
        "dataset",
        "plugins.datasets.mnist:Mnist",
        None,
        None,
        None,
        {"pool": 3},
        str(tmp_path),
        None,
    )
    monkeypatch.delenv("BENCH_DATA")
    component = answer["component"]
    assert Mnist.model_validate_json(json.dumps(component["params"])).facts().train_count == 20
    assert component["identity"].keys().isdisjoint({"root", "download"})
    assert component["changed"] == {"pool": 3}
    assert str(tmp_path / "data/MNIST/raw/train-labels-idx1-ubyte") in answer["files"]


def asked(params: dict[str, Any], base: Path) -> Any:
    return resolve(
        "dataset", "plugins.datasets.mnist:Mnist", None, None, None, params, str(base), None
    )["component"]


def test_a_relative_root_is_beside_the_grid_or_in_bench_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "grids/pictures", monkeypatch)
    found = asked({"root": "pictures"}, tmp_path / "grids")
    assert found["params"]["root"] == str(tmp_path / "grids/pictures")
    with pytest.raises(ParameterError, match=f"mnist is not in {tmp_path}/elsewhere/pictures"):
        asked({"root": "pictures"}, tmp_path / "elsewhere")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "grids"))
    assert asked({"root": "pictures"}, tmp_path / "elsewhere")["identity"] == found["identity"]
    assert (
        found["params"]["root"]
        == asked({"root": "pictures"}, tmp_path / "elsewhere")["params"]["root"]
    )


# --- fetching them --------------------------------------------------------------------------------


def test_download_fetches_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that brings the files stands in for the download."""
    write_mnist(tmp_path / "away", monkeypatch)
    commands = []

    class Process(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            commands.append(command)
            assert options["start_new_session"]
            super().__init__(["cp", "-r", str(tmp_path / "away/MNIST"), command[-1]], **options)

    (tmp_path / "root").mkdir()
    monkeypatch.setattr(published.subprocess, "Popen", Process)
    assert Mnist(root=tmp_path / "root", download=True).facts().train_count == 20
    assert commands == [
        [sys.executable, "-m", "plugins.datasets.fetch", "mnist", str(tmp_path / "root")]
    ]
    assert Mnist(root=tmp_path / "root", download=True).facts().train_count == 20
    assert len(commands) == 1


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "import sys; sys.exit('no route to host')",
            r"could not be downloaded \(no route to host\)",
        ),
        ("import time; time.sleep(9)", "is being downloaded"),
    ],
    ids=["fails", "lasts"],
)
def test_a_download_that_fails_or_lasts_is_told(
    script: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Process(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__([sys.executable, "-c", script], **options)
            started.append(self)

    monkeypatch.setattr(published.subprocess, "Popen", Process)
    monkeypatch.setattr(published, "PATIENCE", 0.2 if "sleep" in script else 30)
    try:
        with pytest.raises(ValueError, match=rf"mnist {told}.*-m plugins.datasets.fetch mnist"):
            Mnist(root=tmp_path, download=True).facts()
    finally:
        started[0].kill()
        started[0].wait()


def test_the_command_fetches_each_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {name: kind.called for name, kind in fetch.SETS.items()} == {
        name: name for name in fetch.SETS
    }
    assert set(fetch.SETS.values()) == set(SETS)
    monkeypatch.setattr(Svhn, "fetch", lambda self: (self.folder / "here").touch())
    assert fetch.main(["svhn", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new/here").exists()

    monkeypatch.setattr(Gtsrb, "fetch", lambda self: (self.folder / self.edition).touch())
    for flags in ((), ("--online",)):
        assert fetch.main(["gtsrb", str(tmp_path / "new"), *flags]) == 0
    assert (tmp_path / "new/online").exists()
    assert (tmp_path / "new/final").exists()
    with pytest.raises(ValueError, match=rf"fetch gtsrb {tmp_path} --online"):
        Gtsrb(root=tmp_path, edition="online").facts()

    def fail(self: Svhn) -> None:
        raise RuntimeError("File not found\nor corrupted.")

    monkeypatch.setattr(Svhn, "fetch", fail)
    assert fetch.main(["svhn", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == "RuntimeError: File not found or corrupted.\n"


def test_a_set_that_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's own calls, where no download is needed."""
    for kind in (Cifar10, Mnist, Svhn):
        WRITERS[kind](tmp_path / kind.called, monkeypatch)
        kind(root=tmp_path / kind.called).fetch()


# --- presets --------------------------------------------------------------------------------------

COUNTS = {
    "celeba8": (162_770, 19_962),
    "cifar10": (50_000, 10_000),
    "gtsrb": (39_209, 12_630),
    "mnist": (60_000, 10_000),
    "stl10": (5_000, 8_000),
    "svhn": (73_257, 26_032),
}
SPLITS = {
    ("celeba8", "deck"): (162_770, 8138, 0, 19_962),
    ("cifar10", "anp"): (45_000, 5000, 0, 10_000),
    ("cifar10", "bcu"): (50_000, 5000, 0, 5000),
    ("cifar10", "bcu-code"): (45_000, 5000, 0, 10_000),
    ("cifar10", "deck"): (48_000, 2500, 2000, 10_000),
    ("cifar10", "trap"): (47_500, 2500, 0, 10_000),
    ("gtsrb", "bcu"): (39_209, 5000, 0, 7630),
    ("gtsrb", "deck"): (35_289, 1960, 3920, 12_630),
    ("gtsrb", "trap"): (37_249, 1960, 0, 12_630),
    ("mnist", "anp"): (54_000, 6000, 0, 10_000),
    ("stl10", "deck"): (5000, 250, 0, 8000),
    ("svhn", "deck"): (67_257, 3662, 6000, 26_032),
}
"""(training, pool, validation, test) images, as the papers say."""


@pytest.mark.parametrize(
    ("kind", "preset"), [(kind, preset) for kind in SETS for preset in kind.presets]
)
def test_presets_give_the_papers_splits(kind: type[Published], preset: str, tmp_path: Path) -> None:
    params = kind(root=tmp_path, **kind.presets[preset]).model_dump()
    split = sizes(params, *COUNTS[kind.called])
    assert (split.train, split.pool, split.validation, split.test) == SPLITS[kind.called, preset]


# --- GTSRB ----------------------------------------------------------------------------------------


def test_gtsrb_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = write_gtsrb(tmp_path, monkeypatch)
    first = Gtsrb(root=tmp_path).load()
    monkeypatch.setattr(Image, "open", None)
    again = Gtsrb(root=tmp_path, pool=3).load()
    assert np.array_equal(first.train_images, again.train_images)
    assert np.array_equal(again.test_labels, pairs[3])
    with pytest.raises(ValueError, match="not callable"):
        Gtsrb(root=tmp_path, size=16).load()


def test_the_first_round_of_gtsrb_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gtsrb(tmp_path, monkeypatch)
    final = Gtsrb(root=tmp_path).facts()
    (tmp_path / "gtsrb/GTSRB/Final_Training/Images").rename(tmp_path / "gtsrb/GTSRB/Training")
    first = Gtsrb(root=tmp_path, edition="online").facts()
    assert first.train_count == final.train_count == 43
    assert first.fingerprint != final.fingerprint
    with pytest.raises(ValueError, match="cannot be read"):
        Gtsrb(root=tmp_path).facts()


def test_an_interrupted_download_of_gtsrb_leaves_nothing_that_passes_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    made: list[Path] = []

    def extract(url: str, download_root: str) -> None:
        made.append(Path(download_root) / "GTSRB/Final_Training/Images/00000")
        made[-1].mkdir(parents=True)
        (made[-1] / "00000.ppm").write_bytes(b"")
        if len(made) == 1:
            raise OSError("the line is dead")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", extract)
    monkeypatch.setattr(torchvision.datasets, "GTSRB", lambda *args, **kwargs: None)
    dataset = Gtsrb(root=tmp_path)
    with pytest.raises(OSError, match="the line is dead"):
        dataset.fetch()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    dataset.fetch()
    assert [
        path.name for path in (tmp_path / "gtsrb/GTSRB/Final_Training/Images/00000").iterdir()
    ] == ["00000.ppm"]
    dataset.fetch()
    assert len(made) == 2, "it is there"


# --- folders of pictures --------------------------------------------------------------------------


def pictures(
    folder: Path, split: str = "train", classes: tuple[str, ...] = ("cat", "dog"), count: int = 3
) -> None:
    draw = np.random.default_rng(len(split))
    for name in classes:
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (9 + number, 12, 3), np.uint8)).save(
                folder / split / name / f"{number}.png"
            )


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    pictures(tmp_path, "train", ("dog", "cat", "ant"))
    pictures(tmp_path, "test", ("dog", "cat"), count=1)
    (tmp_path / "train/cat/.hidden.png").write_bytes(b"")
    (tmp_path / "train/cat/Thumbs.db").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("beside the splits")
    dataset = PictureFolder(path=tmp_path, size=8)
    facts, loaded = dataset.facts(), dataset.load()
    assert (facts.classes, facts.height, facts.width, facts.channels) == (3, 8, 8, 3)
    assert (facts.train_count, facts.test_count) == (9, 2)
    assert loaded.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert loaded.test_labels.tolist() == [1, 2]
    with Image.open(tmp_path / "train/cat/1.png") as picture:
        expected = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(loaded.train_images[4], expected)


def test_a_folder_of_classes_alone_has_no_test_set(tmp_path: Path) -> None:
    pictures(tmp_path, ".", count=2)
    dataset = PictureFolder(path=tmp_path, size=6, channels=1)
    facts, loaded = dataset.facts(), dataset.load()
    assert (facts.train_count, facts.test_count, facts.channels) == (4, 0, 1)
    assert loaded.train_images.shape == (4, 6, 6, 1)
    assert loaded.test_images.shape == (0, 6, 6, 1)


def test_a_folder_s_fingerprint_is_its_content_and_its_size(tmp_path: Path) -> None:
    pictures(tmp_path / "one")
    first = PictureFolder(path=tmp_path / "one").facts().fingerprint
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert PictureFolder(path=tmp_path / "two", pool=1).facts().fingerprint == first
    assert PictureFolder(path=tmp_path / "two", size=16).facts().fingerprint != first
    assert PictureFolder(path=tmp_path / "two", resample="box").facts().fingerprint != first
    (tmp_path / "two/train/cat/0.png").rename(tmp_path / "two/train/cat/9.png")
    assert PictureFolder(path=tmp_path / "two").facts().fingerprint != first


def test_a_folder_is_decoded_once_and_a_damaged_copy_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "one")
    dataset = PictureFolder(path=tmp_path / "one", size=8)
    first = dataset.load()
    (kept,) = (tmp_path / "cache/pictures").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", None)
        assert np.array_equal(dataset.load().train_images, first.train_images)
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(dataset.load().train_images, first.train_images)
    buffer = io.BytesIO(kept.read_bytes())
    with np.load(buffer) as arrays:
        assert np.array_equal(arrays["train_images"], first.train_images)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    pictures(tmp_path / "one")
    (tmp_path / "file").write_text("")
    assert (
        len(PictureFolder(path=tmp_path / "one", decoded_in=tmp_path / "file").load().train_images)
        == 6
    )


def missing(folder: Path) -> None:
    pass


def one_class(folder: Path) -> None:
    pictures(folder, classes=("cat",))


def empty(folder: Path) -> None:
    pictures(folder, count=0)


def strange(folder: Path) -> None:
    pictures(folder)
    pictures(folder, "test", ("cat", "cow"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, r"there is no folder .*/set; expected: one with train/<class>/\*\.png"),
        (one_class, "/set/train has 1 sub-folders; put each class's pictures into one"),
        (empty, "/set/train has no pictures in its sub-folders"),
        (strange, "/set/test has a class 'cow' that .*/set/train has not"),
    ],
)
def test_a_folder_that_cannot_be_is_told(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "set")
    dataset: Dataset = PictureFolder(path=tmp_path / "set")
    with pytest.raises(ValueError, match=reason):
        dataset.facts()


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "train/cat/1.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"train/cat/1\.png is no picture that Pillow can read"):
        PictureFolder(path=tmp_path).load()


def test_a_picture_of_more_than_bytes_is_not_cut_off(tmp_path: Path) -> None:
    """Pillow's conversion makes everything above 255 white."""
    pictures(tmp_path)
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(tmp_path / "train/cat/1.png")
    with pytest.raises(ValueError, match=r"train/cat/1\.png: .*mode I;16; store it with 8"):
        PictureFolder(path=tmp_path).load()


def test_the_modules_import_neither_torch_nor_pillow() -> None:
    """They are imported to plan; torch costs seconds."""
    code = (
        "import sys, plugins.datasets.fetch, plugins.datasets.folder\n"
        "import plugins.models.timm_net, plugins.models.nin\n"
        "sys.exit(', '.join({'torch', 'torchvision', 'timm', 'PIL', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
