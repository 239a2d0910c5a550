"""Shared by the tests: the command line called in this process, and two tiny datasets."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Processes that tests start must import the installed package, not the folder of the checkout they happen to run in.
os.environ["PYTHONSAFEPATH"] = "1"
os.environ["CRAN_BENCH_JOBS"] = "1"  # rows in this process, which knows the methods that tests register
_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("MPLCONFIGDIR", str(_caches / "matplotlib"))  # whose list of fonts takes long to make
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # a journal of their own
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

RECORDED = "cca,cfa,cran[width=compact,max_epochs=2,lstm_layers=1]"  # the last has training curves


gc.disable()  # until all is imported


def pytest_collection_finish():
    """What is imported stays to the end: the garbage collector need not look at it again and again."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The error, which is the last line and the only one of its kind."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and self.err.splitlines()[-1] == lines[0], self.err
        assert "Traceback" not in self.err + self.out
        return lines[0].removeprefix("error: ")


@pytest.fixture
def command(capsys, monkeypatch):
    """``command("run", "-m", "cca")``: cran-bench as typed, in this process."""
    from cran_bench.cli import main

    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["cran-bench", *map(str, arguments)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def plugins_of_its_own(monkeypatch):
    """What the test registers does not outlive it."""
    from cran_bench.registry import DATASETS, METHODS

    for registry in (METHODS, DATASETS):
        for name in (*registry.names(), *registry.with_argument()):
            registry.get(name)
        monkeypatch.setattr(registry, "plugins", dict(registry.plugins))
        monkeypatch.setattr(registry, "failures", dict(registry.failures))


@dataclass(frozen=True)
class Tiny:
    """A dataset that is prepared below `cache`."""

    spec: str
    backbone: str
    data: Path
    cache: Path
    results: Path | None = None

    @property
    def arguments(self) -> list[str]:
        """For ``cran-bench run``."""
        results = ["--results", str(self.results)] if self.results else []
        return ["-d", self.spec, "--data", str(self.data), "--cache", str(self.cache), *results]


def _prepare(spec, backbone, data, cache):
    from cran_bench.registry import DATASETS
    from cran_bench.running.preparation import prepare

    prepare(DATASETS.configure(spec), data, cache, backbone)
    return Tiny(spec, backbone, data, cache)


@pytest.fixture(scope="session")
def prepared_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return _prepare("scenes[train=60,val=20,test=20]", "pixels[dim=64]", folder, folder / "cache")


@pytest.fixture
def quick_scenes(prepared_scenes, tmp_path):
    """A hundred scenes, prepared, with a cache of the test's own."""
    shutil.copytree(prepared_scenes.cache, tmp_path / "cache")
    return Tiny(prepared_scenes.spec, prepared_scenes.backbone, prepared_scenes.data, tmp_path / "cache")


@pytest.fixture(scope="session")
def _recorded_scenes(prepared_scenes, tmp_path_factory):
    import cran_bench

    folder = tmp_path_factory.mktemp("recorded")
    shutil.copytree(prepared_scenes.cache, folder / "cache")
    tiny = replace(prepared_scenes, cache=folder / "cache", results=folder / "results")
    cran_bench.run(RECORDED, tiny.spec, data=tiny.data, cache=tiny.cache, results=tiny.results)
    return tiny


@pytest.fixture
def recorded_scenes(_recorded_scenes, tmp_path):
    """The hundred scenes with the records of `RECORDED`, and the fits, as copies of the test's own."""
    for folder in ("cache", "results"):
        shutil.copytree(getattr(_recorded_scenes, folder), tmp_path / folder)
    return replace(_recorded_scenes, cache=tmp_path / "cache", results=tmp_path / "results")


@pytest.fixture
def held(tmp_path):
    """The plugin file of `Held`, in a folder of its own."""
    (tmp_path / "plugin").mkdir()
    return Path(shutil.copy(Path(__file__).parent / "plugins" / "held.py", tmp_path / "plugin"))


@pytest.fixture(scope="session")
def drawn_photographs(tmp_path_factory):
    home = tmp_path_factory.mktemp("photographs") / "flickr8k"
    (home / "images").mkdir(parents=True)
    colours = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 50, 200), "yellow": (230, 200, 30)}
    rng, lines = np.random.default_rng(0), []
    for owners, count in (("train", 18), ("dev", 6), ("test", 6)):
        names = [f"{owners}{k:02}.jpg" for k in range(count)]
        (home / f"Flickr_8k.{owners}Images.txt").write_text("\n".join(names) + "\n")
        for k, name in enumerate(names):
            first, second = (list(colours)[j % 4] for j in (k, k // 4 + 1))
            values = rng.integers(0, 30, (48, 64, 3)) + np.array(colours[first])
            values[:, 32:] = colours[second]
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(home / "images" / name)
            lines += [f"{name}#{j}\t{a} beside {b} ." for j, (a, b) in enumerate(((first, second), (second, first)))]
    (home / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture
def flickr(drawn_photographs, tmp_path):
    """A folder of data with thirty JPEGs as flickr8k: 18 for training, 6 for validation and 6 for testing."""
    shutil.copytree(drawn_photographs, tmp_path / "data" / "flickr8k")
    return tmp_path / "data"


@pytest.fixture
def read_what_they_need():
    """A check that a dataset loads with what it says it needs, and with nothing less."""
    from cran_bench.errors import BadInput
    from cran_bench.needs import missing

    def check(dataset, folder):
        needs = dataset.needs(folder)
        dataset.load(folder)
        assert not missing(needs)
        for need in needs:
            if need.found is not None and not need.optional:
                away = need.found.rename(need.found.with_name("away"))
                with pytest.raises(BadInput):
                    dataset.load(folder)
                assert [n.what for n in missing(dataset.needs(folder))] == [need.what]
                away.rename(need.found)

    return check


@pytest.fixture(scope="session")
def tiny():
    """Real train, val and test splits of 100 invented images with one to four captions, without pixels or files."""
    from types import SimpleNamespace

    import torch

    from cran_bench.dataset import Collection, ImageSource
    from cran_bench.frontend.features import Features
    from cran_bench.frontend.text.words import TextFrontEnd
    from cran_bench.split import Split

    class NoImages(ImageSource):
        ids = tuple(f"image{row}" for row in range(100))

        def read(self, row):
            raise NotImplementedError

        def digest(self, row):
            raise NotImplementedError

    random = np.random.default_rng(0)
    topics = random.integers(0, 6, (100, 2))
    captions, owner = [], []
    for row, (first, second) in enumerate(topics.tolist()):
        for _ in range(int(random.integers(1, 5))):
            words = [f"thing{first}", f"thing{second}", f"word{random.integers(8)}", f"word{random.integers(8)}"]
            captions.append(" ".join(random.permutation(words)))
            owner.append(row)
    sight = random.normal(size=(6, 16))
    seen = sight[topics[:, 0]] + sight[topics[:, 1]] + 0.3 * random.normal(size=(100, 16))
    splits = {"train": np.arange(60), "val": np.arange(60, 84), "test": np.arange(84, 100)}
    labels = np.eye(6, dtype=np.uint8)[topics].max(axis=1)
    collection = Collection("tiny", NoImages(), captions, np.array(owner), splits, labels=labels)
    regions = sight[topics] + 0.3 * random.normal(size=(100, 2, 16))  # what each topic looks like
    mask = np.ones((100, 2), dtype=bool)
    mask[0], mask[1, 1] = False, False
    boxes = np.tile(np.float32([0, 0, 1, 1]), (100, 2, 1))
    seen, regions, scores = seen.astype(np.float32), regions.astype(np.float32), mask.astype(np.float32)
    features = Features(Path("nowhere"), {}, seen, regions, boxes, scores, mask)
    text = TextFrontEnd.fit(collection.captions_of(splits["train"])[0], "ppmi-svd[min_count=1]")
    return SimpleNamespace(
        **{
            name: Split(name, "captions", collection, features, text, device=torch.device("cpu"))
            for name in ("train", "val", "test")
        }
    )


@pytest.fixture
def comes_back(tiny, tmp_path):
    """``comes_back(spec)``: the method fitted on `tiny` and stored, whose loaded twin embeds to the same bits."""
    import torch

    from cran_bench.embeddings import as_levels
    from cran_bench.registry import METHODS
    from cran_bench.running.fits import FitStore

    store = FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))

    def fitted_and_loaded(spec):
        fitted, loaded = (store.fitted(METHODS.configure(spec).build(), 0, spec) for _ in range(2))
        assert loaded.reused
        for side in ("embed_images", "embed_texts"):
            twin, own = (as_levels(getattr(x.part, side)(tiny.test)).tensors() for x in (loaded, fitted))
            torch.testing.assert_close(twin, own, rtol=0, atol=0)
        return fitted

    return fitted_and_loaded


@pytest.fixture
def plain_split():
    """``plain_split(images, texts, image_of)``: what the linear methods ask of a split, with given matrices."""
    import torch

    from cran_bench.frontend.feature_rows import FeatureRows

    class Plain:
        def __init__(self, images, texts, image_of=None):
            self.images = torch.as_tensor(images)
            self.image_rows = FeatureRows(tuple(self.images.shape), 0, self.images.__getitem__)
            self.vectors = torch.as_tensor(texts)
            self.texts = [""] * len(texts)
            self.image_of = torch.arange(len(images)) if image_of is None else torch.as_tensor(image_of)

        def __len__(self):
            return len(self.images)

        def image_blocks(self, size=7):
            yield from self.images.split(size)

        def mean_vectors(self):
            return self.vectors

    return Plain


@pytest.fixture
def run_on():
    """``run_on(val, similarity)``: a run that keeps what a fit scored and chose."""
    from dataclasses import asdict

    import torch

    from cran_bench.ranking.metrics import Validation
    from cran_bench.ranking.rank import rank

    class Notes:
        seed, device = 0, torch.device("cpu")

        def __init__(self, val, similarity):
            self.val, self.similarity = val, similarity
            self.scored, self.choices = [], {}

        def score(self, images, texts, similarity=None):
            metrics = rank(images, texts, self.val.image_of, similarity or self.similarity).metrics()
            self.scored.append(metrics.rsum)
            return Validation(**asdict(metrics))

        def progress(self, items, label, total, done=0):
            items = list(items)
            assert done + len(items) == total
            return iter(items)

        def chose(self, **values):
            self.choices.update(values)

    return Notes
