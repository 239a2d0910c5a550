"""Load datasets and their features, which all methods of a run share."""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from cran_bench.dataset import Collection, Dataset
from cran_bench.errors import BadInput, NotReady, file_of, one_sentence, place
from cran_bench.frontend.catalogue import open_backbone, open_proposer, open_text_encoder
from cran_bench.frontend.extraction import extract, features_at, image_digests
from cran_bench.frontend.features import MANIFEST, Features, declare, ids_sha, load_features, prepared, read_digests
from cran_bench.frontend.front_end import (
    ExtractionPlan,
    FrontEnd,
    differing,
    files_of,
    is_at_hand,
    is_embedded,
    proposer_identity,
    without_folders,
)
from cran_bench.frontend.labels import LabelSource, fit_source
from cran_bench.frontend.text.encoding import (
    TextFeatures,
    encode,
    encoded_at,
    forecast_texts,
    given_documents,
    load_texts,
    texts_at,
)
from cran_bench.frontend.text.vectors import VectorFile, vector_source
from cran_bench.frontend.text.words import TOKENIZER_VERSION, TextFrontEnd, tokenize
from cran_bench.frontend.trained_on import exposures, noted
from cran_bench.machine.ledger import DRY_RUN, noted_sha256, read_sealed, write_sealed
from cran_bench.machine.progress import say
from cran_bench.machine.storage import canonical_json, sha256_json
from cran_bench.needs import Needing, described, missing
from cran_bench.protocols import Unit
from cran_bench.records.schema import TESTED_ON, FittedOn
from cran_bench.registry import Configured
from cran_bench.running.materials import MATERIALS, overview
from cran_bench.split import Split

REMARKS = 3
"""To be raised with every change of the remarks on images and captions, which are kept in the cache."""

SOURCES = ("schema", "images_sha", "ids_sha", "backbone", "proposer", "failed")  # keys of a features manifest

_MADE_BY = {"array": "text", "globals": "backbone", "regions": "backbone regions"}  # roles of the encoders of an array
_MADE_BY = {**_MADE_BY, "boxes": "regions", "scores": "regions", "mask": "regions", "classes": "regions"}
F = TypeVar("F", Features, TextFeatures)


