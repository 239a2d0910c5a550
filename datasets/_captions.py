"""Readers for captions in tables (CSV, TSV), JSON Lines and Karpathy's JSON files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cran_bench import SPLITS, BadInput, did_you_mean

from ._annotations import read_karpathy, read_lines, read_text

DELIMITERS = ",;\t|"
IMAGE = ("image", "file_name", "filename", "image_name")
CAPTION = re.compile(r"(captions?|text|comment)(?:[ _]?([0-9]{1,3}))?")
ALIASES = {"dev": "val", "valid": "val", "validation": "val", "training": "train"}
HELP = "see cran-bench info folder"


class Row(NamedTuple):
    """The captions of an image.

    Attributes:
        where: the file and the line.
        image: path of the image.
        captions: its captions, some of which may be empty.
        split: 'train', 'val' or 'test'; '' if none is given.
    """

    where: str
    image: str
    captions: list[str]
    split: str


def caption_rows(path: Path) -> Iterator[Row]:
    """Read a file of captions: JSON Lines (.jsonl), Karpathy's JSON (.json), or a table (any other name).

    Tables are UTF-8 or UTF-16, with commas, semicolons, tabs or bars between the columns, which the first line names.

    Raises:
        BadInput: the file is of another kind, or a line is wrong; the message names the line.
    """
    if path.suffix.lower() == ".json":
        for number, image in enumerate(read_karpathy(path)):
            yield Row(f"{path}: image {number}", image.path, image.captions, image.split)
    else:
        yield from _json_rows(path) if path.suffix.lower() == ".jsonl" else _table_rows(path)


def split_name(where: str, text: str) -> str:
    """Return the split that `text` names, in any usual spelling; '' for an empty text.

    Raises:
        BadInput: it names none.
    """
    split = ALIASES.get(text.strip().lower(), text.strip().lower())
    if split and split not in SPLITS:
        raise BadInput(f"{where}: the split is '{text}'{did_you_mean(split, SPLITS)}")
    return split


class _Columns(NamedTuple):
    """Positions of the columns, or names of the keys, that hold the image, the captions in order, and the split."""

    image: Any
    captions: Sequence[Any]
    split: Any


def _columns(where: str, names: Mapping[Any, str], note: str = "") -> _Columns:
    """Find the columns that are used among `names`, the names of all columns by position or key."""
    images = [k for k, name in names.items() if name in IMAGE]
    splits = [k for k, name in names.items() if name == "split"]
    kinds = {k: match for k, name in names.items() if (match := CAPTION.fullmatch(name))}
    numbered = sorted((int(match[2] or -1), k) for k, match in kinds.items())  # -1 for a caption without a number
    for what, keys in (("image", images), ("caption", numbered)):
        if not keys:
            listed = ", ".join(names.values()) or "no columns"
            raise BadInput(f"{where}: '{what}' is missing among {listed}{note}; {HELP}")
    captions, numbers = [k for _, k in numbered], [number for number, _ in numbered]
    doubled = [k for number, k in numbered if numbers.count(number) > 1] or captions * (numbers[0] < 0)
    for what, keys in (("image", images), ("split", splits), ("caption", doubled)):
        if len(keys) > 1:
            raise BadInput(
                f"{where}: '{names[keys[0]]}' and '{names[keys[1]]}' both hold the {what}; keep one, or write "
                "caption1, caption2 for several captions"
            )
    return _Columns(images[0], captions, splits[0] if splits else None)


def _table_rows(path: Path) -> Iterator[Row]:
    text, encoding = read_text(path)
    first = re.match(r'"?sep=(.)"?\r?\n', text)  # written by Excel and for it
    text, delimiters = (text[first.end() :], first[1]) if first else (text, DELIMITERS)
    before, usual_limit = int(first is not None), csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(())
    try:
        head = [re.split(r"[\r\n]", text, maxsplit=1)[0]]
        headers = {d: [name.strip().lower() for name in next(csv.reader(head, delimiter=d))] for d in delimiters}
        delimiter = max(headers, key=lambda d: (sum(map(_is_known, headers[d])), len(headers[d])))
        named = {",": "commas", "\t": "tabs"}.get(delimiter, f"'{delimiter}'")
        header, note = headers[delimiter], f" (read as {encoding} with {named})"
        columns = _columns(f"{path}, line {before + 1}", dict(enumerate(header)), note)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(reader)
        for cells in reader:
            where = f"{path}, line {before + reader.line_num}"
            if len(cells) not in (0, len(header)):
                raise BadInput(f"{where}: expected {len(header)} columns; put captions with {named} in double quotes")
            if cells:
                split = "" if columns.split is None else split_name(where, cells[columns.split])
                yield Row(where, cells[columns.image].strip(), [cells[k] for k in columns.captions], split)
    except csv.Error as error:
        where = f"{path}, line {before + reader.line_num}"
        raise BadInput(f"{where}: not valid CSV ({error}); double the quotes inside quoted captions") from None
    finally:
        csv.field_size_limit(usual_limit)


def _is_known(name: str) -> bool:
    return name in (*IMAGE, "split") or CAPTION.fullmatch(name) is not None


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise BadInput(f"{where}: not valid JSON ({reason}); write one object per line") from None
        if not isinstance(row, dict):
            raise BadInput(f"{where}: expected an object with image and caption, got {line.strip()[:40]}")
        columns = _columns(where, {key: key for key in row})
        values = [row[key] for key in columns.captions]
        texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
        split = row.get("split") or ""
        if not all(isinstance(text, str) for text in (row[columns.image], split, *texts)):
            raise BadInput(f"{where}: image, captions and split must be strings; put them in double quotes")
        yield Row(where, row[columns.image].strip(), texts, split_name(where, split))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if again := [name for name in set(names) if names.count(name) > 1]:
        raise ValueError(f"the key '{min(again)}' is there twice")
    return dict(pairs)
