"""Load datasets and their features, which all methods of a run share."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from cran_bench.dataset import Collection, Dataset
from cran_bench.errors import BadInput, file_of, one_sentence, place
from cran_bench.frontend.catalogue import open_backbone, open_proposer
from cran_bench.frontend.extraction import extract
from cran_bench.frontend.features import MANIFEST, Features, load_features, prepared, read_manifest
from cran_bench.frontend.front_end import (
    FrontEnd,
    files_of,
    is_at_hand,
    is_embedded,
    proposer_identity,
    without_folders,
)
from cran_bench.frontend.text.vectors import vector_source
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.machine.progress import say
from cran_bench.machine.storage import canonical_json, slug
from cran_bench.needs import Needing, described, missing
from cran_bench.protocols import Unit
from cran_bench.registry import Configured
from cran_bench.split import Split


@dataclass(frozen=True)
class Prepared:
    """A dataset with its features, which all methods of a run share.

    Attributes:
        vectors: spec of the word vectors.
    """

    dataset: Configured[Dataset]
    collection: Collection
    features: Features
    vectors: str
    _text: dict[Unit, TextFrontEnd | None] = field(default_factory=dict)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything about data and front end that determines a fit, as JSON."""
        return {
            "split": self.collection.split_sha(),
            "extras": self.collection.extras_sha(),
            "features": self.features.fingerprint(),
            "vectors": vector_source(self.vectors).identity(),
        }

    def text(self, fit_unit: Unit) -> TextFrontEnd | None:
        """The text front end, fitted on the training texts of a unit; None if there are none."""
        if fit_unit not in self._text:
            texts, _ = self.collection.texts_of(self.collection.splits["train"], fit_unit)
            self._text[fit_unit] = TextFrontEnd.fit(texts, self.vectors) if texts else None
        return self._text[fit_unit]

    def split(self, name: str, unit: Unit, device: torch.device, fit_unit: Unit | None = None) -> Split:
        """A split with texts of `unit`, seen through a text front end fitted on training texts of `fit_unit`."""
        return Split(name, unit, self.collection, self.features, self.text(fit_unit or unit), device)

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
        for side, opened in front_end.identity().items():
            own_boxes = side == "proposer" and made[side]["name"] == "boxes"
            other = [key for key, value in made[side].items() if not own_boxes and opened.get(key) != value]
            if other:
                raise BadInput(
                    f"this front end differs from {self.features.label} in the {side}'s {other[0]}: "
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


def prepare(
    dataset: Configured[Dataset],
    data: Path,
    cache: Path,
    backbone: str | None = None,
    regions: str | None = None,
    vectors: str = "ppmi-svd",
    force: bool = False,
    skip_bad: bool = False,
) -> Prepared:
    """Load a dataset and extract its features below `cache`; finished features are reused.

    Raises:
        BadInput: data, specs or images are not usable.
    """
    collection, defaults = _load(dataset, data, vectors)
    plan = _front_end(collection, defaults, backbone, regions).plan(collection, _features_root(cache, dataset))
    features = extract(plan, force=force, skip_bad=skip_bad)
    return _made(dataset, collection, features, vectors)


def check(
    dataset: Configured[Dataset],
    data: Path,
    cache: Path,
    backbone: str | None = None,
    regions: str | None = None,
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
            return "\n".join([*lines, f"missing: {len(absent)} of {len(needs)}"]), False
    collection, defaults = _load(dataset, data, "ppmi-svd")
    lines.append(collection.describe())
    plan = _front_end(collection, defaults, backbone, regions).plan(collection, _features_root(cache, dataset))
    forecast, has_room = plan.forecast()
    return "\n".join([*lines, forecast]), has_room


def _front_end(
    collection: Collection, defaults: Mapping[str, Any], backbone: str | None, regions: str | None
) -> FrontEnd:
    images = backbone or defaults["backbone"]
    # Precomputed features cannot embed crops, so they come without regions unless the user names some.
    regions = regions or ("none" if images.startswith("npy:") else defaults["regions"])
    return FrontEnd.open(images, regions, collection)


def find_prepared(
    dataset: Configured[Dataset],
    data: Path,
    cache: Path,
    backbone: str | None = None,
    regions: str | None = None,
    vectors: str = "ppmi-svd",
) -> Prepared:
    """Load a dataset with the prepared features that match the specs, or prepare it if there are none.

    A spec that is None matches any features; one whose file is missing matches features by their label.

    Raises:
        BadInput: several prepared features match, or those that match are not usable.
    """
    root = _features_root(cache, dataset)
    collection, _ = _load(dataset, data, vectors)
    folders = [folder for folder in prepared(root) if _is_made_with(folder, backbone, regions, collection)]
    if not folders:
        return prepare(dataset, data, cache, backbone, regions, vectors)
    if len(folders) > 1:
        ways = "; ".join(
            f"--backbone '{made['images_with']}' --regions '{made['regions_with']}'"
            for made in map(read_manifest, folders)
        )
        raise BadInput(f"{dataset.label} has {len(folders)} sets of prepared features; choose one: {ways}")
    features = load_features(folders[0], collection.images.ids)
    if _images_changed(collection, features):
        raise BadInput(
            f"the images of {dataset.label} have changed since their features were extracted: "
            f"run cran-bench prepare '{dataset.label}' --force with the same specs"
        )
    return _made(dataset, collection, features, vectors)


def load_prepared(dataset: Configured[Dataset], data: Path, folder: Path, vectors: str) -> Prepared:
    """Load a dataset with the features in `folder`, which `prepare` or `find_prepared` has accepted.

    Raises:
        BadInput: data or features cannot be read here, or belong to different images.
    """
    collection, _ = _load(dataset, data, vectors)
    features = load_features(folder, collection.images.ids)
    return Prepared(dataset, collection.without(features.failed), features, vectors)


def _made(dataset: Configured[Dataset], collection: Collection, features: Features, vectors: str) -> Prepared:
    usable = collection.without(features.failed)
    say(usable.describe())
    for remark in collection.remarks:
        say(f"  {remark}")
    if features.failed:
        say(f"  {len(features.failed)} images could not be read when features were extracted and are left out")
    return Prepared(dataset, usable, features, vectors)


def _images_changed(collection: Collection, features: Features) -> bool:
    """Whether images changed since extraction; files are read again only if one is newer than the features."""
    newest = collection.images.newest()
    if newest is not None and newest <= (features.folder / MANIFEST).stat().st_mtime:
        return False
    return collection.images_sha(collection.digests()) != str(features.manifest["images_sha"])


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
    vector_source(vectors).identity()  # reports a wrong spec now, not after an extraction or in every row
    return load_collection(dataset, data), default_specs(dataset)


def _is_made_with(folder: Path, backbone: str | None, regions: str | None, collection: Collection) -> bool:
    """Whether features match the specs: by content, or by label if the file of a spec is missing."""
    made = read_manifest(folder)
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


def _features_root(cache: Path, dataset: Configured[Dataset]) -> Path:
    return cache / "features" / slug(dataset.label)
