"""Pascal Sentence: 1,000 photographs of 20 categories with five sentences, as features (Rashtchian et al., 2010)."""

from __future__ import annotations

from dataclasses import dataclass

from cran_bench import register_dataset

from ._labelled import FeaturePairs, Layout, by_split


@register_dataset("pascal-sentence", presets={"quick": {"limit": 300}})
@dataclass(frozen=True)
class PascalSentence(FeaturePairs):
    """Feature files as in the code of DSCMR (Zhen et al., CVPR 2019), one array in each.

    ``train_img.mat`` (image features, 4,096 numbers of VGG-19 there), ``train_txt.mat`` (one text feature for the five
    sentences of an image, 300 numbers of a sentence CNN there) and ``train_img_lab.mat`` (categories as numbers or as
    rows of zeros and ones), likewise ``test_*`` and, if they are there, ``val_*``; in the data folder, in
    ``pascal-sentence/`` or ``pascal/`` below it.  Files may also be .npz or .npy.

    Results are published on 800 / 100 / 100 pairs.  The common files have no validation pairs, so 100 are drawn from
    the 800 for training.
    """

    val: float = 0.125

    layout = Layout(
        name="pascal-sentence",
        folders=("pascal-sentence", "pascal"),
        parts=by_split(),
        sizes=("800 / 100 / 100", "800 / 100"),
        categories=20,
        source="features as in https://github.com/penghu-cs/DSCMR, or your own, of "
        "https://vision.cs.uiuc.edu/pascal-sentences/",
    )
