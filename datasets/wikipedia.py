"""Wikipedia: 2,866 image-text pairs of articles in 10 categories, given as features (Rasiwasia et al., ACM MM 2010)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cran_bench import BadInput, Collection, Need, first_of, register_dataset

from ._annotations import home, read_lines, read_list
from ._arrays import check_rows, read_arrays
from ._labelled import NAMES, Categorised, LabelledPairs, one_hot

PACKED = "wikipedia_sift128_lda10"
RELEASED = "raw_features"
LISTS = ("trainset_txt_img_cat.list", "testset_txt_img_cat.list")
CATEGORIES = ["art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare"]
SOURCE = "wikipedia_dataset.zip of the authors: http://www.svcl.ucsd.edu/projects/crossmodal/"
VALIDATION = 231  # pairs of the test list that PKU's papers validate on


@register_dataset("wikipedia", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Wikipedia(Categorised):
    """The authors' features: images as histograms of 128 SIFT words, texts as proportions of 10 LDA topics.

    They are read from ``raw_features.mat`` (arrays `I_tr`, `I_te`, `T_tr`, `T_te`), ``trainset_txt_img_cat.list`` and
    ``testset_txt_img_cat.list`` (text id, image id and number of the category, separated by tabs) and, if it is there,
    ``categories.list``, in the data folder, in ``wikipedia/`` or ``wikipedia_dataset/`` below it; or all from
    ``wikipedia_sift128_lda10.npz`` (arrays `image`, `text`, `category`, `categories`, `image_id`, `text_id`, `train`,
    `test` and `pku_order`).  There are no words: methods read the topics as text features.

    Three test sets are called Wikipedia in the literature, so tables name the split where it is not the authors'.

    Attributes:
        split: `ucsd`, the authors' 2,173 training and 693 test pairs, with validation pairs drawn from training; or
            `pku`, 2,173 training, 231 validation and 462 test pairs, as in CMDN, CCL and papers that compare with them;
            it needs the .npz file, as the lists do not say which of the 693 are for validation.
    """

    split: Literal["ucsd", "pku"] = "ucsd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split == "pku" and self.val != type(self).val:
            raise ValueError(f"val={self.val} is of split=ucsd; split=pku has {VALIDATION} validation pairs")

    def needs(self, data: Path) -> list[Need]:
        folder = home(data, "wikipedia")
        packed, released = first_of(folder, f"{PACKED}.npz"), _home(folder)
        owners = [Need(name, first_of(released, name), SOURCE, bool(packed)) for name in (f"{RELEASED}.mat", *LISTS)]
        names = Need(NAMES, first_of(released, NAMES), SOURCE, optional=True)
        need = Need(f"{PACKED}.npz", packed, "all of these in one file, with the split pku", self.split == "ucsd")
        return [*owners, names, need]

    def load(self, data: Path) -> Collection:
        folder = home(data, "wikipedia")
        if (folder / f"{PACKED}.npz").is_file():
            pairs, splits = self._packed(folder)
        elif self.split == "pku":
            raise BadInput(
                f"there is no {PACKED}.npz in {folder}, which split=pku needs, as the authors' lists do not say which "
                f"{VALIDATION} pairs are for validation; add it or choose split=ucsd"
            )
        else:
            pairs, splits = self._released(_home(folder))
        return self.collect("wikipedia", pairs, splits)

    def _packed(self, folder: Path) -> tuple[LabelledPairs, dict[str, NDArray[np.int64]]]:
        """The pairs of the .npz file, and the rows of each split."""
        names = ["image", "text", "category", "categories", "image_id", "text_id", "train", "test", "pku_order"]
        tables = read_arrays(folder / PACKED, names, "wikipedia")
        image, text = tables["image"].features(), tables["text"].features()
        image_ids, text_ids = tables["image_id"].words(), tables["text_id"].words()
        category, classes = tables["category"].integers(), tables["categories"].words()
        check_rows(image, {"text": text.values, "category": category, "image_id": image_ids, "text_id": text_ids})
        train, test, order = (tables[name].integers() for name in ("train", "test", "pku_order"))
        for rows in (tables["train"], tables["test"]):
            if rows.values.max() >= len(category):
                found = f"names row {rows.values.max()}, but there are {len(category)} pairs"
                raise BadInput(f"{rows.place} {found}, rows 0 to {len(category) - 1}; copy the file again")
        if not np.array_equal(np.sort(order), np.arange(len(test))):
            raise BadInput(
                f"{tables['pku_order'].place} does not order the {len(test)} test pairs; copy the file again"
            )
        splits = {"train": train, "test": test}
        if self.split == "pku":
            splits |= {"val": test[order[:VALIDATION]], "test": test[order[VALIDATION:]]}
        labels = one_hot(category, range(len(classes)), tables["category"].place)
        return LabelledPairs(image_ids, text_ids, [image], [text], labels, classes), splits

    def _released(self, folder: Path) -> tuple[LabelledPairs, dict[str, NDArray[np.int64]]]:
        """The pairs of the authors' files, training before test, and the rows of each split."""
        tables = read_arrays(folder / RELEASED, ("I_tr", "I_te", "T_tr", "T_te"), "wikipedia")
        images, texts = ([tables[f"{kind}_{part}"].features() for part in ("tr", "te")] for kind in "IT")
        listed = [_read_list(folder / name) for name in LISTS]
        for name, image, text, lines in zip(LISTS, images, texts, listed, strict=True):
            check_rows(image, {text.name: text.values, name: lines})
        classes = read_list(folder / NAMES) if (folder / NAMES).is_file() else CATEGORIES
        text_ids, image_ids, numbers = zip(*(line for lines in listed for line in lines), strict=True)
        labels = one_hot(np.array(numbers), range(1, len(classes) + 1), " and ".join(LISTS))
        ends = np.cumsum([0, *map(len, listed)])
        splits = {"train": np.arange(ends[1]), "test": np.arange(ends[1], ends[2])}
        return LabelledPairs(image_ids, text_ids, images, texts, labels, classes), splits


def _home(folder: Path) -> Path:
    """The folder of the authors' files."""
    found = first_of(folder, f"{RELEASED}.mat", f"wikipedia_dataset/{RELEASED}.mat")
    return found.parent if found else folder


def _read_list(path: Path) -> list[tuple[str, str, int]]:
    """The text id, image id and category on each line of an authors' list."""
    if not path.is_file():
        raise BadInput(
            f"there is no {path.name} in {path.parent}, which has the ids and categories of the rows in "
            f"{RELEASED}.mat; copy it there"
        )
    lines = []
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split()
        if parts and not (len(parts) == 3 and parts[2].isascii() and parts[2].isdecimal() and len(parts[2]) < 10):
            raise BadInput(
                f"{path}, line {number}: expected text id, image id and the number of the category, separated by tabs, "
                f"got '{line.strip()[:60]}'; copy the file again"
            )
        if parts:
            lines.append((parts[0], parts[1], int(parts[2])))
    return lines
