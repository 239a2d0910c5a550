"""jrl at Flickr30K's number of captions: 145,000 pairs of 4096-d image and 3000-d text features, 80 categories.

CRAN_BENCH_SCALE=1 runs it, ten minutes of one thread, 5 GB of disk; 0.02 uses 2 % of the pairs.  Features are generated
and memory-mapped.
"""

from __future__ import annotations

import os
import resource
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cran_bench.frontend.feature_rows import FeatureRows
from cran_bench.machine.progress import say
from cran_bench.registry import METHODS

PAIRS, IMAGE, TEXT, CATEGORIES, SEEN = 145_000, 4096, 3000, 80, 1000
MINUTES, GIB = 15, 6
CPU = torch.device("cpu")

SCALE = float(os.environ.get("CRAN_BENCH_SCALE", "0"))


class Mapped:
    """Pairs of memory-mapped features, without words."""

    has_words, name = False, "train"

    def __init__(self, images, texts, categories, rows):
        self.image_rows, self.text_rows = (FeatureRows.of(array, rows, CPU) for array in (images, texts))
        self.image_dim, self.text_dim = images.shape[1], texts.shape[1]
        self.image_of, self.texts = torch.arange(len(rows)), [""] * len(rows)
        self.given = torch.from_numpy(categories[rows])

    def __len__(self):
        return len(self.image_of)

    def image_blocks(self, size=4096):
        for a in range(0, len(self), size):
            yield self.image_rows[a : a + size]

    def categories(self, source):
        return self.given


def generated(path, count, dim, categories, seed):
    """(count, dim) float32: noise about the sum of the centres of each row's categories."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dim))
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CATEGORIES, dim)).astype(np.float32)
    for a in range(0, count, 4096):
        of = categories[a : a + 4096].astype(np.float32)
        array[a : a + 4096] = of @ centres + 3 * random.standard_normal((len(of), dim), dtype=np.float32)
    array.flush()
    return np.load(path, mmap_mode="r")


class Notes:
    """A run that scores by the share of images whose most similar text has a category in common."""

    seed, device = 0, CPU

    def __init__(self, val):
        self.val = val

    def score(self, images, texts, similarity=None):
        best = (images @ texts.T).argmax(dim=1)
        shared = (self.val.given & self.val.given[best]).any(dim=1)
        return SimpleNamespace(criterion=100 * float(shared.float().mean()))

    def progress(self, items, label, total, done=0):
        for item in items:
            start = time.process_time()
            yield item
            say(f"{label}: {time.process_time() - start:.0f} s of CPU")

    def chose(self, **values):
        self.choices = values


@pytest.mark.skipif(not SCALE, reason="takes ten minutes and 5 GB of disk: set CRAN_BENCH_SCALE")
def test_jrl_at_full_size(tmp_path):
    pairs = max(400, round(SCALE * PAIRS))
    seen = min(SEEN, pairs // 4)
    draw = np.random.default_rng(0)
    categories = (draw.random((pairs + seen, CATEGORIES)) < 0.02).astype(np.uint8)
    categories[np.arange(pairs + seen), draw.integers(0, CATEGORIES, pairs + seen)] = 1
    features = [
        generated(tmp_path / f"{dim}.npy", pairs + seen, dim, categories, seed)
        for seed, dim in enumerate((IMAGE, TEXT))
    ]
    parts = np.split(np.arange(pairs + seen), [pairs])
    train, val = (Mapped(features[0], features[1], categories, rows) for rows in parts)
    method, run = METHODS.configure("jrl").build(), Notes(val)
    start, estimate = time.process_time(), method.memory(train) / (1 << 30)
    method.fit(train, val, run)
    minutes = (time.process_time() - start) / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    found = run.score(method.embed_images(val), method.embed_texts(val)).criterion
    say(f"jrl: {pairs} pairs, {minutes:.1f} min of CPU, {peak:.1f} GiB (estimate {estimate:.1f}), {run.choices}")
    assert found > 3 * 100 / CATEGORIES
    assert minutes < MINUTES and peak < GIB
