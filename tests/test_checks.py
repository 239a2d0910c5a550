"""``cran-bench check``: a good method passes, and each promise that a bad one breaks is told by name."""

import pytest
import torch

from cran_bench.registry import METHODS
from cran_bench.running import checks
from cran_bench.running.checks import check_method

GOOD = '''
import itertools
from dataclasses import dataclass
import torch
from cran_bench import COSINE, Levels

COUNT = itertools.count()

@dataclass
class Good:
    """Ridge regression from words to image features."""

    ridge: float = 1.0
    similarity = COSINE

    def fit(self, train, val, run):
        self.mean = train.images.mean(dim=0)
        x, y = words(train), (train.images - self.mean)[train.image_of].double()
        self.W = torch.linalg.solve(x.T @ x + self.ridge * torch.eye(x.shape[1]), x.T @ y).float()

    def embed_images(self, split):
        return split.images - self.mean

    def embed_texts(self, split):
        return words(split).float() @ self.W

    def state(self):
        return {"mean": self.mean, "W": self.W}

    def load(self, state):
        self.mean, self.W = state["mean"], state["W"]


def words(split):
    return torch.from_numpy(split.tfidf(300).toarray()).double()
'''

DECLARES = "declares a similarity and is a dataclass of hyper-parameters"
SHAPES = "fits, and embeds every image and text to one finite float32 row"
SAME = "gives the same embeddings for the same seed"
ALONE = "embeds each item by itself, whatever else is in the split"
BLIND = "learns nothing from the test split"
STORED = "gives the same embeddings after saving and loading"
DOCUMENTS = "takes documents as well as captions"
LEARNS = "learns more than chance on scenes"

# What a bad method does in place of the good one, the promise it breaks, and what is said of it.
BAD = {
    "no similarity": ("    similarity = 3\n", DECLARES, "similarity must be COSINE, DOT or MultiLevel"),
    "float64": (
        "    def embed_images(self, split):\n        return (split.images - self.mean).double()\n",
        SHAPES,
        "embed_images gives torch.float64; give float32",
    ),
    "not a number": (
        "    def embed_texts(self, split):\n        return words(split).float() @ self.W * float('nan')\n",
        SHAPES,
        "embed_texts gives NaN or infinity",
    ),
    "wrong rows": (
        "    def embed_images(self, split):\n        return (split.images - self.mean)[1:]\n",
        SHAPES,
        "embed_images returned 19 rows for 20 images; return one for each",
    ),
    "other dimensions": (
        "    def embed_images(self, split):\n        return (split.images - self.mean)[:, 1:]\n",
        SHAPES,
        "images have 63 and texts 64 dimensions",
    ),
    "regions for cosine": (
        "    def embed_texts(self, split):\n"
        "        x = words(split).float() @ self.W\n"
        "        return Levels(globals=x, regions=x)\n"
        "    def embed_images(self, split):\n"
        "        return Levels(globals=split.images, regions=split.regions)\n",
        SHAPES,
        "the regions level needs similarity = MultiLevel",
    ),
    "another result each time": (
        "    def embed_images(self, split):\n        return split.images - self.mean\n"
        "    def state(self):\n        return {'mean': self.mean + 0.01 * next(COUNT), 'W': self.W}\n"
        "    def fit(self, train, val, run):\n"
        "        super().fit(train, val, run)\n        self.W = self.W * (1 + 0.1 * next(COUNT))\n",
        SAME,
        "two fits with one seed differ (by",
    ),
    "depends on the other rows": (
        "    def embed_images(self, split):\n        return split.images - split.images.mean(dim=0)\n",
        ALONE,
        "an item's embedding changes with the rest of its split (by",
    ),
    "depends on its place": (
        "    def embed_texts(self, split):\n"
        "        x = words(split).float() @ self.W\n        return x + torch.arange(len(x))[:, None]\n",
        ALONE,
        "an item's embedding changes with the rest of its split (by",
    ),
    "looks at the test split": (
        "    def fit(self, train, val, run):\n"
        "        super().fit(train, val, run)\n"
        "        self.mean = self.mean + len(train._collection.splits['test'])\n",
        BLIND,
        "the fit changes with the test split (by",
    ),
    "forgets": (
        "    def load(self, state):\n        self.mean, self.W = state['mean'] * 0, state['W']\n",
        STORED,
        "load(state()) gives other embeddings (by",
    ),
    "cannot load": (
        "    def load(self, state):\n        self.mean = state['average']\n",
        STORED,
        "KeyError: 'average'",
    ),
    "captions only": (
        "    def fit(self, train, val, run):\n"
        "        assert train.unit == 'captions', 'captions only'\n        super().fit(train, val, run)\n",
        DOCUMENTS,
        "AssertionError: captions only",
    ),
    "learns nothing": (
        "    def embed_texts(self, split):\n        return torch.ones(len(split.texts), len(self.mean))\n"
        "    def embed_images(self, split):\n        return torch.ones(len(split), len(self.mean))\n",
        LEARNS,
        "is not above chance, 160.0",
    ),
}


def script(tmp_path, changes):
    path = tmp_path / "mine.py"
    path.write_text(f"{GOOD}\n\n@dataclass\nclass Mine(Good):\n{changes}\n")
    return path


@pytest.fixture
def verdicts(prepared_scenes, monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "DATASET", prepared_scenes.spec)

    def check(changes="    pass"):
        method = METHODS.configure(f"{script(tmp_path, changes)}:Mine")
        found = check_method(method, prepared_scenes.cache, torch.device("cpu"))
        return {verdict.promise: verdict.broken for verdict in found}

    return check


PROMISES = [DECLARES, SHAPES, SAME, ALONE, BLIND, STORED, DOCUMENTS, LEARNS]


def test_a_good_method_keeps_every_promise(verdicts):
    assert verdicts() == dict.fromkeys(PROMISES)


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_promise_is_told(verdicts, kind):
    changes, promise, said = BAD[kind]
    found = verdicts(changes)
    assert list(found) == PROMISES
    assert found[promise] is not None and said in found[promise]


@pytest.mark.parametrize("kind", ["depends on the other rows", "forgets", "captions only", "learns nothing"])
def test_the_other_promises_are_still_kept(verdicts, kind):
    found = verdicts(BAD[kind][0])
    assert [promise for promise, broken in found.items() if broken] == [BAD[kind][1]]


def test_a_fit_that_fails_breaks_every_promise_but_the_declaration(verdicts):
    found = verdicts("    def fit(self, train, val, run):\n        raise RuntimeError('no')\n")
    assert found[DECLARES] is None
    assert [found[promise] for promise in PROMISES[1:]] == ["RuntimeError: no"] * 7


def test_the_suites_own_cache_holds_no_fit_of_a_check(verdicts, prepared_scenes):
    verdicts()
    assert not (prepared_scenes.cache / "fits").exists()
