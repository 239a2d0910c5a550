"""Flickr-30K and MS-COCO in their owners' layouts, of any size, with invented pictures and captions.

    python benchmarks/generate.py flickr30k DIR                 # 31,783 images, 158,915 captions
    python benchmarks/generate.py mscoco DIR --images 200
    python benchmarks/generate.py precomp DIR                   # MS-COCO's numbers, features in place of pictures

An image is noise with three patches, one for each of its things; a caption names some of the things among words that
mean nothing.  So every method can learn something, and features have as many dimensions as noise gives them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

THINGS = 60
VOCABULARY = 12_000
CATEGORIES = [k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # MS-COCO leaves out ten

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


def word(number: int) -> str:
    """An invented word for each number."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstv" for vowel in "aeiou"]
    spelled = ""
    while number >= 0:
        number, place = divmod(number, len(syllables))
        spelled = syllables[place] + spelled
        number -= 1
    return spelled + "n"


@dataclass
class Invention:
    """Pictures and captions of so many images; the same for the same seed.

    Attributes:
        images: how many.
        side: of a picture, in pixels.
    """

    images: int
    side: int
    seed: int = 0

    @cached_property
    def things(self) -> NDArray[np.int64]:
        """(images, 3) what is on each."""
        return np.random.default_rng(self.seed).integers(0, THINGS, (self.images, 3))

    @cached_property
    def _words(self) -> list[str]:
        return [word(k) for k in range(THINGS + VOCABULARY)]

    def picture(self, row: int) -> Image.Image:
        """Noise, and a patch of its own colour and texture for each thing."""
        random = np.random.default_rng((self.seed, row))
        values = random.integers(0, 256, (self.side, self.side, 3))
        half = self.side // 2
        for thing, (x, y) in zip(self.things[row].tolist(), random.integers(0, half, (3, 2)).tolist(), strict=True):
            colour = np.random.default_rng(thing).integers(0, 256, 3)
            values[y : y + half, x : x + half] = values[y : y + half, x : x + half] // 4 + 3 * colour // 4
        return Image.fromarray(values.astype(np.uint8))

    def captions(self, row: int, count: int = 5) -> Iterator[str]:
        """Sentences of six to seventeen words, two of them things on the picture."""
        random = np.random.default_rng((self.seed, row, 1))
        for _ in range(count):
            length = int(random.integers(4, 16))
            # the share of a word falls with its rank, as in a language
            ranks = (VOCABULARY ** random.random(length)).astype(int) - 1
            named = random.choice(self.things[row], 2)
            numbers = random.permutation(np.concatenate([named, THINGS + ranks]))
            yield " ".join(self._words[k] for k in numbers.tolist()).capitalize() + " ."


def _shares(images: int, full: int, *parts: int) -> list[int]:
    """The owners' numbers of images, scaled down to `images`; at least twenty each."""
    return [max(20, round(part * images / full)) for part in parts]


