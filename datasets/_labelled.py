"""Pairs of an image and a text in one of a few categories, of which the data has features only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cran_bench import SPLITS, BadInput, Collection, FeatureFile, FeatureFiles, Need, first_of

from ._annotations import Limited, read_list
from ._arrays import FileArray, check_rows, endings, read_arrays, stacked

NAMES = "categories.list"


class LabelledPairs(NamedTuple):
    """N pairs in the order of their files.

    Attributes:
        image_ids: ids of the N images.
        text_ids: ids of the N texts, in place of captions.
        images: features of the images, in tables of which each continues the one before.
        texts: features of the texts, likewise.
        labels: (N, C) uint8, multi-hot.
        label_names: names of the C categories.
    """

    image_ids: Sequence[str]
    text_ids: Sequence[str]
    images: Sequence[FileArray]
    texts: Sequence[FileArray]
    labels: NDArray[np.uint8]
    label_names: Sequence[str]

    def feature_files(self) -> FeatureFiles:
        """Return the images; the tables of one file count as one, so that each row has one place in it."""
        tables: dict[Path, list[FileArray]] = {}
        places = []
        for table in self.images:
            own = tables.setdefault(table.path, [])
            first, file = sum(len(other.values) for other in own), list(tables).index(table.path)
            places += [(file, first + k) for k in range(len(table.values))]
            own.append(table)
        files = [FeatureFile(path, stacked(own), inode=own[0].inode) for path, own in tables.items()]
        return FeatureFiles(self.image_ids, files, places)


@dataclass(frozen=True)
class Categorised(Limited):
    """A dataset of labelled pairs.

    Attributes:
        limit: approximate total number of pairs, drawn at random from each split and category in proportion; None for
            all.
        val: share of the training pairs that become validation pairs, drawn at random from each category in proportion;
            validation pairs in the files are taken as they are.
        refit: fit methods again on training and validation pairs together, with what validation chose; by default where
            validation pairs are drawn from those for training, as published results are of all of these.  A label with
            ``[refit=false]`` or ``[refit=true]`` says otherwise.
        seed: seed of these draws.
    """

    val: float = 0.15
    refit: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.val < 1:
            raise ValueError(f"val is a share of the training pairs between 0 and 1, not {self.val}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")

    def defaults(self) -> Mapping[str, Any]:
        return {"backbone": "data", "regions": "data"}

    def collect(
        self, name: str, pairs: LabelledPairs, splits: Mapping[str, NDArray[np.int64]], remark: str = ""
    ) -> Collection:
        """Make the collection: draw validation pairs if there are none, then apply the limit.

        Args:
            name: name of the collection.
            pairs: all N pairs.
            splits: rows of train and test, and of val if the data has such pairs.
            remark: note to print once; '' for none.

        Raises:
            BadInput: an image id might be a path, or the collection is inconsistent.
        """
        if wrong := [image for image in pairs.image_ids if not re.fullmatch(r"\w[\w.-]*", image)]:
            what = f"the image id {wrong[0][:60]!r} has other characters than letters, digits, _, - and ."
            raise BadInput(f"{name}: {what}; correct it")
        labels, split = pairs.labels, dict(splits)
        if is_drawn := "val" not in split:
            count = round(self.val * len(split["train"]))
            split["train"], split["val"] = draw(labels, split["train"], count, self.seed)
        total = sum(map(len, split.values()))
        if self.limit is not None and self.limit < total:
            for key, rows in split.items():
                split[key] = draw(labels, rows, max(2, round(self.limit * len(rows) / total)), self.seed, leave=0)[1]
        remarks = [remark] if remark else []
        for key in SPLITS:
            missing = np.flatnonzero(~labels[split[key]].any(axis=0))
            if len(missing):
                some = f"{len(missing)} of {labels.shape[1]} categories, such as {pairs.label_names[missing[0]]}"
                remarks.append(f"{key} has no pair of {some}")
        return Collection(
            name=name,
            images=pairs.feature_files(),
            captions=pairs.text_ids,
            image_of=np.arange(len(labels)),
            splits={key: split[key] for key in SPLITS},
            labels=labels,
            label_names=pairs.label_names,
            text_features=stacked(pairs.texts),
            metric="map",
            refit=is_drawn if self.refit is None else self.refit,
            remarks=remarks,
        )


def one_hot(values: NDArray[np.int64], classes: Sequence[int], place: str) -> NDArray[np.uint8]:
    """Return categories (N,) as (N, C) uint8, one-hot, with a column for each of `classes`.

    Raises:
        BadInput: a value is not among `classes`; the message starts with `place`.
    """
    hot: NDArray[np.bool_] = values[:, None] == np.array(classes)
    wrong = np.flatnonzero(~hot.any(axis=1))
    if len(wrong):
        raise BadInput(
            f"{place}: pair {wrong[0]} (from 0) is of category {values[wrong[0]]}, but the categories are {classes[0]} "
            f"to {classes[-1]}; correct it"
        )
    return hot.astype(np.uint8)


def draw(
    labels: NDArray[np.uint8], rows: NDArray[np.int64], count: int, seed: int, leave: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw rows at random, from the pairs of equal labels in proportion.

    Shares are rounded down; what is missing then comes from where most was lost.

    Args:
        labels: (N, C), the labels of all pairs.
        rows: (n,) the rows to draw from.
        count: how many to draw, or fewer if not enough can be left.
        seed: seed of the draw.
        leave: least number of pairs of equal labels that are left.

    Returns:
        The rows that are left and those that are drawn, both in order.
    """
    random = np.random.default_rng(seed)
    _, kind, sizes = np.unique(labels[rows], axis=0, return_inverse=True, return_counts=True)
    exact, most = count * sizes / len(rows), np.maximum(sizes - leave, 0)
    share = np.minimum(np.floor(exact).astype(np.int64), most)
    while share.sum() < min(count, most.sum()):
        share[np.argmax(np.where(share < most, exact - share, -np.inf))] += 1
    groups = (rows[kind.reshape(-1) == k] for k in range(len(sizes)))
    drawn = np.concatenate([random.permutation(own)[:n] for own, n in zip(groups, share.tolist(), strict=True)])
    return rows[~np.isin(rows, drawn)], rows[np.isin(rows, drawn)]


