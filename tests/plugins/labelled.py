"""For tests of methods that learn from categories: splits of given matrices, and a run that scores by category."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cran_bench.frontend.feature_rows import FeatureRows
from cran_bench.ranking.rank import rank

WIKIPEDIA = Path("wikipedia", "wikipedia_sift128_lda10.npz")


class Given:
    """What the linear methods ask of a split: N images (N, p), T texts (T, q) without words, categories (N, C)."""

    has_words = False
    name = "train"

    def __init__(self, images, texts, categories, image_of=None):
        self.images = torch.as_tensor(np.asarray(images, np.float32))
        self.text_features = torch.as_tensor(np.asarray(texts, np.float32))
        self.image_rows, self.text_rows = (
            FeatureRows(tuple(x.shape), 0, x.__getitem__) for x in (self.images, self.text_features)
        )
        self.image_dim, self.text_dim = self.images.shape[1], self.text_features.shape[1]
        self.texts = [""] * len(self.text_features)
        self.image_of = torch.arange(len(self.images)) if image_of is None else torch.as_tensor(image_of)
        self.given = torch.as_tensor(np.asarray(categories, np.uint8))

    def __len__(self):
        return len(self.images)

    def image_blocks(self, size=7):
        yield from self.images.split(size)

    def categories(self, source="given"):
        assert source == "given"
        return self.given

    def take(self, positions):
        texts = np.concatenate([np.flatnonzero(self.image_of.numpy() == p) for p in positions])
        owners = np.concatenate([np.full(int((self.image_of == p).sum()), k) for k, p in enumerate(positions)])
        return Given(self.images[positions], self.text_features[texts], self.given[positions], owners)


def one_hot(classes, count=None):
    return np.eye(int(np.max(classes)) + 1 if count is None else count, dtype=np.uint8)[np.asarray(classes)]


def average_precisions(scores, relevant):
    """The average precision of every row with something relevant, as its expectation over random orders of ties.

    Of m ties on ranks a + 1 to a + m, k are relevant, b items before them: rank a + j is relevant with probability
    k / m and then has b + 1 + (j - 1)(k - 1) / (m - 1) relevant items up to itself.
    """
    found = []
    for row, right in zip(np.asarray(scores), np.asarray(relevant, bool), strict=True):
        if not right.any():
            continue
        _, group, m = np.unique(-row, return_inverse=True, return_counts=True)
        k = np.bincount(group, right)
        a, b = np.cumsum(m) - m, np.cumsum(k) - k
        harmonic = np.append(0, np.cumsum(1 / np.arange(1, len(row) + 1)))
        inverse = harmonic[a + m] - harmonic[a]
        others = (m - (a + 1) * inverse) * (k - 1) / np.maximum(m - 1, 1)
        found.append((k / m * ((b + 1) * inverse + others)).sum() / right.sum())
    return np.array(found)


def maps(images, texts, split, similarity):
    """Mean average precision of image queries and of text queries, as fractions."""
    scores = similarity.scores(images, texts).numpy()
    of_images, of_texts = split.given.long(), split.given[split.image_of].long()
    relevant = (of_images @ of_texts.T > 0).numpy()
    return average_precisions(scores, relevant).mean(), average_precisions(scores.T, relevant.T).mean()


class Notes:
    """A run that keeps what a fit scored and chose; the criterion is the mean average precision in percent."""

    seed, device = 0, torch.device("cpu")

    def __init__(self, val, method):
        self.val, self.method, self.scored, self.choices = val, method, [], {}

    def score(self, images, texts, similarity=None):
        similarity = similarity or self.method.similarity
        rsum = rank(images, texts, self.val.image_of, similarity).metrics().rsum
        self.scored.append(50 * sum(maps(images, texts, self.val, similarity)))
        return SimpleNamespace(rsum=rsum, criterion=self.scored[-1])

    def progress(self, items, label, total, done=0):
        count = done
        for count, item in enumerate(items, done + 1):  # noqa: B007
            yield item
        assert count == total

    def chose(self, **values):
        self.choices.update(values)

    def log(self, **values):
        pass


def fit(method, train, val=None):
    """Fit a method; returns the run, with its choices and scores."""
    run = Notes(val or train, method)
    method.fit(train, val or train, run)
    return run


def evaluate(method, split):
    """Mean average precision of image and text queries of a fitted method, as fractions."""
    return maps(method.embed_images(split), method.embed_texts(split), split, method.similarity)


def invented(n=90, p=7, q=5, classes=3, seed=0, spread=1.0, captions=1):
    """Images and texts around a centre for each class, whose deviations they share in part."""
    random = np.random.default_rng(seed)
    of = random.permutation(np.arange(n) % classes)
    owner = np.repeat(np.arange(n), captions)
    own = random.normal(size=(n, 3))
    X = 3 * np.random.default_rng(1).normal(size=(classes, p))[of] + own @ np.random.default_rng(2).normal(size=(3, p))
    Y = 3 * np.random.default_rng(3).normal(size=(classes, q))[of] + own @ np.random.default_rng(4).normal(size=(3, q))
    X = X + spread * random.normal(size=X.shape)
    Y = Y[owner] + spread * random.normal(size=(len(owner), q))
    return Given(X, Y, one_hot(of, classes), owner)


def wikipedia():
    """The training and the test pairs of Rasiwasia et al., 2173 and 693."""
    if not (root := os.environ.get("CRAN_BENCH_DATA")) or not (Path(root) / WIKIPEDIA).is_file():
        pytest.skip(f"needs {WIKIPEDIA} below CRAN_BENCH_DATA")
    data = np.load(Path(root) / WIKIPEDIA, allow_pickle=False)
    Z = one_hot(data["category"] - data["category"].min())
    parts = (data["image"], data["text"], Z)
    return SimpleNamespace(**{name: Given(*(x[data[name]] for x in parts)) for name in ("train", "test")})
