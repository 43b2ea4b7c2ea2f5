"""The picture that `bench preview` writes: rows of images with captions, drawn with Pillow.

Runs in a child, `python -m harness.preview.sheet FOLDER`, as the command itself loads neither
Pillow nor NumPy. Reads `task.json` of the folder: `amplify`, the factor on differences (null: the
largest that cuts nothing off, for each row), and `panels`; the tensors of panel N are in `N/`.
Writes `sheet.png`, and prints what is on it.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from safetensors.numpy import load_file

from harness.stages.artefacts import PANEL_FILE

SIDE = 96
"""Pixels that the longer side of an image should have; smaller ones are enlarged by a whole factor.
"""
MARGIN, GAP, CAPTION, COLUMN, WIDTH = 14, 4, 190, 72, 640
"""Pixels around the sheet, between images, for captions of rows, of columns, of the sheet at least.
"""
TITLE, TEXT, SMALL, LETTER = 18, 14, 12, 0.47
"""Sizes of text, and the width of a usual letter as a part of its size."""
INK, FAINT, LINE, PAPER = "#000000", "#5a5a5a", "#c8c8c8", "#ffffff"

Panel = Mapping[str, Any]
Tensors = Mapping[str, np.ndarray]

font = cache(ImageFont.load_default)
"""Pillow's own font, by size."""


def main(folder: Path) -> None:
    """Draw what the folder describes."""
    task = json.loads((folder / "task.json").read_text("utf-8"))
    sheet = Sheet(task["amplify"])
    for number, panel in enumerate(task["panels"]):
        sheet.add(panel, load_file(folder / str(number) / PANEL_FILE))
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "doorbench")
    info.add_itxt("doorbench", json.dumps(sheet.contents))
    sheet.draw().save(folder / "sheet.png", pnginfo=info)
    print("\n".join(sheet.words))


class Sheet:
    """A sheet in the making: panels are added from top to bottom, then all are drawn at once.

    `contents` tells machines what stands where: the panels, with the whole `caption` of each row,
    its `factor` on differences, and the `scale` and `boxes` (left, top, width, height in pixels) of
    its images. `words` are lines that tell people.
    """

    def __init__(self, amplify: float | None = None) -> None:
        self.amplify = amplify
        self.width = WIDTH
        self.height = MARGIN
        self.contents: list[dict[str, Any]] = []
        self.words: list[str] = []
        self._texts: list[tuple[int, int, str, int, str]] = []
        self._images: list[tuple[int, int, Image.Image]] = []
        self._lines: list[int] = []

    def add(self, panel: Panel, tensors: Tensors) -> None:
        """Add a panel with `title`, `notes`, and `sections` as the stage `preview` leaves them."""
        if self.contents:
            self._lines.append(self.height + MARGIN // 2)
            self.height += 2 * MARGIN
        self._write(panel["title"], TITLE)
        self.words.append(panel["title"])
        for note in panel["notes"]:
            self._write(note, SMALL, colour=FAINT)
            self.words.append(f"  {note}")
        sections = [self._section(section, tensors) for section in panel["sections"]]
        self.contents.append({**panel, "sections": sections})

    def draw(self) -> Image.Image:
        """Draw what has been added so far."""
        picture = Image.new("RGB", (self.width, self.height + MARGIN), PAPER)
        pen = ImageDraw.Draw(picture)
        for left, top, text, size, colour in self._texts:
            pen.text((left, top), text, colour, font(size))
        for left, top, image in self._images:
            picture.paste(image, (left, top))
        for top in self._lines:
            pen.line((MARGIN, top, self.width - MARGIN, top), LINE)
        return picture

    def _section(self, section: Panel, tensors: Tensors) -> dict[str, Any]:
        self.height += 2 * GAP
        self._write(section["title"], TEXT)
        _, height, width, _ = tensors[section["rows"][0]["images"]].shape
        scale = max(1, round(SIDE / max(height, width)))
        size = (scale * width, scale * height)
        pitch = max(size[0], COLUMN) + GAP
        lefts = [MARGIN + CAPTION + pitch * number for number in range(len(section["columns"]))]
        for left, caption in zip(lefts, section["columns"], strict=True):
            self._texts.append((left, self.height + GAP, plain(caption), SMALL, INK))
        self.width = max(self.width, lefts[-1] + size[0] + MARGIN)
        self.height += SMALL + 3 * GAP
        rows = []
        for row in section["rows"]:
            images, caption, times = show(row, tensors, self.amplify)
            top = self.height
            self._write(caption, SMALL, CAPTION)
            for left, image in zip(lefts, images, strict=True):
                large = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
                self._images.append((left, top, large))
            self.height = max(self.height, top + size[1]) + GAP
            if row["less"]:
                self.words.append(f"  {row['images']}: {', '.join(caption.splitlines())}")
            boxes = [(left, top, *size) for left in lefts]
            place = {"caption": caption, "factor": times, "scale": scale, "boxes": boxes}
            rows.append({**row, **place})
        return {**section, "rows": rows}

    def _write(
        self, text: str, size: int, width: int = WIDTH - 2 * MARGIN, colour: str = INK
    ) -> None:
        """Add text from `height` down, in lines of about `width` pixels at most."""
        for line in wrap(text, round(width / (size * LETTER))):
            self._texts.append((MARGIN, self.height, line, size, colour))
            self.height += size + GAP


def show(
    row: Mapping[str, str], tensors: Tensors, amplify: float | None
) -> tuple[np.ndarray, str, float]:
    """Return the images of a row as they are drawn, uint8 (n, height, width, 3), the whole caption,
    and the factor on differences. What lies outside 0..255 becomes 0 or 255.
    """
    caption = row["caption"]
    times = 1.0
    levels = tensors[row["images"]].astype(np.float32)
    if row["less"]:
        levels = np.abs(levels - tensors[row["less"]].astype(np.float32))
        largest = float(levels.max())
        mean = float(levels.mean())
        times = factor(largest) if amplify is None else amplify
        levels = levels * np.float32(times)
        caption += f" x{times:g}\nat most {largest:.3g} of 255 grey levels, {mean:.3g} in the mean"
        if times * largest > 255.5:
            caption += "; cut off at white"
    images: np.ndarray = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if images.shape[3] == 1:
        images = images.repeat(3, axis=3)
    return images, caption, times


def factor(largest: float) -> float:
    """Return the largest whole number, from 1 to 255, that amplifies differences up to `largest`
    grey levels to 255 at most.
    """
    if largest == 0:
        return 1.0
    return float(max(1, math.floor(min(255.0, 255 / largest))))


def wrap(text: str, width: int) -> list[str]:
    """Break text into plain lines of at most `width` letters."""
    lines = []
    for paragraph in plain(text).split("\n"):
        lines += textwrap.wrap(paragraph, width)
    return lines


def plain(text: str) -> str:
    """Return text in the letters that Pillow's own font has, other than line ends: accents are
    dropped, and what is left of others is a question mark.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    letters = [letter for letter in decomposed if not unicodedata.combining(letter)]
    return re.sub(r"[^ -~\n]", "?", "".join(letters))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
