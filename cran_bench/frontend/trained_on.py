"""What encoders and detectors were trained on, and whether that contains the images or captions of a test set."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cran_bench.errors import BadInput
from cran_bench.frontend.sidecar import TRAINED_ON, read_sidecar
from cran_bench.machine.storage import first_bytes
from cran_bench.specs import Spec, parse_spec

UNTRAINED = ("pixels", "grid", "boxes", "selective_search", "none")
"""Names of backbones and proposers that are not trained."""

ROLES = {"backbone": "image backbone", "regions": "region detector", "text": "text encoder"}

CONTAINED = {
    "flickr30k": ("flickr30k", "flickr8k"),
    "flickr8k": ("flickr8k", "flickr30k"),
    "snli": ("flickr30k", "flickr8k"),  # its premises are the captions of Flickr30K
    "coco": ("mscoco", "mscoco[split=random]"),  # train2017, with 35,000 images of val2014
    "coco-train2014": ("mscoco[split=random]",),
    "visual-genome": ("mscoco", "mscoco[split=random]"),  # half of its images are of MS-COCO
}
"""The test sets of which data for training contains images or captions, all or some."""

_TITLES = {
    "flickr30k": "Flickr30K",
    "flickr8k": "Flickr8k",
    "snli": "SNLI",
    "coco": "MS-COCO",
    "coco-train2014": "MS-COCO (train2014)",
    "visual-genome": "Visual Genome",
}
_SPELLINGS = {"flickr-30k": "flickr30k", "flickr-8k": "flickr8k", "ms-coco": "coco", "mscoco": "coco"}
_TEST_SETS = {
    "flickr8k": r"flickr-?8k|\bf8k",
    "flickr30k": r"flickr-?30k|\bf30k",
    "mscoco": r"^(?!.*split=random).*coco",
    "mscoco[split=random]": r"coco.*split=random",
}
"""Labels of datasets, those of VSE++ included, by the test set."""

_PUBLIC = {
    r"imagenet|^torchvision|^paper": ("imagenet",),
    r"coco|^nanodet|^yolox|rcnn|^paper": ("coco",),
    r"\b(all|paraphrase)-(minilm|mpnet|distilroberta|roberta)": ("flickr30k", "snli", "coco-train2014"),
}
"""What public models were trained on, by their names; the last are those of sentence-transformers."""
_NETWORKS = ("onnx", "nanodet", "yolox", "torchvision", "paper", "transformers")


def declared(text: str, before: list[str] | None = None) -> list[str] | None:
    """Return the names of the data on which the encoder or detector of a spec was trained.

    They are those of the option ``trained_on=imagenet|coco``, else of the same field of the JSON file beside an ONNX
    model, else what was declared `before`, else what is known of public models by the name of the file or network, or
    by the names in a folder of Hugging Face: the title of its model card, and `_name_or_path` in config.json.

    Returns:
        The names; [] if it was trained on nothing, None if nothing is known.

    Raises:
        BadInput: a declaration is not a list of names.
    """
    spec = parse_spec(text)
    beside = read_sidecar(Path(spec.argument))
    if TRAINED_ON in spec.options:
        return _names(spec.options[TRAINED_ON].split("|"), f"'{text}'")
    if TRAINED_ON in beside:
        return _names(beside[TRAINED_ON], str(Path(spec.argument).with_suffix(".json")))
    if before is not None or spec.name in UNTRAINED:
        return before or []
    name = _name(spec)
    known = [data for pattern, public in _PUBLIC.items() if re.search(pattern, name) for data in public]
    return known if known and spec.name in _NETWORKS else None


def _name(spec: Spec) -> str:
    """The name of a network with its weights, where the name of a file replaces that of the network it is for."""
    given = (spec.options.get(key, "") for key in ("weights", "detector", "vgg16"))
    files = [file for file in given if "/" in file or Path(file).suffix]
    own = [] if files else [spec.name, spec.argument, *_told(spec)]
    return " ".join(Path(part).stem for part in [*own, *files]).lower().replace("_", "-")


def _told(spec: Spec) -> list[str]:
    """The names by which the files in a folder of Hugging Face call its model."""
    names: list[str] = []
    if spec.name != "transformers":
        return names
    for name, pattern in (("config.json", rb'"_name_or_path": *"([^"]+)"'), ("README.md", rb"(?m)^# (.+)$")):
        if found := re.search(pattern, first_bytes(Path(spec.argument, name), 1 << 16)):
            names.append(found[1].decode("utf-8", "replace").strip())
    return names


def _names(values: Any, where: str) -> list[str]:
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise BadInput(f"{where}: {TRAINED_ON} takes names of data, such as imagenet, coco and flickr30k, or none")
    names = [re.sub(r"[\s_]+", "-", value.strip().lower()) for value in values]
    return [_SPELLINGS.get(name, name) for name in names if name != "none"]


def noted(manifest: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """Return what the manifest of image features says that they were trained on, by role, see `declared`."""
    if TRAINED_ON in manifest:
        return dict(manifest[TRAINED_ON])
    return {role: declared(manifest[key]) for role, key in (("backbone", "images_with"), ("regions", "regions_with"))}


def exposures(trained_on: Mapping[str, Sequence[str] | None], used: Collection[str], dataset: str) -> list[str]:
    """Return a sentence for each encoder that saw images or captions of a test set.

    Args:
        trained_on: the names of the data on which the encoders were trained, by role.
        used: the roles whose features were used.
        dataset: label of the dataset of the test set.
    """
    if not used:  # as in older records
        return []
    known, sentences = containing(dataset), []
    for role in (role for role in ROLES if role in used):
        titles = [_TITLES[data] for data in trained_on.get(role) or () if data in known]
        if titles:
            kind = "captions" if role == "text" else "images"
            what = f"{kind} of {' and '.join(titles)}, among them {kind} of this test set"
            sentences.append(f"the {ROLES[role]} was trained on {what}")
    return sentences


def containing(dataset: str) -> list[str]:
    """Return the names of the known data that contains images or captions of the test set of a dataset."""
    label = dataset.lower().rpartition("tested on ")[2]  # without the dataset of a fit
    tests = {test for test, pattern in _TEST_SETS.items() if re.search(pattern, label)}
    return [data for data, contained in CONTAINED.items() if tests.intersection(contained)]


def described(trained_on: Mapping[str, Sequence[str] | None]) -> str:
    """Return what is declared, in one line: ``backbone trained on imagenet, regions not declared``."""
    lines = []
    for role, names in trained_on.items():
        what = "not declared" if names is None else f"trained on {' and '.join(names) or 'nothing'}"
        lines.append(f"{role} {what}")
    return ", ".join(lines)
