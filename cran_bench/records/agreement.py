"""Uncertainty of the agreement with people's judgments: rank correlations on bootstrap resamples of the images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput
from cran_bench.ranking.agreement import CORRELATIONS, Agreement, weighted_correlations
from cran_bench.ranking.metrics import Ranks
from cran_bench.records.statistics import DRAWS, Sample, Task, times_drawn


def _no_queries(ranks: Ranks, figure: str) -> NDArray[np.float64]:
    raise BadInput(f"{figure} is no mean over queries: `agreement_samples` computes it from rated pairs")


_KEYS = "spearman", "tau_b", "tau_c"
JUDGMENTS = Task("judgments", CORRELATIONS, {}, _KEYS, CORRELATIONS, _no_queries, False, 100.0, 1, {})


def agreement_samples(
    rows: Sequence[Sequence[Agreement]],
    image_of: NDArray[np.int64],
    images: int,
    draws: int = DRAWS,
    task: Task = JUDGMENTS,
) -> list[Sample]:
    """The rank correlations of several methods with what people judged, as measured and on the same draws of images.

    An image is drawn with all its rated pairs; images of the split without any are drawn too.  The number of distinct
    values in tau-c is that of the resample.  The `shares` of a sample are jackknife pseudo-values.

    Args:
        rows: for each method the agreements of its seeds.
        image_of: (T,) the position of each caption's own image.
        images: N, the number of images in the test split.
        draws: number of resamples.
        task: has the three figures, under any names, in the order of `CORRELATIONS`.

    Raises:
        BadInput: the methods were not rated on the same pairs, or every caption with its own image only.
    """
    first = rows[0][0]
    for one, key in itertools.product(itertools.chain(*rows), ("image", "caption", "ratings")):
        if not np.array_equal(getattr(one, key), getattr(first, key)):
            raise BadInput("a comparison needs judgments of the same pairs: run the methods on the same data")
    rated = np.unique(first.image)
    every, without = np.ones((1, images), dtype=np.uint8), np.ones((len(rated), images), dtype=np.uint8)
    without[np.arange(len(rated)), rated] = 0
    times = np.concatenate([every, without, times_drawn(images, draws)])
    samples = []
    for seeds in rows:
        distinct = {one.rank.tobytes(): one for one in seeds}  # seeds of a closed form have the same scores
        known = {key: task.scale * weighted_correlations(one, image_of, times) for key, one in distinct.items()}
        values, left, drawn = np.split(
            np.stack([known[one.rank.tobytes()] for one in seeds]), [1, len(rated) + 1], axis=1
        )
        shares = np.repeat(values.swapaxes(0, 1), images, axis=0)
        shares[rated] += (images - 1) * (values - left).swapaxes(0, 1)
        samples.append(Sample(values[:, 0], drawn.mean(axis=0), shares, image_of, task=task))
    return samples
