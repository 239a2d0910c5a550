"""Decoding of photographs as they come: rotated, grey, CMYK, 16-bit, palette, damaged."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cran_bench.errors import BadInput

_USUAL = ("BMP", "GIF", "JPEG", "PPM", "PNG")


class UnreadableImage(BadInput):
    """An image file that cannot be decoded; the message names the file and the reason."""


def open_image(path: Path) -> Image.Image:
    """The image of a file as upright 8-bit RGB.

    EXIF rotation is applied, transparency is laid on white, 16-bit and floating-point greys are scaled to 8 bits.

    Raises:
        UnreadableImage: the file is missing, empty, truncated or not an image.
    """
    try:
        if path.stat().st_size == 0:
            raise UnreadableImage(f"{path} is empty (0 bytes): copy it again from its source")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UnreadableImage(f"{path} does not exist: complete the image folder") from None
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UnreadableImage(f"{path} cannot be decoded ({error}): copy it again from its source") from error


@cache
def _formats() -> list[str]:
    """All of Pillow's, the usual ones first as it does, without PostScript, which it would run in Ghostscript."""
    Image.init()
    return [*_USUAL, *(name for name in Image.OPEN if name not in (*_USUAL, "EPS", "IPTC"))]  # IPTC may wrap EPS


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as 8-bit RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit greys span 0..65535, and so do 32-bit ones above 255; a float image spans 0..1 or 0..255.
        wide = image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255)
        top = 65535.0 if wide else 255.0
        top = 1.0 if image.mode == "F" and values.max(initial=0) <= 1 else top
        grey = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
