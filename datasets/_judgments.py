"""Readers for what people judged of photographs: ratings of Flickr8k, right answers of MS-COCO, and TREC qrels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cran_bench import BadInput, Collection, Judgments, Need, Qrels, Relevance, first_wrong

from ._annotations import image_path, read_json, read_lines

EXPERT, CROWD = "ExpertAnnotations.txt", "CrowdFlowerAnnotations.txt"
FLICKR8K_PLACES = ("", "Flickr8k_text/", "judgments/")
CXC = "sits_test.csv"
COCO_JSON = {name: (f"{name}_image_to_caption.json", f"{name}_caption_to_image.json") for name in ("eccv", "cxc")}
COCO_PLACES = ("", "eccv_caption/", "eccv_caption/data/", "cxc/")
WAYS = ("i2t", "t2i")
ANSWERS: TypeAdapter[dict[int, list[int]]] = TypeAdapter(dict[int, list[int]])


class Ids(NamedTuple):
    """The images and captions of a test split.

    Attributes:
        images: row of each image in the collection, by its id in the files.
        captions: row of each caption, likewise.
        limited: whether the collection has fewer images than the files are of.
    """

    images: dict[str, int]
    captions: dict[str, int]
    limited: bool


class Judged(NamedTuple):
    """A pair of an image and a caption in a file, by their ids, with numbers."""

    where: str
    image: str
    caption: str
    numbers: Sequence[float]


class Matched(NamedTuple):
    """P pairs of the test split: rows (P,) of their images and captions, and numbers (P, R)."""

    image: NDArray[np.int64]
    caption: NDArray[np.int64]
    numbers: NDArray[np.float64]


Graded = tuple[Matched, NDArray[np.float64]]
"""Pairs and their grades (P,)."""


def tested_ids(made: Collection, limited: bool, images: Sequence[str] = (), captions: Sequence[str] = ()) -> Ids:
    """The ids of the test split: those given for its images and captions, in order, or the collection's own."""
    rows = made.splits["test"]
    owned = np.flatnonzero(np.isin(made.image_of, rows)).tolist()
    if not images:
        keys = made.caption_keys()
        images, captions = [made.images.ids[row] for row in rows.tolist()], [keys[row] for row in owned]
    return Ids(dict(zip(images, rows.tolist(), strict=True)), dict(zip(captions, owned, strict=True)), limited=limited)


def flickr8k_needs(folder: Path) -> list[Need]:
    """The files of Flickr8k's human judgments."""
    source = "human judgments, in Flickr8k_text.zip from the authors"
    return [Need(name, _place(folder, name, FLICKR8K_PLACES), source, optional=True) for name in (EXPERT, CROWD)]


def coco_needs(folder: Path) -> list[Need]:
    """The files of ECCV Caption and CxC."""
    cxc = "https://github.com/google-research-datasets/Crisscrossed-Captions"
    eccv = "https://github.com/naver-ai/eccv-caption, in eccv_caption/data"
    sources = {CXC: cxc, **{name: eccv for names in COCO_JSON.values() for name in names}}
    return [Need(name, _place(folder, name, COCO_PLACES), source, optional=True) for name, source in sources.items()]


def qrels_needs(folder: Path) -> list[Need]:
    """The files of right answers in TREC's format."""
    source = "right answers of your own, with ids as cran-bench export rankings --trec writes them"
    return [Need(name, _place(folder, name), source, optional=True) for name in (f"{way}.qrels" for way in WAYS)]


def with_flickr8k(made: Collection, folder: Path, ids: Ids) -> Collection:
    """Add the judgments of experts and of the crowd, and the right answers that they approved.

    Expert ratings are those of three people, from 1 to 4, and approve a pair by a mean of 3 or more; the crowd's is
    the share of yes, and approves by two thirds.  The queries asked are the images and captions that were judged.

    Raises:
        BadInput: a line is malformed, a pair repeated, or no pair is of the test split.
    """
    kinds: dict[str, tuple[str, Callable[[Path], Iterator[Judged]], float]] = {
        "expert": (EXPERT, _expert_rows, 3.0),
        "crowd": (CROWD, _crowd_rows, 2 / 3),
    }
    for name, (file, read, least) in kinds.items():
        if path := _place(folder, file, FLICKR8K_PLACES):
            pairs, remarks = _matched(path, read(path), ids)
            relevance = [_with_own(name, pairs, least, made.image_of)] if pairs else []
            made = _added(made, relevance, [Judgments(name, *pairs)] if pairs else [], remarks)
    return made


