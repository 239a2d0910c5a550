"""XMedia: 5,000 images and 5,000 texts of 20 categories, as features (Zhai, Peng, Xiao, 2014)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cran_bench import register_dataset

from ._labelled import FeaturePairs, Layout, SplitArrays

FILE = "XMediaFeatures"


@register_dataset("xmedia", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class XMedia(FeaturePairs):
    """The owners' ``XMediaFeatures.mat``, in the data folder or in ``xmedia/`` or ``XMedia/`` below it.

    Of its arrays these are read: `I_tr_CNN` and `I_te_CNN` (image features, 4,096 numbers), `T_tr_BOW` and `T_te_BOW`
    (texts as 3,000 word counts) and the categories of both, `trImgCat`, `teImgCat`, `trTxtCat` and `teTxtCat`.  It may
    also be an .npz file.

    Images and texts were collected by category, not as pairs.  There are as many of both, in the same order of
    categories, so that row k of one is taken as the pair of row k of the other, as most code does.  Retrieval of a
    category means what it says; recall of the own text means little here.

    Attributes:
        split: `owners`, 4,000 training and 1,000 test pairs, with validation pairs drawn from training; or `half`,
            where the first half of the test pairs, 500, is for validation, as in much code.
    """

    split: Literal["owners", "half"] = "owners"

    layout = Layout(
        name="xmedia",
        folders=("xmedia", "XMedia"),
        parts={
            split: SplitArrays((FILE, f"I_{s}_CNN"), (FILE, f"T_{s}_BOW"), ((FILE, f"{s}ImgCat"), (FILE, f"{s}TxtCat")))
            for split, s in (("train", "tr"), ("test", "te"))
        },
        sizes=("4,000 / 1,000",),
        categories=20,
        source="the owners, on request: http://www.icst.pku.edu.cn/mipl/xmedia",
    )

    def divide(self, splits: Mapping[str, NDArray[np.int64]]) -> Mapping[str, NDArray[np.int64]]:
        val, test = np.split(splits["test"], [len(splits["test"]) // 2])
        return {"train": splits["train"], "val": val, "test": test} if self.split == "half" else splits
