"""Decoding of image files of any kind: rotated, greyscale, CMYK, 16-bit, palette or damaged."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cran_bench.errors import BadInput
from cran_bench.machine.storage import first_bytes, remedy

_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_USUAL = ("BMP", "GIF", "JPEG", "PPM", "PNG")


class UnreadableImage(BadInput):
    """An image file that cannot be decoded; the message names the file and the reason."""


def open_image(path: Path) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    EXIF rotation is applied, transparent images are composited onto white, and 16-bit and floating-point greyscale is
    scaled to 8 bits.

    Raises:
        UnreadableImage: the file is missing, empty, truncated or not an image.
    """
    try:
        if path.stat().st_size == 0:
            raise UnreadableImage(f"{path} is empty (0 bytes): download it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UnreadableImage(f"{path} does not exist: add it to the image folder") from None
    except IsADirectoryError:
        raise UnreadableImage(f"{path} is a folder, not an image file: put the image in its place") from None
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        if (start := first_bytes(path, 12))[4:8] == b"ftyp" and start[8:] in _HEIC:
            raise UnreadableImage(f"{path} is a HEIC photograph, which is not supported: convert it to JPEG") from error
        raise UnreadableImage(f"{path} cannot be decoded ({error}): {remedy(path, 'download it again')}") from error


@cache
def _formats() -> list[str]:
    """Pillow's formats in its own order, except PostScript, which it would execute in Ghostscript."""
    Image.init()
    return [*_USUAL, *(name for name in Image.OPEN if name not in (*_USUAL, "EPS", "IPTC"))]  # IPTC may wrap EPS


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to 8-bit RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit greyscale spans 0..65535, and so does 32-bit with values above 255; floats span 0..1 or 0..255.
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