def _write_pictures(invention: Invention, path_of: Callable[[int], Path]) -> None:
    for row in range(invention.images):
        path = path_of(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        invention.picture(row).save(path, quality=90)


def _fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


ImagesOption = Annotated[int, typer.Option(min=80, help="How many images.")]
SideOption = Annotated[int, typer.Option(min=8, help="Pixels per side.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Data folder, in which the dataset gets its own.")]


@app.command()
def flickr30k(data: FolderArgument, images: ImagesOption = 31_783, side: SideOption = 64) -> None:
    """Flickr-30K: the token file, the photographs, Karpathy's split and that of Flickr30K Entities."""
    folder, invention = _fresh(data / "flickr30k"), Invention(images, side)
    names = [f"{1_000_000 + 97 * row}.jpg" for row in range(images)]
    _write_pictures(invention, lambda row: folder / "flickr30k-images" / names[row])
    with (folder / "results_20130124.token").open("w") as file:
        for row, name in enumerate(names):
            file.writelines(f"{name}#{k}\t{text}\n" for k, text in enumerate(invention.captions(row)))
    val, test = _shares(images, 31_783, 1014, 1000)
    train = images - val - test - _shares(images, 31_783, 769)[0]
    karpathy = ["train"] * train + ["val"] * val + ["test"] * test
    listed = [
        {"filename": name, "split": split, "imgid": k}
        for k, (name, split) in enumerate(zip(names, karpathy, strict=False))
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": listed}))
    (held,) = _shares(images, 31_783, 1000)
    for split, own in (("test", names[:held]), ("val", names[held : 2 * held]), ("train", names[2 * held :])):
        (folder / f"{split}.txt").write_text("".join(Path(name).stem + "\n" for name in own))


@app.command()
def mscoco(data: FolderArgument, images: ImagesOption = 123_287, side: SideOption = 64) -> None:
    """MS-COCO 2014: photographs and annotations of train2014 and val2014, with categories, and Karpathy's split."""
    folder, invention = _fresh(data / "mscoco"), Invention(images, side)
    (of_train,) = _shares(images, 123_287, 82_783)
    years = ["train2014" if row < of_train else "val2014" for row in range(images)]
    names = [f"COCO_{year}_{row + 1:012}.jpg" for row, year in enumerate(years)]
    _write_pictures(invention, lambda row: folder / years[row] / names[row])
    (folder / "annotations").mkdir()
    number = 0
    for year in ("train2014", "val2014"):
        rows = [row for row in range(images) if years[row] == year]
        listed = [{"id": row + 1, "file_name": names[row]} for row in rows]
        captions, instances = [], []
        for row in rows:
            for text in invention.captions(row, 6 if row % 100 == 0 else 5):
                number += 1
                captions.append({"id": number, "image_id": row + 1, "caption": text})
            instances += [
                {"id": 3 * row + k, "image_id": row + 1, "category_id": CATEGORIES[thing]}
                for k, thing in enumerate(invention.things[row].tolist())
            ]
        categories = [{"id": k, "name": word(k)} for k in CATEGORIES]
        for kind, own in (("captions", captions), ("instances", instances)):
            content = {"images": listed, "annotations": own, "categories": categories}
            (folder / "annotations" / f"{kind}_{year}.json").write_text(json.dumps(content))
    (held,) = _shares(images, 123_287, 5000)
    split_of = {row: "val" for row in range(of_train, of_train + held)}
    split_of |= {row: "test" for row in range(of_train + held, of_train + 2 * held)}
    karpathy = [
        {
            "cocoid": row + 1,
            "filepath": years[row],
            "filename": names[row],
            "split": split_of.get(row, "train" if years[row] == "train2014" else "restval"),
        }
        for row in range(images)
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": karpathy}))


@app.command()
def precomp(
    data: FolderArgument,
    images: ImagesOption = 123_287,
    dim: Annotated[int, typer.Option(min=1, help="Numbers of a feature.")] = 4096,
    regions: Annotated[int, typer.Option(min=0, help="Of an image; 0 for the whole image only.")] = 0,
) -> None:
    """Features of MS-COCO's numbers of images, float16, and captions, in the layout of VSE++: five for each image."""
    folder, invention = _fresh(data / "precomp"), Invention(images, 0)
    random = np.random.default_rng(0)
    of_things = random.standard_normal((THINGS, dim), dtype=np.float32)
    val, test = _shares(images, 123_287, 5000, 5000)
    first = 0
    for split, count in (("train", images - val - test), ("dev", val), ("test", test)):
        shape = (count, regions, dim) if regions else (count, dim)
        features = np.lib.format.open_memmap(folder / f"{split}_ims.npy", mode="w+", dtype=np.float16, shape=shape)
        with (folder / f"{split}_caps.txt").open("w") as file:
            for a in range(0, count, 1024):
                b = min(a + 1024, count)
                seen = of_things[invention.things[first + a : first + b]].sum(axis=1)
                noise = 2 * random.standard_normal((b - a, *shape[1:]), dtype=np.float32)
                features[a:b] = np.maximum((seen[:, None] if regions else seen) + noise, 0)
                for row in range(first + a, first + b):
                    file.writelines(f"{text}\n" for text in invention.captions(row))
        first += count


if __name__ == "__main__":
    app()
