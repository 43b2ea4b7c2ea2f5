"""Single pictures: as every viewer shows them, or refused by name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from plugins.parts.decoding import decode


def drawn(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (6, 8, channels), np.uint8)


def transparent(path: Path) -> None:
    pixels = drawn(4)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(path)


def transparent_grey(path: Path) -> None:
    Image.fromarray(drawn(2)).save(path)


def transparent_palette(path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    picture.putpalette([255, 0, 255, 0, 0, 0])
    picture.save(path, transparency=0)


def transparent_colour(path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 255))
    picture.save(path, transparency=(255, 0, 255))


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def pages(path: Path) -> None:
    frames = [Image.new("L", (4, 4), level) for level in (0, 200)]
    frames[0].save(path, "TIFF", save_all=True, append_images=frames[1:])


def deep(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(path)


def broken_chunk(path: Path) -> None:
    Image.fromarray(drawn()).save(path)
    content = bytearray(path.read_bytes())
    content[33:41] = b"\xff" * 8
    path.write_bytes(content)


def cut(path: Path) -> None:
    Image.fromarray(drawn()).save(path)
    path.write_bytes(path.read_bytes()[:-40])


def big_text(path: Path) -> None:
    text = PngInfo()
    Image.fromarray(drawn()).save(path, pnginfo=text)
    content = path.read_bytes()
    packed = b"Comment\0\0" + zlib.compress(b"x" * (1 << 26))
    chunk = b"zTXt" + packed
    whole = struct.pack(">I", len(packed)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:33] + whole + content[33:])


def huge(path: Path) -> None:
    Image.fromarray(drawn()).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 1 << 20, 1 << 20)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (transparent, "transparent pixels"),
        (transparent_grey, "transparent pixels"),
        (transparent_palette, "transparent pixels"),
        (transparent_colour, "transparent pixels"),
        (animated, "it holds 2 pictures"),
        (pages, "it holds 2 pictures"),
        (deep, "mode I;16; store it with 8 bits"),
        (broken_chunk, "no picture that Pillow can read"),
        (cut, "no picture that Pillow can read"),
        (big_text, r"no picture that Pillow can read \(Decompressed data too large"),
        (huge, "no picture that Pillow can read .*decompression bomb"),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", None])
def test_what_viewers_show_differently_or_not_at_all_is_refused_by_name(
    make: Callable[[Path], None], told: str, mode: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "odd.png"
    make(path)
    with pytest.raises(ValueError, match=told) as caught:
        decode(path, mode)  # type: ignore[arg-type]
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.png"):
        decode(tmp_path / "none.png")


def test_opacity_that_hides_nothing_is_no_matter(tmp_path: Path) -> None:
    pixels = drawn(4)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "full.png")
    assert np.array_equal(np.asarray(decode(tmp_path / "full.png")), pixels[..., :3])
    grey = drawn(2)
    grey[..., 1] = 255
    Image.fromarray(grey).save(tmp_path / "grey.png")
    found = decode(tmp_path / "grey.png")
    assert found.mode == "L"
    assert np.array_equal(np.asarray(found), grey[..., 0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_picture_stands_upright(suffix: str, tmp_path: Path) -> None:
    """Orientation 6: the first row of the file is the right-hand side of the picture."""
    levels = np.zeros((8, 16, 3), np.uint8)
    levels[:4] = 240
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(levels).save(path, exif=exif)
    found = np.asarray(decode(path, "RGB")).astype(int)
    assert found.shape == (16, 8, 3)
    assert found[:, 5:].min() > 200
    assert found[:, :3].max() < 40


def test_one_frame_is_no_animation(tmp_path: Path) -> None:
    Image.fromarray(drawn()).save(tmp_path / "one.gif")
    assert decode(tmp_path / "one.gif", "RGB").size == (8, 6)


def test_a_camera_s_second_copy_is_no_animation(tmp_path: Path) -> None:
    first = Image.fromarray(drawn())
    first.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[first.resize((4, 3))])
    assert decode(tmp_path / "two.jpg").size == (8, 6)
