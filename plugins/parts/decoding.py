"""One picture file to pixels: as every viewer shows it, or refused by name.

This module is imported to plan, so it imports Pillow where it decodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
"""Pillow's modes with a channel of opacity; a palette or a colour may be transparent beside it."""
GREY = ("1", "L", "LA", "La")
"""Pillow's modes without colours."""


class Refused(ValueError):
    """A sound file that viewers show differently, or that is more than one picture."""


def decode(path: Path, mode: Literal["L", "RGB"] | None = None) -> Any:
    """Decode a file to a Pillow image of mode "L" or "RGB", upright.

    Without a `mode` the file's own colours decide. Raises ValueError, naming the file, where it is
    none, is damaged, has transparent pixels, several frames, or grey levels that are no bytes.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return _shown(picture, mode)
    except Refused as refusal:
        raise ValueError(f"{path}: {refusal}") from None
    except Exception as error:
        # Each reader has errors of its own for a damaged file: OSError, SyntaxError, struct.error.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is no picture that Pillow can read ({reason}); mend or remove it"
        ) from error


def _shown(picture: Any, mode: Literal["L", "RGB"] | None) -> Any:
    from PIL import ImageOps

    if picture.mode[0] in "IF":
        # What is above 255 would be cut off, and the picture white.
        raise Refused(
            f"its grey levels are no bytes but of mode {picture.mode}; store it with 8 bits"
        )
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # a camera's JPEG with a small copy behind it
        raise Refused(f"it holds {frames} pictures, an animation or pages; store one of them")
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        opacity = picture.convert("RGBA").getchannel("A")
        least, _ = opacity.getextrema()
        if least < 255:
            raise Refused(
                "it has transparent pixels, which each viewer shows on a background of its own; "
                "store it on the one that is meant, without transparency"
            )
    if mode is None:
        mode = "L" if picture.mode in GREY else "RGB"
    upright = ImageOps.exif_transpose(picture)
    return upright.convert(mode)
