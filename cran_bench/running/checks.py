"""The checks of ``cran-bench check``: the contract that every method and dataset must satisfy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close

from cran_bench.contract import Method
from cran_bench.dataset import SPLITS, Collection, Dataset, ImageSource
from cran_bench.embeddings import Embedding, as_levels, rows_of
from cran_bench.errors import BadInput, file_of, python_error
from cran_bench.frontend.feature_files import FeatureFiles
from cran_bench.frontend.front_end import FrontEnd
from cran_bench.frontend.text.encoding import TextFeatures, TextManifest
from cran_bench.images import UnreadableImage
from cran_bench.protocols import Unit
from cran_bench.ranking.metrics import KS
from cran_bench.ranking.pairs import backend_of
from cran_bench.ranking.rank import rank
from cran_bench.records.statistics import sample
from cran_bench.registry import DATASETS, Configured
from cran_bench.running.fits import Fit, FitStore, code_of
from cran_bench.running.preparation import Prepared, default_specs, find_prepared, load_collection
from cran_bench.running.runner import embed, require_scorable
from cran_bench.running.tuning import require_search
from cran_bench.similarity import Pairwise
from cran_bench.split import MissingFeature

TILES = (100, 500), (7, 13)  # images and texts in the tiles of two tilings of 100 images
DATASET = "scenes[train=200,val=60,test=100]"
SEED = 0


class Broken(Exception):  # noqa: N818 - a result of a check, not an error of the suite
    """The plugin breaks its contract; the message says how."""


@dataclass(frozen=True)
class Check:
    """A requirement of the contract and how the plugin violates it; None if it passes."""

    promise: str
    broken: str | None


def check_method(method: Configured[Method], cache: Path, device: torch.device) -> list[Check]:
    """Check every requirement of the contract on a small set of scenes; a failed check does not stop the others.

    Methods that read the features of a text encoder get those of `with_text_features`.

    Raises:
        BadInput: the scenes cannot be prepared.
    """
    prepared = with_text_features(find_prepared(DATASETS.configure(DATASET), Path(), cache))
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(method, prepared, Path(folder), device)
        checks: list[tuple[str, Callable[[], object]]] = [
            ("declares a similarity and is a dataclass of hyper-parameters", trial.declares),
            ("fits, and embeds every image and text to one finite float32 row", trial.shapes),
            ("gives the same embeddings for the same seed", trial.deterministic),
            ("embeds each item by itself, whatever else is in the split", trial.independent),
            ("learns nothing from the test split", trial.blind),
            ("gives the same embeddings after saving and loading", trial.storable),
            ("takes documents as well as captions", trial.documents),
            ("learns more than chance on scenes", trial.learns),
        ]
        if trial.scores_pairs:
            checks.insert(-1, ("gives a pair the same score whatever else is in the tile", trial.tiled))
        return _tried(checks, method)


def check_dataset(dataset: Configured[Dataset], data: Path) -> list[Check]:
    """Check every requirement of the contract on a dataset below the folder `data`, with a few of its images."""
    trial = _DatasetTrial(dataset, data)
    return _tried(
        [
            ("is a dataclass, and names the specs of a front end", lambda: default_specs(dataset)),
            ("loads a collection, whose image ids and captions are text", trial.loads),
            ("has test images, and captions for the images of each split", lambda: replace(trial.collection)),
            ("loads the same images, captions and splits again", trial.deterministic),
            ("reads images as RGB, with the same pixels and digest each time", trial.readable),
            ("has a front end that opens by its defaults", trial.front_end),
            ("gives finite features of a few images by its defaults", trial.extracts),
            ("says in one sentence what an empty folder lacks", trial.empty),
        ],
        dataset,
    )


def _tried(checks: Sequence[tuple[str, Callable[[], object]]], plugin: Configured[Any]) -> list[Check]:
    return [Check(promise, _broken(check, file_of(plugin.plugin.cls))) for promise, check in checks]


def _broken(check: Callable[[], object], file: str | None) -> str | None:
    try:
        check()
    except (Broken, BadInput) as error:
        return str(error)
    except (Exception, SystemExit) as error:  # whatever a plugin raises is a failed check, not a crash
        return python_error(error, file)
    return None


class _Trial:
    def __init__(self, method: Configured[Method], prepared: Prepared, folder: Path, device: torch.device) -> None:
        self.method, self.prepared, self.folder, self.device = method, prepared, folder, device
        self._fit: Fit[Method] | BaseException | None = None

    def fitted(self, name: str, prepared: Prepared | None = None, unit: Unit = "captions") -> Fit[Method]:
        data = prepared or self.prepared
        splits = data.split("train", unit, self.device), data.split("val", unit, self.device)
        store = FitStore(self.folder / name, data.identity, *splits, self.device)
        return store.fitted(self.method.build(), SEED, self.method.label)

    @property
    def fit(self) -> Fit[Method]:
        if self._fit is None:
            try:
                self._fit = self.fitted("first")
            except MissingFeature as error:
                self._fit = BadInput(f"{self.method.label} cannot run on scenes: {error}")
            except (Exception, SystemExit) as error:
                self._fit = error
        if isinstance(self._fit, BaseException):
            raise self._fit
        return self._fit

    def embeddings(self, fit: Fit[Method]) -> tuple[Embedding, Embedding]:
        images, texts = embed(fit.part, self.prepared.split("test", "captions", self.device))
        require_scorable(fit.part, images, texts)
        return images, texts

    def declares(self) -> None:
        require_search(self.method)
        code_of(self.method.build())  # the other declarations were checked when the method was configured

    def shapes(self) -> None:
        images, texts = self.embeddings(self.fit)
        for side, embedding in (("images", images), ("texts", texts)):
            for tensor in as_levels(embedding).tensors():
                if tensor.dtype != torch.float32:
                    raise Broken(f"embed_{side} gives {tensor.dtype}; give float32")

    @cached_property
    def _changes(self) -> dict[str, str | None]:
        """How a second fit with the seed differs by itself (`again`), and if not, with other test data (`other`)."""
        other = self._difference("other", with_other_test(self.prepared), "the fit changes with the test split")
        again = self._difference("again", self.prepared, "two fits with one seed differ") if other else None
        return {"again": again, "other": other}

    def _difference(self, name: str, prepared: Prepared, otherwise: str) -> str | None:
        first = self.embeddings(self.fit)

        def compare() -> None:
            fit = self.fitted(name, prepared)
            _same(first, self.embeddings(fit), 0.0, otherwise)
            try:
                assert_close(fit.part.state(), self.fit.part.state(), rtol=0, atol=0, equal_nan=True)
            except AssertionError:
                raise Broken(f"{otherwise}, in what state returns") from None

        broken = _broken(compare, file_of(self.method.plugin.cls))
        return broken if broken is None or otherwise in broken else f"{otherwise}: it fails with {broken}"

    def deterministic(self) -> None:
        """Also asked by the checks that compare embeddings: those of a random method differ for no other reason."""
        if self._changes["again"]:
            raise Broken(self._changes["again"])

    def independent(self) -> None:
        self.deterministic()
        test = self.prepared.split("test", "captions", self.device)
        order = np.random.default_rng(0).permutation(len(test))[: len(test) // 2]
        images, texts = self.embeddings(self.fit)
        part_images, part_texts = embed(self.fit.part, test.take(order))
        owners = test.image_of.cpu().numpy()
        rows = np.concatenate([np.flatnonzero(owners == image) for image in order])
        taken = torch.from_numpy(order).to(self.device), torch.from_numpy(rows).to(self.device)
        whole = rows_of(images, taken[0]), rows_of(texts, taken[1])
        _same(whole, (part_images, part_texts), 1e-4, "an item's embedding changes with the rest of its split")

    def blind(self) -> None:
        self.deterministic()
        if self._changes["other"]:
            raise Broken(self._changes["other"])
        if self.prepared.collection.labels is not None:
            test = with_permuted_labels(self.prepared).split("test", "captions", self.device)
            _same(self.embeddings(self.fit), embed(self.fit.part, test), 0.0, "embeddings change with labels of test")

    def storable(self) -> None:
        loaded = self.fitted("first")
        if not loaded.reused:
            raise Broken("the stored fit was not reused: fit must not change the fields")
        self.deterministic()
        advice = "; is a module in training mode? call .eval() at the end of load"
        _same(self.embeddings(self.fit), self.embeddings(loaded), 0.0, "load(state()) gives other embeddings", advice)

    def documents(self) -> None:
        fit = self.fitted("documents", unit="documents")
        embed(fit.part, self.prepared.split("test", "documents", self.device))

    @property
    def scores_pairs(self) -> bool:
        return isinstance(self.method.build().similarity, Pairwise)

    def tiled(self) -> None:
        images, texts = self.embeddings(self.fit)
        similarity = self.fit.part.similarity
        assert isinstance(similarity, Pairwise)
        with torch.inference_mode():
            for score in filter(None, (similarity.score, similarity.i2t)):
                whole, parts = (replace(similarity, tile=tile).scores_by(score, images, texts) for tile in TILES)
                if not torch.equal(whole, parts):
                    image, text = (whole != parts).nonzero()[0].tolist()
                    raise Broken(
                        f"the score of image {image} and text {text} is {whole[image, text]:.9g} in a tile of "
                        f"{TILES[0][0]} x {TILES[0][1]} and {parts[image, text]:.9g} in one of {TILES[1][0]} x "
                        f"{TILES[1][1]}: use the pair's own rows only, and round away the last bits of products, for "
                        "instance by computing in float64 and returning float32"
                    )

    def learns(self) -> None:
        test = self.prepared.split("test", "captions", self.device)
        images, texts = self.embeddings(self.fit)
        similarity = self.fit.part.similarity
        ranks = rank(images, texts, test.image_of, similarity, backend=backend_of(similarity))
        rsum = sample([ranks]).interval("rsum")
        chance = 2 * sum(100.0 * k / len(test) for k in KS)
        if rsum.low <= chance:
            raise Broken(f"rsum {rsum.value:.1f} [{rsum.low:.1f}, {rsum.high:.1f}] is not above chance, {chance:.1f}")


class _OtherImages(ImageSource):
    def __init__(self, images: ImageSource, rows: NDArray[np.int64]) -> None:
        self.images, self.rows = images, rows.tolist()
        self.ids = [name if self.rows[k] == k else f"other {name}" for k, name in enumerate(images.ids)]

    def read(self, row: int) -> Image.Image:
        return self.images.read(self.rows[row])

    def digest(self, row: int) -> str:
        return self.images.digest(self.rows[row])


def with_other_test(prepared: Prepared) -> Prepared:
    """Return the data with half as many test images, whose content is that of training images, and other captions."""
    collection, features = prepared.collection, prepared.features
    train, test = collection.splits["train"], collection.splits["test"]
    rows = np.arange(len(collection.images.ids))
    rows[test] = np.resize(train, len(test))
    captions, image_of = collection.captions_of(rows)
    collection = replace(
        collection,
        images=_OtherImages(collection.images, rows),
        captions=[text[::-1] if rows[k] != k else text for text, k in zip(captions, image_of, strict=True)],
        image_of=image_of,
        splits={**collection.splits, "test": test[: len(test) // 2]},
        truths=None,  # of other captions
        **{key: x[rows] for key in ("boxes", "twins", "labels") if (x := getattr(collection, key)) is not None},
    )
    arrays = ("globals", "regions", "boxes", "scores", "mask", "classes")
    moved = {key: x[rows] for key in arrays if (x := getattr(features, key)) is not None}
    other = replace(prepared, collection=collection, features=replace(features, folder=Path(), **moved), _text={})
    return with_text_features(other)


def with_permuted_labels(prepared: Prepared) -> Prepared:
    """Return the data with the labels of each test image moved half of the test split further."""
    collection, test = prepared.collection, prepared.collection.splits["test"]
    assert collection.labels is not None
    labels = collection.labels.copy()
    labels[np.roll(test, len(test) // 2)] = labels[test]  # twins, which are neighbours, have the same labels
    return replace(prepared, collection=replace(collection, labels=labels))


def with_text_features(prepared: Prepared) -> Prepared:
    """Return the data as if a text encoder that shares a space with the backbone had encoded the captions.

    The features of a caption are those of its image with noise of a third of their deviation in training.
    """
    image_of, rows = prepared.collection.image_of, prepared.features.globals
    images = rows[image_of].astype(np.float32)
    noise = np.random.default_rng(SEED).standard_normal(images.shape, np.float32)
    noise *= rows[prepared.collection.splits["train"]].std(axis=0) / 3
    manifest = TextManifest(encoder="features of images", identity={}, captions_sha="")
    return replace(prepared, texts=TextFeatures(Path(), manifest, images + noise, np.arange(len(image_of))))


class _DatasetTrial:
    def __init__(self, dataset: Configured[Dataset], data: Path) -> None:
        self.dataset, self.data = dataset, data
        try:
            self._loaded: Collection | BadInput = load_collection(dataset, data)
        except BadInput as error:
            self._loaded = error

    @property
    def collection(self) -> Collection:
        if isinstance(self._loaded, BadInput):
            raise self._loaded
        return self._loaded

    def rows(self) -> list[int]:
        """The first, middle and last image of each split."""
        splits = [self.collection.splits[name] for name in SPLITS]
        return [int(rows[k]) for rows in splits if len(rows) for k in sorted({0, len(rows) // 2, len(rows) - 1})]

    def front_end(self) -> FrontEnd:
        specs = default_specs(self.dataset)
        return FrontEnd.open(specs["backbone"], specs["regions"], self.collection)

    def loads(self) -> None:
        _ = self.collection  # which refuses every inconsistency

    def deterministic(self) -> None:
        first, again = self.collection, load_collection(self.dataset, self.data)
        for what, value in (
            ("image ids", lambda c: list(c.images.ids)),
            ("captions and splits", Collection.split_sha),
            ("boxes, twins or labels", Collection.extras_sha),
            ("digests of images", lambda c: [c.images.digest(row) for row in self.rows()]),
        ):
            if value(first) != value(again):
                raise Broken(
                    f"the {what} differ when the dataset is loaded again; they must be the same, in the same order"
                )

    def readable(self) -> None:
        images = self.collection.images
        for row in [] if isinstance(images, FeatureFiles) else self.rows():
            once, again = ((x.mode, images.digest(row), x.tobytes()) for x in (images.read(row), images.read(row)))
            if once[0] != "RGB":
                raise Broken(f"image {images.ids[row]} is read as {once[0]}; give 8-bit RGB")
            if once != again:
                raise Broken(f"pixels or digest of image {images.ids[row]} differ when it is read again")

    def extracts(self) -> None:
        front_end, rows = self.front_end(), range(min(4, len(self.collection.images.ids)))
        for row in rows:
            if isinstance(error := front_end.read(self.collection, row), UnreadableImage):
                raise error
        for name, values in front_end.features_at(self.collection, rows).items():
            if not np.isfinite(values).all():
                raise Broken(f"{name} of the first images are not finite")

    def empty(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.dataset.build().load(Path(folder))  # a dataset that needs no files may load
            except BadInput as error:
                if "\n" in str(error):
                    raise Broken(f"the error has several lines, the first is {str(error).splitlines()[0]}") from error
            except (Exception, SystemExit) as error:
                what = python_error(error, file_of(self.dataset.plugin.cls))
                raise Broken(f"{what}; raise BadInput with a sentence that names what is missing") from error


def _same(
    a: tuple[Embedding, Embedding], b: tuple[Embedding, Embedding], tolerance: float, otherwise: str, advice: str = ""
) -> None:
    for left, right in zip(a, b, strict=True):
        for x, y in zip(_all_tensors(left), _all_tensors(right), strict=True):
            scale = float(x.abs().max()) or 1.0
            gap = float((x - y).abs().max()) / scale if x.shape == y.shape else float("inf")
            if not gap <= tolerance:
                raise Broken(f"{otherwise} (by {gap:.2g} of the largest value){advice}")


def _all_tensors(embedding: Embedding) -> list[torch.Tensor]:
    """Vectors, norms and masks as float tensors."""
    tensors: list[torch.Tensor] = []

    def collect(x: torch.Tensor) -> torch.Tensor:
        tensors.append(x.float())
        return x

    as_levels(embedding).map(collect)
    return tensors
