"""The photographs that Flickr8k and Flickr30K have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cran_bench import BadInput

from ._annotations import read_karpathy, read_list

LISTS = {
    "flickr8k": ("Flickr_8k.{}Images.txt", "Flickr8k_text/Flickr_8k.{}Images.txt"),
    "flickr30k": ("{}.txt",),
}
BOTH = ("train", "test")


def overlap(members: Mapping[str, Sequence[str]], other: str, data: Path) -> str:
    """Return a note on the photographs in common, with their number if the split of the other dataset is below `data`.

    Args:
        members: file names of the images of each split.
        other: the dataset to compare with, `flickr8k` or `flickr30k`.
        data: folder of the datasets.
    """
    counted = ""
    with suppress(BadInput, OSError):  # the other dataset need not be complete
        file, splits = _splits(data / other, other)
        own, theirs = ({split: _numbers(one[split]) for split in BOTH} for one in (members, splits))
        counted = (
            f": {len(own['test'] & theirs['train']):,} of {len(own['test']):,} test images are in the training split "
            f"of {other}, and {len(theirs['test'] & own['train']):,} of its {len(theirs['test']):,} test images in "
            f"this one (matched by the numbers of the photographs in {file})"
        )
    return f"the photographs of Flickr8k are part of Flickr30K{counted}; do not train on one and test on the other"


def _splits(folder: Path, name: str) -> tuple[str, dict[str, list[str]]]:
    path = folder / f"dataset_{name}.json"
    if path.is_file():
        images = read_karpathy(path, name)
        return path.name, {split: [image.name for image in images if image.split == split] for split in BOTH}
    pattern = next((p for p in LISTS[name] if (folder / p.format("test")).is_file()), LISTS[name][0])
    return pattern.format("*"), {split: read_list(folder / pattern.format(split)) for split in BOTH}


def _numbers(names: Iterable[str]) -> set[str]:
    """Flickr's numbers of photographs: 1000268201 of ``1000268201_693b08cb0e.jpg`` and of ``1000268201.jpg``."""
    return {PurePosixPath(name).stem.partition("_")[0] for name in names}