@dataclass(frozen=True)
class Prepared:
    """A dataset with its features, which all methods of a run share.

    Attributes:
        vectors: spec of the word vectors.
        texts: the captions' features by a text encoder, or None.
        test_on: another dataset, whose test split is ranked in place of this one's; see `tested_on`.
    """

    dataset: Configured[Dataset]
    collection: Collection
    features: Features
    vectors: str
    texts: TextFeatures | None = None
    _text: dict[Unit, TextFrontEnd | None] = field(default_factory=dict)
    test_on: Prepared | None = None
    _val: NDArray[np.int64] | None = None

    @property
    def tested(self) -> Prepared:
        """The data whose test split is ranked."""
        return self.test_on or self

    @property
    def label(self) -> str:
        """The dataset's label, with that of the other if its test split is ranked: ``flickr8k, tested on folder``."""
        return self.dataset.label + (TESTED_ON + self.test_on.dataset.label if self.test_on else "")

    @property
    def remarks(self) -> list[str]:
        """What is noted about the data; the last line is on the overlap with the other dataset, if there is one."""
        if self.test_on is None or self.fitted_on is None:
            return [*self.collection.remarks]
        other, test = self.test_on.collection, self.test_on.collection.splits["test"]
        overlap = self.fitted_on.remark(len(test), len(other.captions_of(test)[0]))
        return [*self.collection.remarks, *other.remarks, overlap]

    def tested_on(self, other: Prepared) -> Prepared:
        """The same data, vocabulary, idf and word vectors, with the test split of another dataset.

        Raises:
            BadInput: the two have features of different backbones, regions or dimensions, or different word vectors.
                The other may lack regions, which methods that need them report.
        """
        mine, its = self.features.manifest, other.features.manifest
        sides = [side for side in ("backbone", "proposer") if its[side]["name"] != "none"]
        wrong = differing(*({side: _comparable(made[side]) for side in sides} for made in (mine, its)))
        shapes, others = ({name: about["shape"][1:] for name, about in made["arrays"].items()} for made in (mine, its))
        wrong += [f"the shape of {name}" for name in shapes.keys() & others.keys() if shapes[name] != others[name]]
        if self.identity["vectors"] != other.identity["vectors"]:
            wrong.append(f"the word vectors ({self.vectors} and {other.vectors})")
        if self.collection.has_words != other.collection.has_words:
            wrong.append("their texts, which are features in one of them and captions in the other")
        encoders = [data.texts and data.texts.manifest.identity for data in (self, other)]
        if encoders[0] != encoders[1]:
            wrong.append("the text encoder")
        elif len({bool(len(given_documents(data.texts))) for data in (self, other) if data.texts}) > 1:
            wrong.append("the features of documents, which are given for one of them only")
        if wrong:
            raise BadInput(
                f"{self.dataset.label} has the features {self.features.label} and {other.dataset.label} "
                f"{other.features.label}, which differ in {' and '.join(sorted(wrong))}: a fit is tested with the "
                "features that it was made with, prepare both with the same --backbone, --regions and --text-encoder"
            )
        return replace(self, test_on=other)

    @cached_property
    def with_val_in_train(self) -> Prepared:
        """The same data with the images of validation in the training split as well, for a last fit."""
        splits = self.collection.splits
        both = {**splits, "train": np.concatenate([splits["train"], splits["val"]]), "val": np.empty(0, np.int64)}
        return replace(self, collection=replace(self.collection, splits=both), _text={}, _val=splits["val"])

    @cached_property
    def fitted_on(self) -> FittedOn | None:
        """This data as the record of a test on another dataset names it, with the overlap of the two; else None."""
        if self.test_on is None:
            return None
        train, val, images = {*self._images("train")}, {*self._images("val")}, self.test_on._images("test")
        known = {*text.vocabulary} if (text := self.text("captions")) else set()
        other = self.test_on.collection
        texts = other.captions_of(other.splits["test"])[0] if other.has_words else []
        captions = [tokenize(caption) for caption in texts]
        return FittedOn.model_validate(
            {
                **{name: sha for name, sha in self.digests.items() if name != "labels_sha"},
                "label": self.dataset.label,
                "in_train": sum(image in train for image in images),
                "in_val": sum(image in val for image in images),
                "words": sum(map(len, captions)),
                "unknown_words": sum(word not in known for words in captions for word in words),
                "unknown_captions": sum(map(known.isdisjoint, captions)),
            }
        )

    def _images(self, split: str) -> list[str]:
        """The digests of the images of a split: those noted with the features, computed again where they are lost."""
        noted, images = read_digests(self.features.folder), self.collection.images
        is_whole = len(noted) == len(images.ids)
        return [noted[row] if is_whole else images.digest(row) for row in self.collection.splits[split].tolist()]

    @cached_property
    def digests(self) -> dict[str, str]:
        """The sha256 by which a record names the data and its features, as in `DataInfo`."""
        extras = [not self.collection.has_words and self.collection.text_features_sha()]
        extras.append(self.collection.has_words and self.identity["vectors"].get("sha256"))
        extras += [self.texts.manifest.sources_sha()] if self.texts else []
        return {
            "split_sha": self.collection.split_sha(),
            "features_sha": self.features.fingerprint(),
            "sources_sha": sha256_json({key: self.features.manifest[key] for key in SOURCES}),
            "images_sha": self.features.manifest["images_sha"],
            "extras_sha": sha256_json(extras) if any(extras) else "",
            **({"labels_sha": self.collection.labels_sha()} if self.collection.labels is not None else {}),
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything about data and front end that determines a fit, as JSON."""
        return {
            "split": self.collection.split_sha(),
            "extras": self.collection.extras_sha(),
            "features": self.features.fingerprint(),
            "vectors": _identity(self.vectors),
            **({"texts": [self.texts.manifest.sources_sha(), self.texts.manifest.sha256]} if self.texts else {}),
            **({} if self.collection.has_words else {"text_features": self.collection.text_features_sha()}),
        }

    @property
    def trained_on(self) -> dict[str, list[str] | None]:
        """What the encoders were trained on, by role, as declared for these features or for those that are tested."""
        own = noted(self.features.manifest) | ({"text": self.texts.manifest.trained_on} if self.texts else {})
        if self.test_on is None:
            return own
        both = {role: (own.get(role), names) for role, names in {**own, **self.test_on.trained_on}.items()}
        known = {role: [names for names in some if names is not None] for role, some in both.items()}
        return {role: sorted({*itertools.chain(*some)}) if some else None for role, some in known.items()}

    def text(self, fit_unit: Unit) -> TextFrontEnd | None:
        """The text front end, fitted on the training texts of a unit; None if there are none."""
        if not self.collection.has_words:
            return None
        if fit_unit not in self._text:
            texts, _ = self.collection.texts_of(self.collection.splits["train"], fit_unit)
            self._text[fit_unit] = TextFrontEnd.fit(texts, self.vectors) if texts else None
        return self._text[fit_unit]

    @cached_property
    def _source(self) -> Callable[[str, int], LabelSource]:
        """Finds clusters or keywords of the training texts, each once; see `fit_source`."""
        return functools.cache(functools.partial(fit_source, self.collection))

    def split(
        self, name: str, unit: Unit, device: torch.device, fit_unit: Unit | None = None, used: set[str] | None = None
    ) -> Split:
        """A split with texts of `unit`, seen through a text front end fitted on training texts of `fit_unit`.

        The roles of the encoders whose features are read from it are added to `used`.
        """
        of, used = self.tested if name == "test" else self, set() if used is None else used
        features, texts = _noting(of.features, used), of.texts and _noting(of.texts, used)
        rows = self._val if name == "val" else None
        words, sources = self.text(fit_unit or unit), self._source
        return Split(name, unit, of.collection, features, words, device, rows, encoded=texts, sources=sources)

    def picture(self, image: Image, front_end: FrontEnd, device: torch.device) -> Split:
        """A split of one image from outside the dataset, with an empty text."""
        features = Features(Path(), {}, **front_end.features_of(image))
        rows = np.zeros(1, dtype=np.int64)
        return Split("test", "captions", self.collection, features, self.text("captions"), device, rows, [""])

    def front_end(self, backbone: str | None, regions: str | None) -> FrontEnd:
        """The front end of these features, for other images; regions that come with the data are left out.

        Raises:
            BadInput: its files are missing, or the features were computed elsewhere.
        """
        made = self.features.manifest
        images, regions = backbone or made["images_with"], regions or made["regions_with"]
        regions = "none" if regions == "boxes" else regions
        if images.startswith(("npy:", "data")) or regions.startswith(("npy:", "data")):
            raise BadInput(
                f"{self.dataset.label} has features computed elsewhere ({self.features.label}), which a new picture "
                "lacks: search with a sentence, or prepare with a network"
            )
        for option, spec in (("--backbone", images), ("--regions", regions)):
            if not all(Path(file).exists() for file in files_of(spec)):
                raise BadInput(
                    f"a new picture needs the front end of the features, {self.features.label}: "
                    f"give {option} with the path of its file"
                )
        front_end = FrontEnd.open(images, regions, self.collection)
        own_boxes = made["proposer"]["name"] == "boxes"
        for other in differing({**made, "proposer": {}} if own_boxes else made, front_end.identity()):
            raise BadInput(
                f"this front end differs from {self.features.label} in {other}: "
                "give the files and fields with which the features were extracted"
            )
        return front_end

    def find(self, image: str, device: torch.device) -> tuple[Split, int]:
        """A split of the image with the given id and its captions, and the image's row in the collection.

        Raises:
            BadInput: there is no image with that id.
        """
        ids = self.collection.images.ids
        for name, rows in self.collection.splits.items():
            for position, row in enumerate(rows.tolist()):
                if ids[row] == image:
                    return self.split(name, "captions", device).take(np.array([position])), row
        if image in ids:
            raise BadInput(f"image '{image}' of {self.dataset.label} could not be read and is left out")
        close = difflib.get_close_matches(image, ids, n=1)
        known = close[0] if close else ids[int(self.collection.splits["test"][0])]
        raise BadInput(f"{self.dataset.label} has no image '{image}'; did you mean '{known}'?")


def _noting(features: F, used: set[str]) -> F:
    """The same features, as an object that adds to `used` the encoders of those that are read."""
    cls = type(features)

    def read(self: F, name: str) -> Any:
        used.update(_MADE_BY.get(name, "").split())
        return cls.__getattribute__(self, name)

    return cast("F", type(cls.__name__, (cls,), {"__getattribute__": read})(**vars(features)))


def prepare(
    dataset: Configured[Dataset],
    data: Path,
    cache: Path,
    backbone: str | None = None,
    regions: str | None = None,
    vectors: str = "ppmi-svd",
    force: bool = False,
    skip_bad: bool = False,
    text_encoder: str | None = None,
) -> Prepared:
    """Load a dataset and extract its features below `cache`; finished features are reused.

    Raises:
        BadInput: data, specs or images are not usable.
    """
    collection, defaults = _load(dataset, data, vectors)
    texts = _encoded(collection, text_encoder, cache, force)
    plan = _front_end(collection, defaults, backbone, regions).plan(collection, cache)
    digests = image_digests(collection, cache)
    is_new = not (plan.folder(collection.images_sha(digests)) / MANIFEST).exists()
    if is_new and _is_open(defaults, backbone, regions) and any(material.find(data) for material in MATERIALS):
        say(overview(dataset.label, collection, defaults, data, cache))
    features = extract(plan, digests, force=force, skip_bad=skip_bad)
    return _made(dataset, collection, features, vectors, texts, digests, cache)


def check(
    dataset: Configured[Dataset],
    data: Path,
    cache: Path,
    backbone: str | None = None,
    regions: str | None = None,
    text_encoder: str | None = None,
) -> tuple[str, bool]:
    """Report which files are there or missing and where to get them; if none is missing, forecast the extraction.

    Returns:
        Lines to print, and whether all files are there and the disk has enough room.

    Raises:
        BadInput: the data is not usable.
    """
    plugin = dataset.build()
    lines = [f"{dataset.label} below {data}"]
    if isinstance(plugin, Needing):
        needs = plugin.needs(data)
        lines.append(described(needs))
        if absent := missing(needs):
            required = sum(not need.optional for need in needs)
            return "\n".join([*lines, f"missing: {len(absent)} of {required}"]), False
    collection, defaults = _load(dataset, data, "ppmi-svd")
    lines.append(collection.describe())
    if _is_open(defaults, backbone, regions):
        lines += ["", overview(dataset.label, collection, defaults, data, cache), ""]
    plan = _front_end(collection, defaults, backbone, regions).plan(collection, cache)
    forecast, has_room = plan.forecast()
    if text_encoder:
        told, has_more = forecast_texts(collection, open_text_encoder(text_encoder, collection), text_encoder, cache)
        lines, has_room = [*lines, told], has_room and has_more
    return "\n".join([*lines, forecast]), has_room


def _is_open(defaults: Mapping[str, str], backbone: str | None, regions: str | None) -> bool:
    """Whether a front end remains to be chosen: the default is one of photographs, and no spec is given."""
    return backbone is None and regions is None and defaults["regions"] == "grid"


def _front_end(
    collection: Collection, defaults: Mapping[str, Any], backbone: str | None, regions: str | None
) -> FrontEnd:
    images = backbone or defaults["backbone"]
    # Precomputed features cannot embed crops, and through a CLIP crops take five times as long as the images.
    regions = regions or ("none" if images.startswith(("npy:", "clip:")) else defaults["regions"])
    return FrontEnd.open(images, regions, collection)


def find_prepared(
    dataset: Configured[Dataset],
    data: Path,
    cache: Path,
    backbone: str | None = None,
    regions: str | None = None,
    vectors: str = "ppmi-svd",
    text_encoder: str | None = None,
    like: Prepared | None = None,
) -> Prepared:
    """Load a dataset with the features of its images that match the specs, or extract them if there are none.

    A spec that is None matches any features, or with `like` those of the same front end as that data has; boxes that
    come with that data may be missing.  A spec whose file is missing matches features by their label.

    Raises:
        BadInput: several features match, those that match are not usable, images have been replaced and it is not
            clear how their features should be made, or the front end of `like` is not at hand.
    """
    collection, defaults = _load(dataset, data, vectors)
    if like is not None:
        made_with = like.features.manifest
        backbone, regions = backbone or made_with["images_with"], regions or made_with["regions_with"]
        regions = "none" if regions == "boxes" and collection.boxes is None else regions
    texts = _encoded(collection, text_encoder, cache)
    digests = image_digests(collection, cache)
    images_sha, made = collection.images_sha(digests), prepared(cache)
    folders = [
        folder
        for folder, manifest in made.items()
        if manifest["images_sha"] == images_sha and _is_made_with(manifest, backbone, regions, collection)
    ]
    if len(folders) > 1:
        ways = list(dict.fromkeys(_way(made[folder]) for folder in folders))
        alike = f" (with the path of the file, as some have one name, or delete one of {', '.join(map(str, folders))})"
        raise BadInput(
            f"{dataset.label} has {len(folders)} sets of prepared features; choose one: {'; '.join(ways)}"
            + alike * (len(ways) < len(folders))
        )
    if folders:
        if not DRY_RUN.get():
            declare(folders[0], {role: spec for role, spec in (("backbone", backbone), ("regions", regions)) if spec})
        features = load_features(folders[0], collection.images.ids)
    else:
        try:
            plan = _front_end(collection, defaults, backbone, regions).plan(collection, cache)
        except BadInput as error:
            if like is None:
                raise
            own = [f"{m['images_with']} + {m['regions_with']}" for m in made.values() if m["images_sha"] == images_sha]
            raise BadInput(
                f"fits of {like.dataset.label} are tested with its features {like.features.label}, which "
                f"{dataset.label} lacks (it has {' and '.join(own) or 'none'}) and which cannot be extracted here: "
                f"{error}"
            ) from error
        _compare(plan, digests, made, given=bool(backbone and regions))
        if DRY_RUN.get():
            raise NotReady(plan.forecast()[0])
        features = extract(plan, digests)
    return _made(dataset, collection, features, vectors, texts, digests, cache)


def at_hand(
    dataset: Configured[Dataset],
    data: Path,
    cache: Path,
    backbone: str | None = None,
    regions: str | None = None,
    vectors: str = "ppmi-svd",
    text_encoder: str | None = None,
) -> Prepared:
    """Load a dataset with features that are in the cache, and with zeros in place of others; nothing is extracted.

    Its digests, except those of features that are missing, and estimates of time and memory are those of the data as
    `prepare` makes it.  No method may be fitted on it, unless all features are there.

    Raises:
        BadInput: data or specs are not usable.
    """
    collection, defaults = _load(dataset, data, vectors)
    texts = None
    if text_encoder:
        texts = texts_at(collection, open_text_encoder(text_encoder, collection), text_encoder, cache)
    plan = _front_end(collection, defaults, backbone, regions).plan(collection, cache)
    features = features_at(plan, image_digests(collection, cache))
    return Prepared(dataset, collection.without(features.failed), features, vectors, texts)


def find_tested(
    own: tuple[Configured[Dataset], Path],
    other: tuple[Configured[Dataset], Path] | None,
    cache: Path,
    specs: tuple[str | None, str | None, str, str | None],
) -> Prepared:
    """A dataset in its folder as `find_prepared` finds it, tested on another one if that is given.

    `specs` are those of the backbone, the regions, the word vectors and the text encoder.
    """
    prepared = find_prepared(own[0], own[1], cache, *specs)
    if other is None:
        return prepared
    prepared = prepared.tested_on(find_prepared(other[0], other[1], cache, *specs, like=prepared))
    say(f"  {prepared.remarks[-1]}")
    return prepared


def _comparable(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """The identity of a backbone or proposer, without the contents of what comes with the data, which differ."""
    return {"name": identity["name"]} if identity["name"] in ("boxes", "data") else identity


def _way(made: Mapping[str, Any]) -> str:
    return f"--backbone '{made['images_with']}' --regions '{made['regions_with']}'"


def _compare(plan: ExtractionPlan, digests: list[str], made: Mapping[Path, Mapping[str, Any]], given: bool) -> None:
    """Say how features of images with the same ids differ from those of a plan.

    Raises:
        BadInput: all of them are of other images and made with other specs, and no specs are `given`.
    """
    ids, way = plan.collection.images.ids, _way(plan.specs)
    others = [folder for folder, about in made.items() if about["ids_sha"] == ids_sha(ids)]
    for folder in sorted(others, key=lambda folder: _way(made[folder]) != way)[:1]:
        then = read_digests(folder)
        changed = [name for name, old, new in zip(ids, then, digests, strict=False) if old != new]
        what = [f"{len(changed)} of {len(ids)} images, the first is {changed[0]}"] if changed else []
        what += differing(made[folder], plan.identity)
        differ = " and ".join(what) or "the images"
        told = f"{folder} has features of other data with the same image ids: they differ in {differ}"
        if _way(made[folder]) == way:
            say(told)
        elif not given and plan.collection.images_sha(digests) not in {made[other]["images_sha"] for other in others}:
            ways = "; ".join(dict.fromkeys([*(_way(made[other]) for other in others), way]))
            raise BadInput(f"{told}; choose how to extract those of {plan.collection.name}: {ways}")


def load_prepared(
    dataset: Configured[Dataset], data: Path, folder: Path, vectors: str, texts: Path | None = None
) -> Prepared:
    """Load a dataset with the features in `folder`, and of `texts`, which `prepare` or `find_prepared` has accepted.

    Raises:
        BadInput: data or features cannot be read here, or belong to different images.
    """
    collection, _ = _load(dataset, data, vectors)
    features = load_features(folder, collection.images.ids)
    encoded = load_texts(texts, collection) if texts else None
    return Prepared(dataset, collection.without(features.failed), features, vectors, encoded)


def _made(
    dataset: Configured[Dataset],
    collection: Collection,
    features: Features,
    vectors: str,
    texts: TextFeatures | None,
    digests: list[str],
    cache: Path,
) -> Prepared:
    """Print what was loaded, `digests` being those of its images, and leave out images that could not be read."""
    usable = collection.without(features.failed)
    usable = replace(usable, remarks=[*collection.remarks, *_remarks(usable, digests, cache)])
    say(usable.describe())
    for remark in usable.remarks:
        say(f"  {remark}")
    if features.failed:
        say(f"  {len(features.failed)} images could not be read when features were extracted and are left out")
    made = Prepared(dataset, usable, features, vectors, texts)
    for sentence in exposures(made.trained_on, made.trained_on, dataset.label):
        say(f"  {sentence}: rows that use it are marked")
    return made


def _remarks(collection: Collection, digests: list[str], cache: Path) -> list[str]:
    """What there is to note about the content of images and captions; kept in the cache, as all captions are read."""
    key = [REMARKS, TOKENIZER_VERSION, collection.split_sha(), collection.images_sha(digests)]
    path = cache / "remarks" / f"{sha256_json(key)[:16]}.json"
    noted = read_sealed(path)
    if not noted:
        unknown = _without_known_word(collection) if collection.has_words else ""
        noted = {"lines": [*filter(None, (collection.repeated(digests), unknown))]}
        write_sealed(path, noted)
    return list(noted["lines"])


def _without_known_word(collection: Collection) -> str:
    train, test = (collection.captions_of(collection.splits[split])[0] for split in ("train", "test"))
    known = {word for text in train for word in tokenize(text)}
    count = bool(train) * sum(known.isdisjoint(tokenize(text)) for text in test)
    return f"test captions without any word that occurs in training: {count:,} of {len(test):,}" if count else ""


def load_collection(dataset: Configured[Dataset], data: Path) -> Collection:
    """Load the collection of a dataset, named by the dataset's label.

    Raises:
        BadInput: the data is not usable, or `load` fails or returns something other than a collection.
    """
    cls = dataset.plugin.cls
    with one_sentence(f"{dataset.label} could not be loaded", file_of(cls)):
        collection: object = dataset.build().load(data)
        if not isinstance(collection, Collection):
            raise BadInput(
                f"{place(cls.load)}: load returns a {type(collection).__name__}; return a cran_bench Collection"
            )
        return replace(collection, name=dataset.label)


def default_specs(dataset: Configured[Dataset]) -> Mapping[str, str]:
    """The default specs of `backbone` and `regions` for a dataset.

    Raises:
        BadInput: `defaults` fails or returns something else.
    """
    cls = dataset.plugin.cls
    with one_sentence(f"{dataset.label} has no defaults", file_of(cls)):
        specs: object = dataset.build().defaults()
    if not (
        isinstance(specs, Mapping) and {*specs} == {"backbone", "regions"} and {*map(type, specs.values())} == {str}
    ):
        example = '{"backbone": "pixels", "regions": "grid"}'
        raise BadInput(f"{place(cls.defaults)}: defaults returns {specs!r}; return a spec of each, such as {example}")
    return specs


def _load(dataset: Configured[Dataset], data: Path, vectors: str) -> tuple[Collection, Mapping[str, str]]:
    _identity(vectors)  # reports a wrong spec now, not after an extraction or in every row
    return load_collection(dataset, data), default_specs(dataset)


def _encoded(collection: Collection, text_encoder: str | None, cache: Path, force: bool = False) -> TextFeatures | None:
    if not text_encoder:
        return None
    if not collection.has_words:
        raise BadInput(
            f"the texts of {collection.name} are features, which methods read as those of a text encoder: leave "
            "--text-encoder out"
        )
    encoder = open_text_encoder(text_encoder, collection)
    if DRY_RUN.get():
        if encoded := encoded_at(collection, dict(encoder.identity()), cache):
            return encoded
        raise NotReady(forecast_texts(collection, encoder, text_encoder, cache)[0])
    return encode(collection, encoder, text_encoder, cache, force)


def _identity(vectors: str) -> dict[str, Any]:
    """The identity of word vectors; a file that has not changed is not read again.

    The ledger is asked here, since the fingerprint of a fit covers all code that the word vectors themselves call.
    """
    source = vector_source(vectors)
    if isinstance(source, VectorFile):
        vars(source)["sha256"] = noted_sha256(source.path)
    return source.identity()


def _is_made_with(made: Mapping[str, Any], backbone: str | None, regions: str | None, collection: Collection) -> bool:
    """Whether features with this manifest match the specs: by content, or by label if the file of a spec is missing."""
    images, proposer = backbone or made["images_with"], regions or made["regions_with"]
    if [made["images_with"], made["regions_with"]] != [without_folders(images), without_folders(proposer)]:
        return False
    same = True
    # Specs that the user did not give are opened only if they need no file: a file of that name may have changed.
    if is_at_hand(images) and (backbone or is_embedded(images)):
        same = canonical_json(dict(open_backbone(images, collection).identity())) == canonical_json(made["backbone"])
    if same and is_at_hand(proposer) and (regions or is_embedded(proposer)):
        identity = proposer_identity(open_proposer(proposer, collection))
        same = canonical_json(identity) == canonical_json(made["proposer"])
    return same
