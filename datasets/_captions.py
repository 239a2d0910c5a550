"""Readers for captions in tables (CSV, TSV), JSON Lines and Karpathy's JSON files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cran_bench import SPLITS, BadInput, did_you_mean

from ._annotations import image_path, read_karpathy, read_lines, read_text, unique_keys

K = TypeVar("K", int, str)

DELIMITERS = ",;\t"
IMAGE = re.compile("image"), re.compile("file_name")  # the second is Hugging Face's, used if there is no first
CAPTION = re.compile("captions?(?:[ _]?(?P<number>[0-9]{1,3}))?"), re.compile("text(?P<number>)")
SPLIT = (re.compile("split"),)
ALIASES = {"dev": "val", "valid": "val", "validation": "val", "training": "train"}


class CaptionRow(NamedTuple):
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


def caption_rows(path: Path) -> Iterator[CaptionRow]:
    """Read a file of captions: JSON Lines (.jsonl), Karpathy's JSON (.json), or a table (any other name).

    Tables are UTF-8 or UTF-16, with commas, semicolons or tabs between the columns, which the first line names.

    Raises:
        BadInput: the file is of another kind, or a line is wrong; the message names the line.
    """
    if path.suffix.lower() == ".json":
        for number, image in enumerate(read_karpathy(path)):
            yield CaptionRow(f"{path}: image {number}", image.path, image.captions, image.split)
    else:
        rows = _json_rows(path) if path.suffix.lower() == ".jsonl" else _table_rows(path)
        yield from (row._replace(image=row.image and image_path(row.image)) for row in rows)


def _split_name(where: str, text: str) -> str:
    """The split that a text names, in any usual spelling; '' if it is empty."""
    split = ALIASES.get(text.strip().lower(), text.strip().lower())
    if split and split not in SPLITS:
        raise BadInput(f"{where}: the split is '{text}'{did_you_mean(split, SPLITS)}")
    return split


def _columns(where: str, names: Mapping[K, str], note: str = "") -> tuple[K, list[K], K | None]:
    """The columns of the image, of the captions in order, and of the split, among the names of all columns."""
    images, kinds, splits = (_matching(names, patterns) for patterns in (IMAGE, CAPTION, SPLIT))
    numbered = sorted((int(match["number"] or -1), k) for k, match in kinds.items())  # -1 without a number
    for what, columns in (("image", images), ("caption", kinds)):
        if not columns:
            listed = ", ".join(names.values()) or "no columns"
            raise BadInput(f"{where}: '{what}' is missing among {listed}{note}; see cran-bench info folder")
    captions, numbers = [k for _, k in numbered], [number for number, _ in numbered]
    doubled = [k for number, k in numbered if numbers.count(number) > 1] or (captions if numbers[0] < 0 else [])
    for what, keys in (("image", list(images)), ("split", list(splits)), ("caption", doubled)):
        if len(keys) > 1:
            raise BadInput(
                f"{where}: '{names[keys[0]]}' and '{names[keys[1]]}' both hold the {what}; keep one, or write "
                "caption1, caption2 for several captions"
            )
    return next(iter(images)), captions, next(iter(splits), None)


def _matching(names: Mapping[K, str], patterns: Sequence[re.Pattern[str]]) -> dict[K, re.Match[str]]:
    """The columns whose names match the first pattern that any name matches."""
    found = [{k: match for k, name in names.items() if (match := pattern.fullmatch(name))} for pattern in patterns]
    return next((columns for columns in found if columns), {})


def _table_rows(path: Path) -> Iterator[CaptionRow]:
    text, encoding = read_text(path)
    first = re.match(r'"?sep=([,;\t])"?\r?\n', text)  # written by Excel and for it
    text, delimiters = (text[first.end() :], first[1]) if first else (text, DELIMITERS)
    before, usual_limit = int(first is not None), csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(())
    try:
        head = [re.split(r"[\r\n]", text, maxsplit=1)[0]]
        headers = {d: [name.strip().lower() for name in next(csv.reader(head, delimiter=d))] for d in delimiters}
        delimiter = max(headers, key=lambda d: (_known(headers[d]), len(headers[d])))
        named = {",": "commas", "\t": "tabs"}.get(delimiter, f"'{delimiter}'")
        header, note = headers[delimiter], f" (read as {encoding} with {named})"
        image, captions, column = _columns(f"{path}, line {before + 1}", dict(enumerate(header)), note)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(reader)
        for cells in reader:
            where = f"{path}, line {before + reader.line_num}"
            if len(cells) not in (0, len(header)):
                raise BadInput(f"{where}: expected {len(header)} columns; put captions with {named} in double quotes")
            if any(map(str.strip, cells)):  # not so in the empty lines that Excel leaves at the end
                split = "" if column is None else _split_name(where, cells[column])
                yield CaptionRow(where, cells[image].strip(), [cells[k] for k in captions], split)
    except csv.Error as error:
        where = f"{path}, line {before + reader.line_num}"
        raise BadInput(f"{where}: not valid CSV ({error}); double the quotes inside quoted captions") from None
    finally:
        csv.field_size_limit(usual_limit)


def _known(header: list[str]) -> int:
    """How many kinds of the columns that are used a header has."""
    return sum(bool(_matching(dict(enumerate(header)), patterns)) for patterns in (IMAGE, CAPTION, SPLIT))


def json_lines(path: Path, wanted: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the objects of a file of JSON Lines, each with its file and line; `wanted` says what they should have.

    Raises:
        BadInput: a line is no object, or has a key twice.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise BadInput(f"{where}: not valid JSON ({reason}); write one object per line") from None
        if not isinstance(row, dict):
            raise BadInput(f"{where}: expected an object with {wanted}, got {line.strip()[:40]}")
        yield where, row


def _json_rows(path: Path) -> Iterator[CaptionRow]:
    known: dict[tuple[str, ...], tuple[str, list[str], str | None]] = {}
    for where, row in json_lines(path, "image and caption"):
        keys = tuple(row)
        if keys not in known:
            known[keys] = _columns(where, {key: key for key in keys})
        image, captions, _ = known[keys]
        values = [row[key] for key in captions]
        texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
        split = row.get("split") or ""
        if not all(isinstance(text, str) for text in (row[image], split, *texts)):
            raise BadInput(f"{where}: image, captions and split must be strings; put them in double quotes")
        yield CaptionRow(where, row[image].strip(), texts, _split_name(where, split))
