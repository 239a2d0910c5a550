"""What a page loads only when a reader asks for it: values by name, and pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from cran_bench.errors import BadInput, escaped
from cran_bench.machine.progress import say
from cran_bench.machine.storage import write_atomically, write_text

T = TypeVar("T")
SIDE = 144  # pixels, longer side of a thumbnail
ROOM = 3_600_000  # bytes of details in a page of one file
SHARE = 0.6  # of them for pictures


class Details:
    """Values and pictures, kept in the page itself, as far as there is room, or in files beside it.

    Attributes:
        folder: where the files go; None for a page of one file.
        values: JSON by name, of a page of one file.
        pictures: data URIs by key, of a page of one file.
        left_out: names of values for which there was no room.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.values: dict[str, str] = {}
        self.pictures: dict[str, str] = {}
        self.left_out: list[str] = []
        self._room, self._shown, self._said = float(ROOM), dict[str, bool](), set[str]()

    def intact(self, read: Callable[[], T]) -> T | None:
        """What is read from a file beside a record; None after a message if it is damaged, as all else can be shown."""
        try:
            return read()
        except BadInput as error:
            if str(error) not in self._said:
                say(f"left out: {error}")
            self._said.add(str(error))
            return None

    def put(self, name: str, value: Mapping[str, Any]) -> str:
        """Keep a value, which scripts get by ``details(name)``, and return the name; '' if there is no room.

        Args:
            name: of letters, digits, ``-`` and ``_``, as it becomes a file's name.
            value: JSON values.
        """
        text = as_json(value)
        if self.folder is not None:
            write_text(self.folder / "details" / f"{name}.js", f"keep({as_json(name)}, {text});\n")
            return name
        if (size := len(text.encode())) > self._room:
            self.left_out.append(name)
            return ""
        self._room -= size
        self.values[name] = text
        return name

    def picture(self, key: str, make: Callable[[], Image.Image]) -> str:
        """Keep the thumbnail of an image, and return its key; '' if it cannot be read, or if there is no room.

        Args:
            key: of letters, digits, ``-``, ``_`` and ``/``, as it becomes a file's name.
            make: returns the image; called once.
        """
        if key not in self._shown:
            self._shown[key] = self._keep(key, make)
        return key if self._shown[key] else ""

    def _keep(self, key: str, make: Callable[[], Image.Image]) -> bool:
        if self.folder is None and self._room < (1 - SHARE) * ROOM:
            return False
        try:
            image = make()
        except BadInput:
            return False
        image.thumbnail((SIDE, SIDE))
        if self.folder is not None:
            path = self.folder / "pictures" / f"{key}.webp"
            write_atomically(path, partial(image.save, format="WEBP", quality=70))
            return True
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=70)
        self.pictures[key] = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
        self._room -= len(self.pictures[key])
        return True


def as_json(value: Any) -> str:
    """JSON that is safe inside a script element: nothing in it closes the element."""
    text = json.dumps(_visible(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible(value: Any) -> Any:
    """A JSON value with control characters escaped in all its strings."""
    if isinstance(value, Mapping):
        return {_visible(key): _visible(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(inner) for inner in value]
    return escaped(value) if isinstance(value, str) else value
