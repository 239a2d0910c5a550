"""Generate stand-ins for Flickr-30K and MS-COCO in their original layouts, of any size.

    python benchmarks/generate.py flickr30k DIR                 # 31,783 images, 158,915 captions
    python benchmarks/generate.py mscoco DIR --images 200
    python benchmarks/generate.py precomp DIR                   # MS-COCO's numbers, features instead of images

An image is noise with three patches, one per object; a caption names some of the objects among meaningless words.  So
every method can learn something, and the features have full rank because of the noise.
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

OBJECTS = 60
VOCABULARY = 12_000
CATEGORIES = [k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # MS-COCO skips ten numbers

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


def word(number: int) -> str:
    """The invented word with a given number."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstv" for vowel in "aeiou"]
    spelled = ""
    while number >= 0:
        number, digit = divmod(number, len(syllables))
        spelled = syllables[digit] + spelled
        number -= 1
    return spelled + "n"


@dataclass
class Generator:
    """Generates images with captions, deterministically for a seed.

    Attributes:
        images: number of images.
        side: pixels per side of an image.
    """

    images: int
    side: int
    seed: int = 0

    @cached_property
    def objects(self) -> NDArray[np.int64]:
        """(images, 3) objects of each image."""
        return np.random.default_rng(self.seed).integers(0, OBJECTS, (self.images, 3))

    @cached_property
    def _words(self) -> list[str]:
        return [word(k) for k in range(OBJECTS + VOCABULARY)]

    def image(self, row: int) -> Image.Image:
        """An image of noise with a patch in the colour of each object."""
        random = np.random.default_rng((self.seed, row))
        values = random.integers(0, 256, (self.side, self.side, 3))
        half = self.side // 2
        for label, (x, y) in zip(self.objects[row].tolist(), random.integers(0, half, (3, 2)).tolist(), strict=True):
            colour = np.random.default_rng(label).integers(0, 256, 3)
            values[y : y + half, x : x + half] = values[y : y + half, x : x + half] // 4 + 3 * colour // 4
        return Image.fromarray(values.astype(np.uint8))

    def captions(self, row: int, count: int = 5) -> Iterator[str]:
        """Yield sentences of six to seventeen words, two of which name objects in the image."""
        random = np.random.default_rng((self.seed, row, 1))
        for _ in range(count):
            length = int(random.integers(4, 16))
            # the frequency of a word falls with its rank, as in natural language
            ranks = (VOCABULARY ** random.random(length)).astype(int) - 1
            named = random.choice(self.objects[row], 2)
            numbers = random.permutation(np.concatenate([named, OBJECTS + ranks]))
            yield " ".join(self._words[k] for k in numbers.tolist()).capitalize() + " ."


def _shares(images: int, full: int, *parts: int) -> list[int]:
    """The original numbers of images, scaled to `images` in total; at least twenty each."""
    return [max(20, round(part * images / full)) for part in parts]


def _write_images(generator: Generator, path_of: Callable[[int], Path]) -> None:
    for row in range(generator.images):
        path = path_of(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        generator.image(row).save(path, quality=90)


def _fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


ImagesOption = Annotated[int, typer.Option(min=80, help="Number of images.")]
SideOption = Annotated[int, typer.Option(min=8, help="Pixels per side.")]
FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Data folder; the dataset is written to a folder inside.")
]


