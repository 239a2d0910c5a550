"""Your own data: a folder of images, and a CSV or JSON Lines file with their captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cran_bench import SPLITS, BadInput, Collection, Need, first_of, register_dataset

from ._annotations import Photographs, check_images, check_name, exists, limited, make_collection, random_split
from ._captions import ALIASES, caption_rows
from ._contrasts import own_need, with_contrasts
from ._judgments import qrels_needs, with_qrels

METADATA = ("metadata.jsonl", "metadata.csv")
FILES = ("captions.csv", "captions.tsv", "captions.txt", "captions.jsonl", *METADATA)
WANTED = f"{', '.join(FILES[:-1])} or {FILES[-1]}"
FOLDERS = ("images", "Images")


@register_dataset("folder", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Folder(Photographs):
    """Your images and captions: ``cran-bench run -d folder --data DIR``.

    DIR contains the images and a list of captions, the first that exists of

    - ``captions.csv``, ``captions.tsv`` or ``captions.txt``: a table whose first line names the columns `image` and
      `caption` (or `caption1`, `caption2`, ...) and, optionally, `split`, as in Kaggle's Flickr8k;
    - ``captions.jsonl``: one object with these keys per line; `captions` may be a list;
    - ``metadata.jsonl`` or ``metadata.csv`` of Hugging Face, with `file_name` and `text`, in DIR or in the folders of
      the splits below it.

    `file` may also name a JSON file in Karpathy's format.  An image is a path below DIR, or below ``images/`` or
    ``Images/`` in it, and may be on several lines.  The splits are train, val and test; if no split is given, images
    are split at random (80/10/10).  With a test split only, methods that need no fit run, and fits of
    another dataset: ``cran-bench run -d flickr8k --test-on folder --test-data DIR``.

    ``i2t.qrels`` and ``t2i.qrels`` in DIR, in TREC's format and with the ids that ``cran-bench export rankings --trec``
    writes, give test images and captions right answers beyond their own.

    Attributes:
        file: name of the list below DIR; empty for those above.
        images: folder below DIR to which image paths are relative.
        seed: seed of the random split.
        name: name of the data in tables.
    """

    file: str = ""
    images: str = "."
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.name)
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")

    def needs(self, data: Path) -> list[Need]:
        captions = Need(self.file or WANTED, next(iter(self._lists(data)), None), "write one: cran-bench info folder")
        return [captions, *qrels_needs(data), own_need(data)]

    def load(self, data: Path) -> Collection:
        lists = self._lists(data)
        if not lists:
            raise BadInput(
                f"there is no {self.file or WANTED} in {data}; give the folder of your data with --data "
                "(see cran-bench info folder)"
            )
        captions: dict[str, list[str]] = {}
        split_of: dict[str, str] = {}
        listed: list[str] = []
        for path, split_of_list in lists.items():
            below = f"{path.parent.name}/" if split_of_list else ""
            for where, name, texts, own_split in caption_rows(path):
                image, split = below + name, own_split or split_of_list
                if not name:
                    raise BadInput(f"{where}: the image is empty; write its path below {data / self.images}")
                if not any(text.strip() for text in texts):
                    raise BadInput(f"{where}: {image} has no caption; write one or remove the line")
                if split_of.setdefault(image, split) != split:
                    raise BadInput(
                        f"{where}: {image} is in split '{split}' here but in '{split_of[image]}' on an earlier line; "
                        "choose one"
                    )
                own = [text.strip() for text in texts if text.strip()]
                captions.setdefault(image, []).extend(own)
                listed += [image] * len(own)
        path = next(iter(lists))
        path = path if len(lists) == 1 else data / "*" / path.name
        kept = limited(self._split(path, split_of), self.limit)
        names = [name for split in SPLITS for name in kept[split]]
        if not names:
            raise BadInput(f"{path} names no image; write an image and a caption on each line")
        roots = [data / folder for folder in ((".", *FOLDERS) if self.images == "." else (self.images,))]
        root = next((folder for folder in roots if exists(folder / names[0])), roots[0])
        check_images(names, path, root)
        made, members = make_collection("folder", root, kept, captions), set(names)
        order = [name for name in names for _ in captions[name]]
        made = replace(made, as_listed=order == [image for image in listed if image in members])
        return with_contrasts(with_qrels(made, data, self.limit is not None), data, self.limit)

    def _lists(self, data: Path) -> dict[Path, str]:
        """The list of captions, or those of the splits' folders, each with the split of its images or ''."""
        path = first_of(data, *((self.file,) if self.file else FILES))
        if path and path.is_file():
            return {path: ""}
        folders = sorted(data.iterdir()) if data.is_dir() and not self.file else []
        splits = {folder: ALIASES.get(folder.name.lower(), folder.name.lower()) for folder in folders}
        found = {first_of(folder, *METADATA): split for folder, split in splits.items() if split in SPLITS}
        return {path: split for path, split in found.items() if path}

    def _split(self, path: Path, split_of: Mapping[str, str]) -> dict[str, list[str]]:
        without = [image for image, split in split_of.items() if not split]
        if without and len(without) < len(split_of):
            raise BadInput(
                f"{path}: {len(without)} of {len(split_of)} images have no split, the first is {without[0]}; "
                "give a split for every image or for none"
            )
        if not without:
            return {split: [image for image, own in split_of.items() if own == split] for split in SPLITS}
        if len(without) < 10:
            raise BadInput(
                f"{path} has {len(without)} images, but a random split needs at least 10; give a split for every image"
            )
        rows = random_split(len(without), len(without) // 10, self.seed)
        return {split: [without[k] for k in sorted(rows[split])] for split in SPLITS}