class SplitArrays(NamedTuple):
    """The arrays of a split, each by its file, without the ending, and its name there.

    Attributes:
        images: features of the images.
        texts: features of the texts.
        labels: categories of the images or, if the texts have their own, of both.
    """

    images: tuple[str, str]
    texts: tuple[str, str]
    labels: tuple[tuple[str, str], ...]


class Layout(NamedTuple):
    """The files of a dataset.

    Attributes:
        name: name of the dataset.
        folders: names that its folder may have below the data folder.
        parts: the arrays of train, val and test; those of val are optional.
        sizes: numbers of pairs in the splits of the files on which results are published.
        categories: the number of categories there.
        source: where its owners offer it.
    """

    name: str
    folders: tuple[str, ...]
    parts: Mapping[str, SplitArrays]
    sizes: tuple[str, ...]
    categories: int
    source: str


def by_split() -> dict[str, SplitArrays]:
    """Return the parts of data in files named as ``train_img``, ``train_txt`` and ``train_img_lab``, of one array."""
    names = {split: [f"{split}_{kind}" for kind in ("img", "txt", "img_lab")] for split in SPLITS}
    return {split: SplitArrays((a, a), (b, b), ((c, c),)) for split, (a, b, c) in names.items()}


class FeaturePairs(Categorised):
    """A dataset in a `Layout`; a file ``categories.list`` may give the names of the categories, one per line."""

    layout: ClassVar[Layout]

    def needs(self, data: Path) -> list[Need]:
        folder, needed, needs = self._home(data), self._files("train", "test"), []
        for file, names in self._files(*self.layout.parts).items():
            some = [file + ending for ending in endings(names)]
            what = f"{', '.join(some[:-1])} or {some[-1]}"
            needs.append(Need(what, first_of(folder, *some), self.layout.source, file not in needed))
        return [*needs, Need(NAMES, first_of(folder, NAMES), "names of the categories, one per line", optional=True)]

    def load(self, data: Path) -> Collection:
        folder, layout = self._home(data), self.layout
        used = [s for s, part in layout.parts.items() if s != "val" or list(folder.glob(f"{part.images[0]}.*"))]
        tables = {
            (file, name): table
            for file, names in self._files(*used).items()
            for name, table in read_arrays(folder / file, names, layout.name).items()
        }
        images, texts, categories = [], [], []
        for part in (layout.parts[split] for split in used):
            image, text = (tables[array].features() for array in (part.images, part.texts))
            labels = [tables[array] for array in part.labels]
            kinds = [table.integers() for table in labels]
            check_rows(image, {text.place: text.values, **dict(zip((t.place for t in labels), kinds, strict=True))})
            if len(differ := _rows_that_differ(kinds[0], kinds[-1])):
                raise BadInput(
                    f"{labels[-1].place}: {len(differ)} of {len(text.values)} texts are of another category than their "
                    f"images, the first is {differ[0]} (from 0); row k of each array must be of pair k"
                )
            images.append(image)
            texts.append(text)
            categories.append(labels[0]._replace(values=kinds[0]))
        labels_of_all, names = _labels(categories, folder / NAMES)
        ids = [f"{split}-{k}" for split, table in zip(used, images, strict=True) for k in range(len(table.values))]
        ends = np.cumsum([0, *(len(table.values) for table in images)])
        splits = {split: np.arange(a, b) for split, a, b in zip(used, ends[:-1], ends[1:], strict=True)}
        sizes = " / ".join(f"{len(rows):,}" for rows in splits.values())
        remark = (
            f"the files have {sizes} pairs of {len(names)} categories, but published results are on "
            f"{' or '.join(layout.sizes)} of {layout.categories}"
        )
        is_usual = sizes in layout.sizes and len(names) == layout.categories
        pairs = LabelledPairs(ids, ids, images, texts, labels_of_all, names)
        return self.collect(layout.name, pairs, self.divide(splits), "" if is_usual else remark)

    def divide(self, splits: Mapping[str, NDArray[np.int64]]) -> Mapping[str, NDArray[np.int64]]:
        """Return the rows of each split, given those of the files."""
        return splits

    def _home(self, data: Path) -> Path:
        return next((data / name for name in self.layout.folders if (data / name).is_dir()), data)

    def _files(self, *splits: str) -> dict[str, list[str]]:
        """The names of the arrays in each file of the given splits."""
        files: dict[str, list[str]] = {}
        for part in (self.layout.parts[split] for split in splits):
            for file, name in (part.images, part.texts, *part.labels):
                files.setdefault(file, []).append(name)
        return files


def _rows_that_differ(some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows in which two arrays of as many rows differ: all of them if they have other columns."""
    rows = np.arange(len(some))
    return rows if some.shape != others.shape else rows[(some != others).reshape(len(rows), -1).any(axis=1)]


def _labels(tables: Sequence[FileArray], path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """The categories of all splits as (N, C) uint8, and their names: numbers, without the list `path`."""
    first = tables[0]
    for table in tables:
        if table.values.shape[1:] != first.values.shape[1:]:
            raise BadInput(
                f"{table.place} has categories of shape {table.values.shape}, but {first.place} of "
                f"{first.values.shape}; give all as numbers, or all as rows of zeros and ones of one width"
            )
    together = np.concatenate([table.values for table in tables])
    classes = np.unique(together) if together.ndim == 1 else np.arange(together.shape[1])
    hot = one_hot(together, classes.tolist(), first.place) if together.ndim == 1 else together.astype(np.uint8)
    names = read_list(path) if path.is_file() else [str(number) for number in classes.tolist()]
    if len(names) != hot.shape[1]:
        raise BadInput(f"{path} names {len(names)} categories, but the files have {hot.shape[1]}; write one per line")
    return hot, names
