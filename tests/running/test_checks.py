"""``cran-bench check``: good plugins pass, and each promise that a bad one breaks is told by name."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from cran_bench.errors import BadInput
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running import checks
from cran_bench.running.checks import check_dataset, check_method, with_other_test, with_text_features
from cran_bench.running.fits import FitStore
from cran_bench.running.preparation import find_prepared

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
    "float64": (
        "    def embed_images(self, split):\n        return (split.images - self.mean).double()\n",
        SHAPES,
        "embed_images returned float64, embed_texts float32; return one dtype, float32",
    ),
    "both float64": (
        "    def embed_images(self, split):\n        return (split.images - self.mean).double()\n"
        "    def embed_texts(self, split):\n        return words(split) @ self.W.double()\n",
        SHAPES,
        "embed_images gives torch.float64; give float32",
    ),
    "numpy": (
        "    def embed_images(self, split):\n        return (split.images - self.mean).numpy()\n",
        SHAPES,
        "embed_images returned a numpy array; return a torch tensor (N, D)",
    ),
    "numpy in levels": (
        "    def embed_texts(self, split):\n        return Levels(globals=(words(split).float() @ self.W).numpy())\n",
        SHAPES,
        "embed_texts returned a numpy array; return a torch tensor (T, D)",
    ),
    "no return": (
        "    def embed_images(self, split):\n        split.images - self.mean\n",
        SHAPES,
        "embed_images returned nothing; return a torch tensor (N, D)",
    ),
    "a list for a state": (
        "    def state(self):\n        return [self.mean, self.W]\n",
        SHAPES,
        "state returned a list; return a dict of tensors by name",
    ),
    "a number in its state": (
        "    def state(self):\n        return {'mean': self.mean, 'W': 3}\n",
        SHAPES,
        "state returned an int for 'W'; return a dict of tensors by name",
    ),
    "not a number": (
        "    def embed_texts(self, split):\n        return words(split).float() @ self.W * float('nan')\n",
        SHAPES,
        "embed_texts: 100 of 100 vectors contain NaN or infinity, the first is 0",
    ),
    "wrong rows": (
        "    def embed_images(self, split):\n        return (split.images - self.mean)[1:]\n",
        SHAPES,
        "embed_images returned 19 rows for 20 images; return one for each",
    ),
    "other dimensions": (
        "    def embed_images(self, split):\n        return (split.images - self.mean)[:, 1:]\n",
        SHAPES,
        "images have dimension 63 and texts 64",
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
        "        self.mean = self.mean + 0.01 * len(train._collection.splits['test'])\n",
        BLIND,
        "the fit changes with the test split (by",
    ),
    "reads labels of the test split": (
        "    def embed_images(self, split):\n        numbers = torch.arange(split.labels.shape[1])\n"
        "        return super().embed_images(split) + 0.001 * (split.labels * numbers).sum(dim=1, keepdim=True)\n",
        BLIND,
        "embeddings change with labels of test (by",
    ),
    "forgets": (
        "    def load(self, state):\n        self.mean, self.W = state['mean'] * 0, state['W']\n",
        STORED,
        "of the largest value); is a module in training mode? call .eval() at the end of load",
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


@pytest.mark.parametrize("spec", ["aligned", "linear-head:quick[text=encoder]"])
def test_a_method_that_reads_a_text_encoder_can_be_checked(prepared_scenes, monkeypatch, spec):
    monkeypatch.setattr(checks, "DATASET", prepared_scenes.spec)
    found = check_method(METHODS.configure(spec), prepared_scenes.cache, torch.device("cpu"))
    assert {verdict.promise: verdict.broken for verdict in found} == dict.fromkeys(PROMISES)


def test_text_features_for_checks_differ_between_captions_and_change_with_the_test_split_only_there(prepared_scenes):
    spec, cpu = DATASETS.configure(prepared_scenes.spec), torch.device("cpu")
    data = with_text_features(find_prepared(spec, prepared_scenes.data, prepared_scenes.cache))
    other = with_other_test(data)
    train, same = (prepared.split("train", "captions", cpu) for prepared in (data, other))
    assert torch.equal(train.text_features, same.text_features) and train.text_dim == train.image_dim
    assert len(train.text_features.unique(dim=0)) == len(train.texts)
    test, moved = (prepared.split("test", "captions", cpu).text_features for prepared in (data, other))
    assert not torch.equal(test[: len(moved)], moved)


def test_a_good_method_keeps_every_promise_with_three_fits(verdicts, monkeypatch):
    fits, fit = [], FitStore._fit
    monkeypatch.setattr(FitStore, "_fit", lambda store, *given: fits.append(store.root.name) or fit(store, *given))
    assert verdicts() == dict.fromkeys(PROMISES)
    assert fits == ["first", "other", "documents"]


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_promise_is_told(verdicts, kind):
    changes, promise, said = BAD[kind]
    found = verdicts(changes)
    assert list(found) == PROMISES
    assert found[promise] is not None and said in found[promise]


@pytest.mark.parametrize(
    "kind",
    [
        *("depends on the other rows", "looks at the test split", "reads labels of the test split", "forgets"),
        *("captions only", "learns nothing"),
    ],
)
def test_the_other_promises_are_still_kept(verdicts, kind):
    found = verdicts(BAD[kind][0])
    assert [promise for promise, broken in found.items() if broken] == [BAD[kind][1]]


PEEKS = {
    "captions": "sum(map(len, train._collection.captions))",
    "their words": "len({word for text in train._collection.captions for word in text.split()})",
    "global features": "train._features.globals.mean()",
    "region features": "train._features.regions.mean()",
    "boxes of the features": "train._features.boxes.std()",
    "boxes of the collection": "train._collection.boxes.std()",
    "labels": "(train._collection.labels[-20:] @ np.arange(30)).std()",
    "twins": "(train._collection.twins * np.arange(100)).sum() / 1e5",
    "ids": "len(''.join(val._collection.images.ids))",
    "pixels": "np.asarray(train._collection.images.read(99)).mean()",
    "digests": "int(train._collection.images.digest(99), 16) / 2**256",
    "files": "np.load(train._features.folder / 'globals.npy').mean()",
}


@pytest.mark.parametrize("what", PEEKS)
def test_a_method_that_peeks_at_test_data_through_its_splits_is_caught(verdicts, what):
    said = verdicts(
        "    def fit(self, train, val, run):\n        import numpy as np\n        super().fit(train, val, run)\n"
        f"        self.mean = self.mean + 0.01 * np.sin(float({PEEKS[what]}))\n"
    )
    assert [promise for promise, broken in said.items() if broken] == [BLIND]
    assert said[BLIND].startswith("the fit changes with the test split" + (": it fails" if what == "files" else " (by"))


def test_a_method_that_only_keeps_test_data_in_its_state_is_caught(verdicts):
    said = verdicts(
        "    def fit(self, train, val, run):\n        super().fit(train, val, run)\n"
        "        self.more = torch.tensor(len(train._collection.captions[-1]))\n"
        "    def state(self):\n        return {**super().state(), 'more': self.more}\n"
        "    def load(self, state):\n        super().load(state)\n        self.more = state['more']\n"
    )
    broken = {promise: broken for promise, broken in said.items() if broken}
    assert broken == {BLIND: "the fit changes with the test split, in what state returns"}


def test_all_test_data_is_replaced_and_no_other(prepared_scenes):
    prepared = find_prepared(DATASETS.configure(prepared_scenes.spec), prepared_scenes.data, prepared_scenes.cache)
    labels = np.eye(100, dtype=np.uint8)
    prepared = dataclasses.replace(
        prepared, collection=dataclasses.replace(prepared.collection, labels=labels, label_names=())
    )
    other, kept, gone = checks.with_other_test(prepared), (0, 59, 60, 79), (80, 89, 99)

    def content(one, row):
        of_row = np.array([row])
        arrays = [one.features.globals, one.features.regions, one.features.boxes, one.collection.boxes]
        return [
            *(array[row].tolist() for array in (*arrays, one.collection.labels)),
            *(one.collection.captions_of(of_row)[0], one.collection.images.ids[row], one.collection.images.digest(row)),
            np.asarray(one.collection.images.read(row)).tolist(),
        ]

    assert all(content(prepared, row) == content(other, row) for row in kept)
    assert not any(a == b for row in gone for a, b in zip(content(prepared, row), content(other, row), strict=True))
    splits = {name: rows.tolist() for name, rows in other.collection.splits.items()}
    assert splits == {"train": [*range(60)], "val": [*range(60, 80)], "test": [*range(80, 90)]}


RANDOM = "    def embed_images(self, split):\n        return split.images - self.mean + torch.rand(1)\n"


@pytest.mark.parametrize(
    ("changes", "promise", "untried"),
    [
        (BAD["not a number"][0], SHAPES, [SAME, ALONE, BLIND, STORED, LEARNS]),
        (BAD["numpy"][0], SHAPES, [SAME, ALONE, BLIND, STORED, DOCUMENTS, LEARNS]),
        (BAD["another result each time"][0], SAME, [ALONE, BLIND, STORED]),
        (RANDOM, SAME, [ALONE, BLIND, STORED]),
    ],
    ids=["not a number", "numpy", "random fit", "random embeddings"],
)
def test_what_depends_on_a_broken_promise_is_untried(verdicts, changes, promise, untried):
    found = verdicts(changes)
    assert [name for name, broken in found.items() if broken] == [promise, *untried]
    assert len({found[name] for name in (promise, *untried)}) == 1


TILED = "gives a pair the same score whatever else is in the tile"
PAIRS = """    @property
    def similarity(self):
        from cran_bench import Pairwise
        return Pairwise(self.score)
