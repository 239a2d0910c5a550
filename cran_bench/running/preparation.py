"""From a dataset's name to its features: what every method of a run shares."""

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
    """A dataset with its features: what every method of a run shares.

    Attributes:
        vectors: spec of the word vectors.
    """

    dataset: Configured[Dataset]
    collection: Collection
    features: Features
    vectors: str
    _text: dict[Unit, TextFrontEnd] = field(default_factory=dict)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """JSON of everything about data and front end that determines a fit."""
        return {
            "split": self.collection.split_sha(),
            "extras": self.collection.extras_sha(),
            "features": self.features.fingerprint(),
            "vectors": vector_source(self.vectors).identity(),
        }

    def text(self, fit_unit: Unit) -> TextFrontEnd:
        """The text front end fitted on the training texts of a unit."""
        if fit_unit not in self._text:
            texts, _ = self.collection.texts_of(self.collection.splits["train"], fit_unit)
            self._text[fit_unit] = TextFrontEnd.fit(texts, self.vectors)
        return self._text[fit_unit]

    def split(self, name: str, unit: Unit, device: torch.device, fit_unit: Unit | None = None) -> Split:
        """A split whose texts are `unit`, seen through a front end fitted on training texts of `fit_unit`."""
        return Split(name, unit, self.collection, self.features, self.text(fit_unit or unit), device)

    def picture(self, image: Image, front_end: FrontEnd, device: torch.device) -> Split:
        """An image that is not of the dataset, as a split of itself with an empty text."""
        features = Features(Path(), {}, **front_end.features_of(image))
        rows = np.zeros(1, dtype=np.int64)
        return Split("test", "captions", self.collection, features, self.text("captions"), device, rows, [""])

    def front_end(self, backbone: str | None, regions: str | None) -> FrontEnd:
        """The front end of these features, for further images; regions that come with the data are left out.

        Raises:
            BadInput: its files are not at hand, or the features were computed elsewhere.
        """
        made = self.features.manifest
        images, regions = backbone or made["images_with"], regions or made["regions_with"]
        regions = "none" if regions == "boxes" else regions
        if images.startswith(("npy:", "data")) or regions.startswith(("npy:", "data")):
            raise BadInput(
                f"{self.dataset.label} has features from elsewhere ({self.features.label}), a new picture has none: "
                "search with a sentence, or prepare with a network"
            )
        for option, spec in (("--backbone", images), ("--regions", regions)):
            if not all(Path(file).exists() for file in files_of(spec)):
                raise BadInput(
                    f"a new picture goes through the front end of the features, {self.features.label}: "
                    f"give {option} with the path of its file"
                )
        front_end = FrontEnd.open(images, regions, self.collection)
        for side, opened in front_end.identity().items():
            own_boxes = side == "proposer" and made[side]["name"] == "boxes"
            other = [key for key, value in made[side].items() if not own_boxes and opened.get(key) != value]
            if other:
                raise BadInput(
                    f"this is another front end than {self.features.label}, the {side}'s {other[0]} differs: "
                    "give the files and fields that the features were made with"
                )
        return front_end

    def find(self, image: str, device: torch.device) -> tuple[Split, int]:
        """One image by its id, as a split of itself and its captions, and its row in the collection.

        Raises:
            BadInput: there is none of that id.
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
    """Load a dataset and extract its features below `cache`, or take them where they are finished.

    Raises:
        BadInput: data, specs or images that are not usable.
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
    """What is there, what is missing and where to get it; where all is there, how long extraction will take.

    Returns:
        Lines to print, and whether nothing is missing, disk neither.

    Raises:
        BadInput: the data that is there is not usable.
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
    images = backbone or defaults["images"]
    # Finished vectors cannot embed crops, so they come without regions unless the user gives some.
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
    """A dataset with the features named by the specs; with no specs, those there are; where there are none, prepare.

    A spec whose file is not at hand names prepared features by their label.

    Raises:
        BadInput: several are prepared and no spec says which, or those named are not usable.
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
        raise BadInput(f"{dataset.label} is prepared in {len(folders)} ways, say which: {ways}")
    features = load_features(folders[0], collection.images.ids)
    if _images_changed(collection, features):
        raise BadInput(
            f"the images of {dataset.label} have changed since their features were extracted: "
            f"run cran-bench prepare '{dataset.label}' --force with the same specs"
        )
    return _made(dataset, collection, features, vectors)


def load_prepared(dataset: Configured[Dataset], data: Path, folder: Path, vectors: str) -> Prepared:
    """A dataset with the features of a folder that `prepare` or `find_prepared` has found usable.

    Raises:
        BadInput: the data or the features are not to be read here, or they are of other images.
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
    """Whether images differ from those extracted; files are read again only where one is newer than the features."""
    newest = collection.images.newest()
    if newest is not None and newest <= (features.folder / MANIFEST).stat().st_mtime:
        return False
    return collection.images_sha(collection.digests()) != str(features.manifest["images_sha"])


def load_collection(dataset: Configured[Dataset], data: Path) -> Collection:
    """What a dataset holds, by its label.

    Raises:
        BadInput: the data is not usable, or `load` fails or gives something else than a collection.
    """
    cls = dataset.plugin.cls
    with one_sentence(f"{dataset.label} could not be loaded", file_of(cls)):
        collection: object = dataset.build().load(data)
        if not isinstance(collection, Collection):
            raise BadInput(f"{place(cls.load)}: load gives a {type(collection).__name__}; give a cran_bench Collection")
        return replace(collection, name=dataset.label)


def default_specs(dataset: Configured[Dataset]) -> Mapping[str, str]:
    """The specs of the front end that suits a dataset, of `images` and of `regions`.

    Raises:
        BadInput: `defaults` fails or gives something else.
    """
    cls = dataset.plugin.cls
    with one_sentence(f"{dataset.label} has no defaults", file_of(cls)):
        specs: object = dataset.build().defaults()
    if not (isinstance(specs, Mapping) and {*specs} == {"images", "regions"} and {*map(type, specs.values())} == {str}):
        example = '{"images": "pixels", "regions": "grid"}'
        raise BadInput(f"{place(cls.defaults)}: defaults gives {specs!r}; give specs of both, such as {example}")
    return specs


def _load(dataset: Configured[Dataset], data: Path, vectors: str) -> tuple[Collection, Mapping[str, str]]:
    vector_source(vectors).identity()  # a wrong spec is said now, not after an extraction or by every row
    return load_collection(dataset, data), default_specs(dataset)


def _is_made_with(folder: Path, backbone: str | None, regions: str | None, collection: Collection) -> bool:
    """Whether features are those of the specs given: by content, or by label where a spec's file is not at hand."""
    made = read_manifest(folder)
    images, proposer = backbone or made["images_with"], regions or made["regions_with"]
    if [made["images_with"], made["regions_with"]] != [without_folders(images), without_folders(proposer)]:
        return False
    same = True
    # What the user did not name is opened again only where it needs no file: a file of that name may be another.
    if is_at_hand(images) and (backbone or is_embedded(images)):
        same = canonical_json(dict(open_backbone(images, collection).identity())) == canonical_json(made["backbone"])
    if same and is_at_hand(proposer) and (regions or is_embedded(proposer)):
        found = proposer_identity(open_proposer(proposer, collection))
        same = canonical_json(found) == canonical_json(made["proposer"])
    return same


def _features_root(cache: Path, dataset: Configured[Dataset]) -> Path:
    return cache / "features" / slug(dataset.label)