def with_coco(made: Collection, folder: Path, ids: Ids) -> Collection:
    """Add the right answers of ECCV Caption and of CxC, and CxC's ratings if its own file is there.

    Queries and right answers are those of the files; an own caption that CxC rates below 3 is not right there.

    Raises:
        BadInput: a file is malformed, repeats a pair, or has no pair of the test split.
    """
    if path := _place(folder, CXC, COCO_PLACES):
        pairs, remarks = _matched(path, _cxc_rows(path), ids)
        judgments = [Judgments("cxc", *pairs)] if pairs else []
        right = dict.fromkeys(WAYS, (pairs, (pairs.numbers[:, 0] >= 3).astype(float))) if pairs else {}
        made = _added(made, _relevance("cxc", right), judgments, remarks)
    for name, files in COCO_JSON.items():
        if not (name == "cxc" and path):  # the same pairs without their ratings
            paths = [_place(folder, file, COCO_PLACES) for file in files]
            made = _with_answers(made, name, paths, _json_rows, ids)
    return made


def with_qrels(made: Collection, folder: Path, limited: bool) -> Collection:
    """Add the right answers of ``i2t.qrels`` and ``t2i.qrels``, graded by their last column; 0 and below are wrong.

    Raises:
        BadInput: a line is malformed, a pair repeated, or no right answer is of the test split.
    """
    paths = [_place(folder, f"{way}.qrels") for way in WAYS]
    return _with_answers(made, "qrels", paths, _qrels_rows, tested_ids(made, limited)) if any(paths) else made


def _place(folder: Path, name: str, places: Sequence[str] = ("",)) -> Path | None:
    return next((path for place in places if (path := folder / (place + name)).is_file()), None)


def _added(
    made: Collection, relevance: Sequence[Relevance], judgments: Sequence[Judgments], remarks: Sequence[str]
) -> Collection:
    if not (relevance or judgments or remarks):
        return made
    return replace(
        made,
        relevance=[*made.relevance, *relevance],
        judgments=[*made.judgments, *judgments],
        remarks=[*made.remarks, *remarks],
    )


def _matched(path: Path, rows: Iterable[Judged], ids: Ids) -> tuple[Matched | None, list[str]]:
    """The pairs of the test split, and a remark that counts the others; None if there are none of a limited one."""
    first: dict[tuple[str, str], str] = {}
    kept: list[tuple[int, int]] = []
    numbers: list[Sequence[float]] = []
    lost, example = 0, ""
    for where, image, caption, own in rows:
        if (before := first.setdefault((image, caption), where)) != where:
            raise BadInput(f"{where}: image {image} and caption {caption} were there before, {before}; remove one")
        if image in ids.images and caption in ids.captions:
            kept.append((ids.images[image], ids.captions[caption]))
            numbers.append(own)
        else:
            example = example or (f"caption {caption}" if image in ids.images else f"image {image}")
            lost += 1
    if not first:
        raise BadInput(f"{path} has no pair of an image and a caption; download it again or remove it")
    if not kept and not ids.limited:
        known = f"{next(iter(ids.images))} and {next(iter(ids.captions))}"
        raise BadInput(
            f"none of the {lost:,} pairs of {path} is of the test split, which lacks {example}, the first: expected "
            f"ids such as {known}; use the file that belongs to this dataset, or remove it"
        )
    what = f"{lost:,} of {len(first):,} pairs in {path.name} are left out: the test split lacks {example}, for example"
    both = np.array(kept, dtype=np.int64).reshape(-1, 2).T
    pairs = Matched(both[0], both[1], np.array(numbers, dtype=np.float64)) if kept else None
    return pairs, [what] if lost else []


def _with_answers(
    made: Collection,
    name: str,
    paths: Sequence[Path | None],
    read: Callable[[Path, str], Iterator[Judged]],
    ids: Ids,
) -> Collection:
    """Add the right answers of the files of either direction that are there."""
    graded: dict[str, Graded] = {}
    remarks: list[str] = []
    for way, path in zip(WAYS, paths, strict=True):
        if path:
            pairs, left_out = _matched(path, read(path, way), ids)
            if pairs and not ids.limited and pairs.numbers.max() <= 0:
                raise BadInput(f"{path} has no grade above 0, so nothing is right: grade right answers 1 or more")
            graded |= {way: (pairs, pairs.numbers[:, 0])} if pairs else {}
            remarks += left_out
    return _added(made, _relevance(name, graded), [], remarks)


def _relevance(name: str, graded: Mapping[str, Graded]) -> list[Relevance]:
    """The pairs of each direction whose grade (P,) is above 0, or nothing."""
    found: dict[str, Qrels] = {}
    for way, (pairs, grade) in graded.items():
        if (right := grade > 0).any():
            query, answer = pairs[:2] if way == "i2t" else pairs[1::-1]
            found[way] = Qrels(query[right], answer[right], grade[right])
    return [Relevance(name, found.get("i2t"), found.get("t2i"))] if found else []


