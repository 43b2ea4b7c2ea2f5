"""The picture that `bench preview` writes: rows of images with captions, drawn with Pillow in a
child.

A picture is described by `Panel`s. Importing this module loads neither Pillow nor NumPy.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageFont

    Tensors = Mapping[str, np.ndarray]

ENTRY = "harness.preview.sheet:main"
PRELOAD = (
    "numpy",
    "safetensors.numpy",
    "PIL.Image",
    "PIL.ImageDraw",
    "PIL.ImageFont",
    "PIL.PngImagePlugin",
)
PICTURE = "sheet.png"

SIDE = 96
"""Pixels that the longer side of an image should have; smaller ones are enlarged by a whole factor.
"""
MARGIN, GAP, CAPTION, WIDTH = 14, 4, 190, 640
"""Pixels around the sheet, between images, for the captions of rows, and of the narrowest sheet."""
TITLE, TEXT, SMALL = 18, 14, 12
"""Sizes of text."""
INK, FAINT, PAPER, LINE = (0, 0, 0), (90, 90, 90), (255, 255, 255), (200, 200, 200)


@dataclass(frozen=True)
class Row:
    """Images of the tensor `images` (n, height, width, 1 or 3; grey levels), or `factor` times how
    far they are from those of the tensor `less`. What lies outside 0..255 is drawn as 0 or 255.
    """

    caption: str
    images: str
    less: str = ""
    factor: float = 1.0


@dataclass(frozen=True)
class Section:
    """Rows of the same images, one after the other; a caption for each column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Panel:
    """What is drawn from one file of tensors. `source` is for machines: where it comes from."""

    title: str
    notes: Sequence[str]
    sections: Sequence[Section]
    source: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Panel:
        """From what `dataclasses.asdict` made of it."""
        sections = [
            Section(one["title"], one["columns"], [Row(**row) for row in one["rows"]])
            for one in table["sections"]
        ]
        return cls(table["title"], table["notes"], sections, table["source"])


def main(task: Mapping[str, Any]) -> None:
    """In a child: draw the panels of `task` from `inputs/<number>/panel.safetensors` into
    `sheet.png`.
    """
    from PIL import PngImagePlugin
    from safetensors.numpy import load_file

    from harness.run.worker import report

    scratch = Path(task["scratch"])
    sheet = Sheet()
    for number, table in enumerate(task["panels"]):
        sheet.add(
            Panel.read(table), load_file(scratch / "inputs" / str(number) / "panel.safetensors")
        )
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "doorbench")
    info.add_itxt("doorbench", json.dumps(sheet.contents))
    sheet.draw().save(scratch / PICTURE, pnginfo=info)
    report(scratch / "record.json", {"status": "ok"})