"""
EXACT = "(torch.nn.functional.normalize(images.double()) @ torch.nn.functional.normalize(texts.double()).T)"
SCORES = {
    "alone": (f"{EXACT}.float()", None),
    "less the mean of the tile": (f"({EXACT} - {EXACT}.mean(dim=0)).float()", "the score of image 0 and text 0 is "),
    "with its place in the tile": (
        f"({EXACT} + 1e-6 * torch.arange(len(texts))).float()",
        "use the pair's own rows only, and round away the last bits of products",
    ),
    "of another shape": (
        f"{EXACT}.float().T",
        "Mine.score returned float32 (100, 20); return a float tensor (20, 100), the scores",
    ),
}


@pytest.mark.parametrize("kind", SCORES)
def test_a_pair_scorer_is_tried_with_two_tilings(verdicts, kind):
    value, said = SCORES[kind]
    found = verdicts(f"{PAIRS}\n    def score(self, images, texts):\n        return {value}\n")
    assert list(found) == [*PROMISES[:-1], TILED, LEARNS]
    broken = {promise: broken for promise, broken in found.items() if broken}
    assert (TILED in broken) == (said is not None) and (said or "") in broken.get(TILED, "")
    assert kind != "alone" or not broken


@pytest.mark.parametrize("error", ["RuntimeError('no')", "SystemExit('no')"])
def test_a_fit_that_fails_breaks_every_promise_but_the_declaration(verdicts, error):
    found = verdicts(f"    def fit(self, train, val, run):\n        raise {error}\n")
    assert found[DECLARES] is None
    said = {found[promise] for promise in PROMISES[1:]}
    assert len(said) == 1 and said.pop().startswith(f"{error[:-6]}: no (")


def test_the_suites_own_cache_holds_no_fit_of_a_check(verdicts, prepared_scenes):
    verdicts()
    assert not (prepared_scenes.cache / "fits").exists()


# datasets ---------------------------------------------------------------------------------------------------------

DATASET = """
import itertools
from dataclasses import dataclass, replace
import numpy as np
from PIL import Image
from cran_bench.dataset import Collection, FolderImages
from cran_bench.errors import BadInput
from cran_bench.registry import register_dataset