def _with_own(name: str, pairs: Matched, least: float, image_of: NDArray[np.int64]) -> Relevance:
    """The right answers of all images and captions judged: their own, and those approved; all of grade 1."""
    right = pairs.numbers.mean(axis=1) >= least
    approved = set(zip(pairs.image[right].tolist(), pairs.caption[right].tolist(), strict=True))
    reverse = {(caption, image) for image, caption in approved}
    captions = np.unique(pairs.caption)
    own = np.flatnonzero(np.isin(image_of, pairs.image))
    return Relevance(name, _union(approved, image_of[own], own), _union(reverse, captions, image_of[captions]))


def _union(approved: set[tuple[int, int]], queries: NDArray[np.int64], own: NDArray[np.int64]) -> Qrels:
    pairs = np.array(sorted(approved | set(zip(queries.tolist(), own.tolist(), strict=True))), dtype=np.int64)
    return Qrels(pairs[:, 0], pairs[:, 1], np.ones(len(pairs)))


def _cells(path: Path, separator: str | None, count: int, expected: str) -> Iterator[tuple[str, list[str]]]:
    """The columns of each line that is not empty, and where it is."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            cells = [cell.strip() for cell in line.strip().split(separator)]
            if len(cells) != count:
                columns = f"{len(cells)} column{'s' * (len(cells) > 1)}"
                raise BadInput(f"{where}: expected {expected}, got {columns}; correct the line")
            yield where, cells


def _number(where: str, text: str, what: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not least <= value <= most:
        raise BadInput(f"{where}: the {what} is '{text[:40]}', not a number from {least:g} to {most:g}; correct it")
    return value


def _expert_rows(path: Path) -> Iterator[Judged]:
    for where, cells in _cells(path, "\t", 5, "an image, name.jpg#k and three scores, separated by tabs"):
        yield Judged(where, *_flickr_ids(where, cells), [_number(where, text, "score", 1, 4) for text in cells[2:]])


def _crowd_rows(path: Path) -> Iterator[Judged]:
    expected = "an image, name.jpg#k, the share of yes, and how many said yes and no, separated by tabs"
    for where, cells in _cells(path, "\t", 5, expected):
        share = _number(where, cells[2], "share of yes", 0, 1)
        yes, no = (_number(where, text, "number of answers", 0, 1e6) for text in cells[3:])
        if not yes + no or abs(share - yes / (yes + no)) > 0.01:
            raise BadInput(f"{where}: {yes:g} yes and {no:g} no do not make a share of {cells[2]}; correct the line")
        yield Judged(where, *_flickr_ids(where, cells), [yes / (yes + no)])


def _flickr_ids(where: str, cells: Sequence[str]) -> tuple[str, str]:
    name, _, k = cells[1].rpartition("#")
    if not (name and re.fullmatch("[0-9]{1,9}", k)):
        raise BadInput(f"{where}: '{cells[1][:60]}' should be name.jpg#k, the id of a caption; correct the line")
    return image_path(cells[0]), f"{image_path(name)}#{int(k)}"


def _cxc_rows(path: Path) -> Iterator[Judged]:
    columns = ["caption", "image", "agg_score", "sampling_method"]
    for k, (where, cells) in enumerate(_cells(path, ",", 4, "the columns " + ",".join(columns))):
        caption, image = re.fullmatch(r".*:([0-9]{1,18})", cells[0]), re.fullmatch(r".*?([0-9]{1,18})\.jpg", cells[1])
        if k == 0 and cells == columns:
            continue
        if not (caption and image):
            what = f"'{cells[0][:40]}' and '{cells[1][:40]}'"
            raise BadInput(f"{where}: {what} are not COCO_val2014:sentid:1 and COCO_val2014_01.jpg; download it again")
        yield Judged(where, str(int(image[1])), str(int(caption[1])), [_number(where, cells[2], "score", 0, 5)])


def _json_rows(path: Path, way: str) -> Iterator[Judged]:
    content: Any = read_json(path)
    try:
        answers = ANSWERS.validate_python(content)
    except ValidationError as error:
        what = first_wrong(error, "the file")
        raise BadInput(f"{path}: expected lists of ids by id ({what}); take it from the eccv-caption package") from None
    for query, own in answers.items():
        for place, answer in enumerate(own):
            image, caption = (query, answer) if way == "i2t" else (answer, query)
            yield Judged(f"{path}: answer {place} of {query}", str(image), str(caption), [1.0])


def _qrels_rows(path: Path, way: str) -> Iterator[Judged]:
    for where, cells in _cells(path, None, 4, "a query, 0, an answer and a grade, separated by spaces"):
        grade = _number(where, cells[3], "grade", -1e6, 1e6)
        query, answer = unquote(cells[0]), unquote(cells[2])
        yield Judged(where, *((query, answer) if way == "i2t" else (answer, query)), [grade])