class Sheet:
    """A sheet in the making: panels are added from top to bottom, then all is drawn at once.

    `contents` tells machines what stands where: for each panel its title, notes and source, for
    each row its caption, factor and boxes (left, top, width, height in pixels), and by what whole
    factor images were enlarged.
    """

    def __init__(self) -> None:
        self.width, self.height = WIDTH, MARGIN
        self.contents: list[dict[str, Any]] = []
        self._fonts: dict[int, ImageFont.FreeTypeFont] = {}
        self._texts: list[tuple[int, int, str, int, tuple[int, int, int]]] = []
        self._images: list[tuple[int, int, np.ndarray]] = []
        self._lines: list[int] = []

    def add(self, panel: Panel, tensors: Tensors) -> None:
        """Put a panel under those that are there."""
        if self.contents:
            self._lines.append(self.height + MARGIN // 2)
            self.height += 2 * MARGIN
        told: dict[str, Any] = {
            "title": panel.title,
            "notes": list(panel.notes),
            **panel.source,
            "sections": [],
        }
        self.contents.append(told)
        self._write(MARGIN, panel.title, TITLE, WIDTH - 2 * MARGIN)
        for note in panel.notes:
            self._write(MARGIN, note, SMALL, WIDTH - 2 * MARGIN, FAINT)
        for section in panel.sections:
            rows = self._section(section, tensors)
            told["sections"].append({**asdict(section), "rows": rows})

    def draw(self) -> Image.Image:
        """The sheet as it is now."""
        from PIL import Image, ImageDraw

        picture = Image.new("RGB", (self.width, self.height + MARGIN), PAPER)
        pen = ImageDraw.Draw(picture)
        for y in self._lines:
            pen.line((MARGIN, y, self.width - MARGIN, y), LINE)
        for x, y, text, size, colour in self._texts:
            pen.text((x, y), text, colour, self._font(size))
        for x, y, image in self._images:
            picture.paste(Image.fromarray(image), (x, y))
        return picture

    def _section(self, section: Section, tensors: Tensors) -> list[dict[str, Any]]:
        """Put the rows of a section; what `contents` says of them."""
        self.height += 2 * GAP
        self._write(MARGIN, section.title, TEXT, WIDTH - 2 * MARGIN)
        _, height, width, _ = tensors[section.rows[0].images].shape
        scale = max(1, round(SIDE / max(height, width)))
        captions = [plain(text) for text in section.columns]
        widest = max((round(self._font(SMALL).getlength(text)) for text in captions), default=0)
        pitch = max(scale * width, widest + GAP) + GAP
        left = MARGIN + CAPTION
        self.width = max(self.width, left + len(captions) * pitch - GAP + MARGIN)
        for number, text in enumerate(captions):
            self._texts.append((left + number * pitch, self.height + GAP, text, SMALL, INK))
        self.height += SMALL + 3 * GAP
        return [self._row(row, tensors, scale, left, pitch) for row in section.rows]

    def _row(self, row: Row, tensors: Tensors, scale: int, left: int, pitch: int) -> dict[str, Any]:
        top = self.height
        self._write(MARGIN, row.caption, SMALL, CAPTION - 2 * GAP)
        boxes = []
        for number, image in enumerate(pixels(row, tensors)):
            large = image.repeat(scale, 0).repeat(scale, 1)
            x, (height, width) = left + number * pitch, large.shape[:2]
            self._images.append((x, top, large))
            boxes.append([x, top, width, height])
            self.height = max(self.height, top + height)
        self.height += GAP
        return {**asdict(row), "scale": scale, "boxes": boxes}

    def _write(
        self, x: int, text: str, size: int, width: int, colour: tuple[int, int, int] = INK
    ) -> None:
        """Put text from `height` down, in lines of at most `width` pixels."""
        for line in wrapped(text, lambda part: self._font(size).getlength(part), width):
            self._texts.append((x, self.height, line, size, colour))
            self.height += size + GAP

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        from PIL import ImageFont

        if size not in self._fonts:
            font = ImageFont.load_default(size)
            assert isinstance(font, ImageFont.FreeTypeFont)
            self._fonts[size] = font
        return self._fonts[size]


def pixels(row: Row, tensors: Tensors) -> np.ndarray:
    """The images of a row as they are drawn: uint8 (n, height, width, 3)."""
    import numpy as np

    levels = tensors[row.images].astype(np.float32)
    if row.less:
        levels = np.abs(levels - tensors[row.less].astype(np.float32)) * np.float32(row.factor)
    drawn: np.ndarray = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return drawn.repeat(3, axis=3) if drawn.shape[3] == 1 else drawn


def plain(text: str) -> str:
    """Text in the letters that Pillow's own font has: accents are dropped, what is left of others
    is a question mark.

    Line ends stay.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    kept = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    ascii_only = kept.encode("ascii", "replace").decode("ascii")
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "?" for letter in ascii_only
    )


def wrapped(text: str, measure: Any, width: float) -> list[str]:
    """Lines of plain text, none longer than `width` by `measure`; a word that is, is cut."""
    lines: list[str] = []
    for paragraph in plain(text).split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if measure(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            while measure(word) > width and len(word) > 1:
                fitting = next(
                    end
                    for end in range(len(word) - 1, 0, -1)
                    if end == 1 or measure(word[:end]) <= width
                )
                lines.append(word[:fitting])
                word = word[fitting:]
            line = word
        lines.append(line)
    return lines