@app.command()
def flickr30k(data: FolderArgument, images: ImagesOption = 31_783, side: SideOption = 64) -> None:
    """Generate Flickr-30K: token file, images, Karpathy's split and that of Flickr30K Entities."""
    folder, generator = _fresh(data / "flickr30k"), Generator(images, side)
    names = [f"{1_000_000 + 97 * row}.jpg" for row in range(images)]
    _write_images(generator, lambda row: folder / "flickr30k-images" / names[row])
    with (folder / "results_20130124.token").open("w") as file:
        for row, name in enumerate(names):
            file.writelines(f"{name}#{k}\t{text}\n" for k, text in enumerate(generator.captions(row)))
    val, test = _shares(images, 31_783, 1014, 1000)
    train = images - val - test - _shares(images, 31_783, 769)[0]
    karpathy = ["train"] * train + ["val"] * val + ["test"] * test
    listed = [
        {"filename": name, "split": split, "imgid": k}
        for k, (name, split) in enumerate(zip(names, karpathy, strict=False))
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": listed}))
    (held_out,) = _shares(images, 31_783, 1000)
    for split, own in (
        ("test", names[:held_out]),
        ("val", names[held_out : 2 * held_out]),
        ("train", names[2 * held_out :]),
    ):
        (folder / f"{split}.txt").write_text("".join(Path(name).stem + "\n" for name in own))


@app.command()
def mscoco(data: FolderArgument, images: ImagesOption = 123_287, side: SideOption = 64) -> None:
    """Generate MS-COCO 2014: images and annotations of train2014 and val2014, with categories, and Karpathy's split."""
    folder, generator = _fresh(data / "mscoco"), Generator(images, side)
    (of_train,) = _shares(images, 123_287, 82_783)
    years = ["train2014" if row < of_train else "val2014" for row in range(images)]
    names = [f"COCO_{year}_{row + 1:012}.jpg" for row, year in enumerate(years)]
    _write_images(generator, lambda row: folder / years[row] / names[row])
    (folder / "annotations").mkdir()
    number = 0
    for year in ("train2014", "val2014"):
        rows = [row for row in range(images) if years[row] == year]
        listed = [{"id": row + 1, "file_name": names[row]} for row in rows]
        captions, instances = [], []
        for row in rows:
            for text in generator.captions(row, 6 if row % 100 == 0 else 5):
                number += 1
                captions.append({"id": number, "image_id": row + 1, "caption": text})
            instances += [
                {"id": 3 * row + k, "image_id": row + 1, "category_id": CATEGORIES[label]}
                for k, label in enumerate(generator.objects[row].tolist())
            ]
        categories = [{"id": k, "name": word(k)} for k in CATEGORIES]
        for kind, own in (("captions", captions), ("instances", instances)):
            content = {"images": listed, "annotations": own, "categories": categories}
            (folder / "annotations" / f"{kind}_{year}.json").write_text(json.dumps(content))
    (held_out,) = _shares(images, 123_287, 5000)
    split_of = {row: "val" for row in range(of_train, of_train + held_out)}
    split_of |= {row: "test" for row in range(of_train + held_out, of_train + 2 * held_out)}
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
    dim: Annotated[int, typer.Option(min=1, help="Dimensions of a feature.")] = 4096,
    regions: Annotated[int, typer.Option(min=0, help="Regions per image; 0 for global features.")] = 0,
) -> None:
    """Generate float16 features and five captions per image in the layout of VSE++, in MS-COCO's numbers of images."""
    folder, generator = _fresh(data / "precomp"), Generator(images, 0)
    random = np.random.default_rng(0)
    object_features = random.standard_normal((OBJECTS, dim), dtype=np.float32)
    val, test = _shares(images, 123_287, 5000, 5000)
    first = 0
    for split, count in (("train", images - val - test), ("dev", val), ("test", test)):
        shape = (count, regions, dim) if regions else (count, dim)
        features = np.lib.format.open_memmap(folder / f"{split}_ims.npy", mode="w+", dtype=np.float16, shape=shape)
        with (folder / f"{split}_caps.txt").open("w") as file:
            for a in range(0, count, 1024):
                b = min(a + 1024, count)
                signal = object_features[generator.objects[first + a : first + b]].sum(axis=1)
                noise = 2 * random.standard_normal((b - a, *shape[1:]), dtype=np.float32)
                features[a:b] = np.maximum((signal[:, None] if regions else signal) + noise, 0)
                for row in range(first + a, first + b):
                    file.writelines(f"{text}\n" for text in generator.captions(row))
        first += count


if __name__ == "__main__":
    app()
