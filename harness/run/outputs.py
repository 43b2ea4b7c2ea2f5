"""What a stage leaves in `out/`, checked before it becomes an object: that all is there that must
be, and that each file has the form in which others read it.

A file that is not as it should be is the fault of the stage that left it, which may have run code
that means harm. Found here it fails that stage, and not the ones that would read it. Of tensors
their form is checked; what their values mean is up to those who read them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.run import claims
from harness.stages.artefacts import (
    AGAIN_FILE,
    ANSWERS_FILE,
    BESIDE_PLACES,
    IMAGES_FILE,
    MODEL_FILE,
    PANEL_FACTS_FILE,
    PANEL_FILE,
    PLACES_FILE,
    POISONED_FILE,
    RESULT_FILE,
    ROWS_FILE,
    SAMPLE_FILE,
    SPLITS,
    STREAM_FILE,
    TRAINING_FILE,
    TRUTH_FILE,
    split_file,
)
from harness.stages.stage import Stage
from harness.store import disk, plain, tensors
from harness.store.tensors import Form, Header

MUST_LEAVE: Mapping[str, tuple[str, ...]] = {
    "data": (split_file("train"), split_file("test")),
    "part": (MODEL_FILE, RESULT_FILE),
    "poison": (TRUTH_FILE,),
    "victim": (MODEL_FILE, TRUTH_FILE),
    "export": (TRAINING_FILE,),
    "grant": (IMAGES_FILE,),
    "defend": (RESULT_FILE,),
    "stamp": (STREAM_FILE, SAMPLE_FILE, PLACES_FILE),
    "evaluate": (ANSWERS_FILE,),
    "recheck": (AGAIN_FILE,),
    "score": (ROWS_FILE,),
    "measure": (ROWS_FILE,),
    "preview": (PANEL_FILE, PANEL_FACTS_FILE),
    "show": (PANEL_FILE, PANEL_FACTS_FILE),
}
"""By stage kind, files without which what a stage left is no result. A stage of any other kind must
leave a file of some name.
"""

IMAGES = "images (n, height, width, 1 or 3)"


def check(stage: Stage, folder: Path) -> None:
    """Check what a stage left in the `out` of its scratch folder: that there is what there must be,
    that all of it are plain files, that its JSON holds what the host reads from it, and its tensors
    have the names, types and shapes that other stages expect. Raises ValueError.
    """
    files = disk.outputs(folder / "out")
    if not files:
        raise ValueError("the stage ended well but left no file in its out folder")
    lacking = [name for name in MUST_LEAVE.get(stage.kind, ()) if name not in files]
    if lacking:
        raise ValueError(f"the stage ended well but left no {', '.join(lacking)}")
    headers = check_files(files)
    check_form = _FORMS.get(stage.kind)
    if check_form is not None:
        check_form(Left(stage.payload, folder, headers))


def check_files(files: Mapping[str, Path]) -> dict[str, Header]:
    """Check that JSON, by the names of its files, holds what the host reads from it, and that files
    of tensors are whole; return the headers of these. Raises ValueError.
    """
    headers = {}
    for name, path in files.items():
        if name.endswith(".json"):
            _check_json(name, path)
        elif name.endswith(".safetensors"):
            with _reading(name):
                headers[name] = tensors.safetensors(path)
    return headers


def _check_json(name: str, path: Path) -> None:
    try:
        value = claims.read(name, plain.content(path))
    except OSError as error:
        raise ValueError(f"its {name} cannot be read: {error.strerror}") from error
    if name == RESULT_FILE and not {"seconds", "images"} <= value["record"].keys():
        raise ValueError(f"its {name} does not say what the work cost: seconds and images")


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Name the file in which something is wrong."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"its {name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"its {name} is not as it should be: {error}") from error


# --- tensors, by stage kind -----------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """What a stage left: its payload, its scratch folder, and the headers of its tensors by the
    name of the file.
    """

    payload: Any
    folder: Path
    headers: Mapping[str, Header]


def _data(left: Left) -> None:
    size: tuple[int, ...] | None = None
    for split in SPLITS:
        name = split_file(split)
        if name not in left.headers:
            continue
        with _reading(name):
            count, *found = _images(left.headers[name], "images")
            _array(left.headers[name], "labels", "int64", (count,))
            if size is not None and size != tuple(found):
                raise ValueError(f"its images are {tuple(found)}, those of other splits {size}")
            size = tuple(found)


def _poison(left: Left) -> None:
    if POISONED_FILE not in left.headers:
        return  # the attack controls training
    task = left.payload.context.task
    with _reading(POISONED_FILE):
        header = left.headers[POISONED_FILE]
        size = (task.height, task.width, task.channels)
        count, *_ = _array(header, "images", "uint8", (None, *size))
        for name in ("labels", "indices"):
            _array(header, name, "int64", (count,))
        if "cover" in header.tensors:
            _array(header, "cover", "bool", (count,))
        if header.metadata.get("add") not in ("True", "False"):
            raise ValueError('its metadata does not say whether images were added: "add"')


def _export(left: Left) -> None:
    with _reading(TRAINING_FILE):
        header = left.headers[TRAINING_FILE]
        count, *_ = _images(header, "images")
        _array(header, "labels", "int64", (count,))
    if POISONED_FILE in left.headers:
        with _reading(POISONED_FILE):
            _array(left.headers[POISONED_FILE], "poisoned", "bool", (count,))


def _grant(left: Left) -> None:
    with _reading(IMAGES_FILE):
        header = left.headers[IMAGES_FILE]
        count, *_ = _images(header, "images")
        if left.payload.labelled:
            _array(header, "labels", "int64", (count,))
        elif "labels" in header.tensors:
            raise ValueError("it holds labels, where images without labels are granted")


def _stamp(left: Left) -> None:
    stream = _asked(left, STREAM_FILE)
    sample = _asked(left, SAMPLE_FILE)
    with _reading(PLACES_FILE):
        header = left.headers[PLACES_FILE]
        (count,) = _array(header, "labels", "int64", (None,))
        _array(header, "sample", "int64", (sample,))
        for name in sorted((header.tensors.keys() | {"mapped", "clean"}) - {"sample"}):
            _array(header, name, "int64", (count,))
        asked = len(header.tensors.keys() - BESIDE_PLACES) * count
        if asked != stream:
            raise ValueError(
                f"it has places for {asked} images, but there are {stream} in the stream"
            )


def _asked(left: Left, name: str) -> int:
    """Return the number of images that a stage leaves for models to be asked about."""
    task = left.payload.task
    size = (task.height, task.width, task.channels)
    with _reading(name):
        form = tensors.npy(left.folder / "out" / name)
        if len(form.shape) != 4 or form.shape[1:] != size:
            expected = ", ".join(map(str, size))
            raise ValueError(f"it is {form}; images (n, {expected}) are expected")
    return form.shape[0]


def _evaluate(left: Left) -> None:
    _logits(left, ANSWERS_FILE, f"stream/{STREAM_FILE}")


def _recheck(left: Left) -> None:
    _logits(left, AGAIN_FILE, f"sample/{SAMPLE_FILE}")


def _logits(left: Left, name: str, asked: str) -> None:
    """Check that there is a row of logits for each image of an input."""
    with _reading(asked):
        count, *_ = tensors.npy(left.folder / "inputs" / asked).shape
    with _reading(name):
        shape = (count, left.payload.task.classes)
        _array(left.headers[name], "logits", "float32", shape)


def _panel(left: Left) -> None:
    with _reading(PANEL_FILE):
        header = left.headers[PANEL_FILE]
        _images(header, "clean")
        for name, form in header.tensors.items():
            if not _are_images(form, ("uint8", "float32")):
                raise ValueError(f"{name} is {form}; uint8 or float32 {IMAGES} are expected")


_FORMS: Mapping[str, Callable[[Left], None]] = {
    "data": _data,
    "poison": _poison,
    "export": _export,
    "grant": _grant,
    "stamp": _stamp,
    "evaluate": _evaluate,
    "recheck": _recheck,
    "preview": _panel,
    "show": _panel,
}
"""Checks of the tensors that a stage kind leaves, where their form is known: states of networks and
triggers, and arrays of metrics, may have any.
"""


def _array(header: Header, name: str, dtype: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Return the shape of a tensor. Raises ValueError where it is of another type or, but for
    lengths that are None, shape, and where there is none of the name.
    """
    form = _named(header, name)
    fits = form.dtype == dtype and len(form.shape) == len(shape)
    for found, expected in zip(form.shape, shape, strict=False):
        fits = fits and expected in (None, found)
    if not fits:
        lengths = ", ".join("n" if length is None else str(length) for length in shape)
        if len(shape) == 1:
            lengths += ","
        raise ValueError(f"{name} is {form}; {dtype} ({lengths}) is expected")
    return form.shape


def _images(header: Header, name: str) -> tuple[int, ...]:
    """Return the shape of images. Raises ValueError where a tensor is none such, or is missing."""
    form = _named(header, name)
    if not _are_images(form, ("uint8",)):
        raise ValueError(f"{name} is {form}; uint8 {IMAGES} are expected")
    return form.shape


def _are_images(form: Form, dtypes: tuple[str, ...]) -> bool:
    return form.dtype in dtypes and len(form.shape) == 4 and form.shape[3] in (1, 3)


def _named(header: Header, name: str) -> Form:
    form = header.tensors.get(name)
    if form is None:
        raise ValueError(f"it holds no {name!r}")
    return form
