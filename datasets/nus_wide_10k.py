"""NUS-WIDE-10k: 10,000 photographs of 10 categories with their users' tags, as features (Chua et al., 2009)."""

from __future__ import annotations

from dataclasses import dataclass

from cran_bench import register_dataset

from ._labelled import FeaturePairs, Layout, by_split


@register_dataset("nus-wide-10k", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class NUSWide10k(FeaturePairs):
    """Feature files with one array in each, named as those of `pascal-sentence`.

    ``train_img.mat`` (image features: 500 visual words, or 4,096 numbers of VGG-19), ``train_txt.mat`` (1,000 tags, or
    features of a text encoder) and ``train_img_lab.mat`` (categories as numbers or as rows of zeros and ones), likewise
    ``test_*`` and, if they are there, ``val_*``; in the data folder or in ``nus-wide-10k/`` below it.  Files may also
    be .npz or .npy.  Pickles, in which some code has this data, are not read: write their arrays with numpy.save.

    Results are published on 8,000 / 1,000 / 1,000 pairs, 1,000 of each category.  Without validation files, 1,000 pairs
    are drawn from the 8,000 for training.
    """

    val: float = 0.125

    layout = Layout(
        name="nus-wide-10k",
        folders=("nus-wide-10k",),
        parts=by_split(),
        sizes=("8,000 / 1,000 / 1,000", "8,000 / 1,000"),
        categories=10,
        source="features of 10,000 photographs and their tags selected from "
        "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
    )