COUNT = itertools.count()

@dataclass
class Good:
    limit: int = 9

    def load(self, data):
        names = sorted(path.name for path in data.glob("*.png"))[: self.limit]
        if not names:
            raise BadInput(f"there are no images in {data}; copy them there")
        captions = [f"the picture {name}" for name in names for _ in range(2)]
        owners, splits = np.repeat(np.arange(len(names)), 2), np.split(np.arange(len(names)), [5, 7])
        images = self.images(data, names)
        return Collection("good", images, captions, owners, dict(zip(("train", "val", "test"), splits)))

    def images(self, data, names):
        return FolderImages(data, names)

    def defaults(self):
        return {"backbone": "pixels[dim=16]", "regions": "grid"}

class Odd(FolderImages):
    pass

"""

NAMES = "is a dataclass, and names the specs of a front end"
LOADS = "loads a collection, whose image ids and captions are text"
PARTS = "has test images, and captions for the images of each split"
AGAIN = "loads the same images, captions and splits again"
READS = "reads images as RGB, with the same pixels and digest each time"
OPENS = "has a front end that opens by its defaults"
GIVES = "gives finite features of a few images by its defaults"
EMPTY = "says in one sentence what an empty folder lacks"
ALL = [NAMES, LOADS, PARTS, AGAIN, READS, OPENS, GIVES, EMPTY]

LOAD = "    def load(self, data):\n        found = super().load(data)\n"
ODD = "    def images(self, data, names):\n        return Odd(data, names)\n"
NO_LOAD = [LOADS, PARTS, AGAIN, READS, OPENS, GIVES]

# What a bad dataset does in place of the good one, the promises it breaks, and what is said of the first.
BAD_DATA = {
    "no mapping": (
        "    def defaults(self):\n        return 3\n",
        [NAMES, OPENS, GIVES],
        'line 37: defaults returns 3; return a spec of each, such as {"backbone": "pixels", "regions": "grid"}',
    ),
    "another key": (
        "    def defaults(self):\n        return {'images': 'pixels', 'region': 'grid'}\n",
        [NAMES, OPENS, GIVES],
        "defaults returns {'images': 'pixels', 'region': 'grid'}; return a spec of each",
    ),
    "no spec": (
        "    def defaults(self):\n        return {'images': 'pixels', 'regions': None}\n",
        [NAMES, OPENS, GIVES],
        "return a spec of each",
    ),
    "defaults that fail": (
        "    def defaults(self):\n        return self.specs\n",
        [NAMES, OPENS, GIVES],
        "mine.py:Mine has no defaults: AttributeError: 'Mine' object has no attribute 'specs' (",
    ),
    "no such backbone": (
        "    def defaults(self):\n        return {'backbone': 'pixel', 'regions': 'grid'}\n",
        [OPENS, GIVES],
        "there is no backbone 'pixel'; did you mean 'pixels'?",
    ),
    "no collection": (LOAD + "        return [found]\n", NO_LOAD, "line 37: load returns a list; return a cran"),
    "an error": (LOAD + "        {}[0]\n", NO_LOAD, "mine.py:Mine could not be loaded: KeyError: 0 ("),
    "a split without images": (
        LOAD + "        return replace(found, splits={**found.splits, 'test': np.arange(0)})\n",
        NO_LOAD,
        "the test split is empty",
    ),
    "numbers for ids": (
        LOAD + "        found.images.ids = list(range(9))\n        return found\n",
        NO_LOAD,
        "mine.py:Mine: image id 0 is 0; give a non-empty string",
    ),
    "empty captions": (
        LOAD + "        return replace(found, captions=[' ', *found.captions[1:]])\n",
        NO_LOAD,
        "caption 0 of image 0.png is ' '; give a non-empty string",
    ),
    "fewer owners": (
        LOAD + "        return replace(found, image_of=found.image_of[:-1])\n",
        NO_LOAD,
        "image_of has 17 entries for 18 captions; give the row of each caption's image",
    ),
    "fewer twins": (
        LOAD + "        return replace(found, twins=np.arange(3))\n",
        NO_LOAD,
        "twins has 3 rows for 9 images",
    ),
    "another order": (
        LOAD + "        found.images.ids = np.roll(found.images.ids, next(COUNT)).tolist()\n        return found\n",
        [AGAIN],
        "the image ids differ when the dataset is loaded again",
    ),
    "other captions": (
        LOAD + "        return replace(found, captions=[f'{next(COUNT)} {text}' for text in found.captions])\n",
        [AGAIN],
        "the captions and splits differ when the dataset is loaded again",
    ),
    "other labels": (
        LOAD + "        return replace(found, labels=np.full((9, 1), next(COUNT), np.uint8))\n",
        [AGAIN],
        "the boxes, twins or labels differ when the dataset is loaded again",
    ),
    "grey images": (ODD, [READS, GIVES], "image 0.png is read as L; give 8-bit RGB"),
    "other pixels": (ODD, [READS], "pixels or digest of image 0.png differ when it is read again"),
    "other digests": (ODD, [AGAIN, READS], "the digests of images differ when the dataset is loaded again"),
    "images that cannot be read": (
        "    def images(self, data, names):\n        return FolderImages(data.parent, names)\n",
        [AGAIN, READS, GIVES],
        "0.png: No such file or directory",
    ),
    "a crash without data": (
        LOAD.replace("found = super", "open(data / '0.png').close()\n        return super"),
        [EMPTY],
        "raise BadInput with a sentence that names what is missing",
    ),
    "a long story": (
        "    def load(self, data):\n        if not any(data.iterdir()):\n"
        "            raise BadInput('one\\ntwo')\n        return super().load(data)\n",
        [EMPTY],
        "the error has several lines, the first is one",
    ),
}
READ = {
    "grey images": "    def read(self, row):\n        return super().read(row).convert('L')\n",
    "other pixels": "    def read(self, row):\n        return Image.new('RGB', (8, 8), (next(COUNT), 0, 0))\n",
    "other digests": "    def digest(self, row):\n        return str(next(COUNT))\n",
}


@pytest.fixture
def dataset(tmp_path):
    """``dataset(changes, odd)``: a dataset of nine images in a file, and their folder."""
    random = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for k in range(9):
        pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{k}.png")

    def made(changes="    pass\n", odd="    pass\n"):
        text = DATASET.replace("class Odd(FolderImages):\n    pass\n", f"class Odd(FolderImages):\n{odd}")
        (tmp_path / "mine.py").write_text(f"{text}\n@dataclass\nclass Mine(Good):\n{changes}")
        return f"{tmp_path / 'mine.py'}:Mine", tmp_path / "data"

    return made


def test_a_good_dataset_keeps_every_promise(dataset):
    spec, data = dataset()
    assert {c.promise: c.broken for c in check_dataset(DATASETS.configure(spec), data)} == dict.fromkeys(ALL)


@pytest.mark.parametrize("kind", BAD_DATA)
def test_a_broken_promise_of_a_dataset_is_told(dataset, kind):
    changes, promises, said = BAD_DATA[kind]
    spec, data = dataset(changes, READ.get(kind, "    pass\n"))
    found = {check.promise: check.broken for check in check_dataset(DATASETS.configure(spec), data)}
    assert list(found) == ALL and [name for name in ALL if found[name]] == promises
    assert said in found[promises[0]] and "\n" not in found[promises[0]]


@pytest.mark.parametrize(
    "kind", ["no mapping", "another key", "no spec", "defaults that fail", "no collection", "an error"]
)
def test_a_dataset_that_breaks_its_contract_has_no_features(dataset, kind, tmp_path):
    changes, _, said = BAD_DATA[kind]
    spec, data = dataset(changes)
    with pytest.raises(BadInput) as refusal:
        find_prepared(DATASETS.configure(spec), data, tmp_path / "cache")
    assert said in str(refusal.value) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("decorator", ["", "@register_dataset('lacking')\n"])
def test_what_a_dataset_lacks_is_said_when_it_is_configured(dataset, decorator, tmp_path, plugins_of_its_own):
    dataset()
    path = tmp_path / "mine.py"
    line = path.read_text().count("\n") + 2 + bool(decorator)
    path.write_text(path.read_text() + f"\n{decorator}@dataclass\nclass Less:\n    def load(self, data): pass\n")
    with pytest.raises(BadInput) as refusal:
        DATASETS.configure(f"{path}:Less")
    where = f"{path}, line {line + 1}: Less"
    assert str(refusal.value) == f"{where} is not a dataset: it lacks defaults; a dataset has load, defaults"


@pytest.mark.parametrize("name", ["scenes[train=4,val=2,test=2]", "flickr8k"])
def test_the_suites_own_datasets_keep_every_promise(flickr, name):
    assert {c.promise: c.broken for c in check_dataset(DATASETS.configure(name), flickr)} == dict.fromkeys(ALL)
