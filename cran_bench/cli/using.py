"""A fitted method at work: explain, search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say
from cran_bench.machine.storage import cache_folder

from .options import (
    BackboneOption,
    CacheOption,
    DataOption,
    DatasetOption,
    DeviceOption,
    DrawingOption,
    QuickOption,
    RegionsOption,
    SeedOption,
    VectorsOption,
    app,
)

if TYPE_CHECKING:
    from cran_bench.contract import Explaining


@app.command()
def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Id of an image of the dataset, such as test-00000a.")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A sentence, or the number of one of the image's own captions.")
    ] = "1",
    method: Annotated[
        str, typer.Option("-m", "--method", metavar="METHOD", help="A method that can explain.")
    ] = "cran",
    dataset: DatasetOption = "scenes",
    out: DrawingOption = None,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    data: DataOption = Path("data"),
    backbone: BackboneOption = None,
    regions: RegionsOption = None,
    vectors: VectorsOption = "ppmi-svd",
    cache: CacheOption = cache_folder(),  # noqa: B008
    device: DeviceOption = "auto",
) -> None:
    """Why a method scores an image and a text as it does: levels, attention, winning regions and region pairs.

    Example: cran-bench explain test-00000a

    Example: cran-bench explain test-00000a "a red star is above a blue square" -m cran-relation -o why.png
    """
    from cran_bench.machine.environment import pick_device
    from cran_bench.registry import DATASETS, METHODS, quick_dataset, quick_method
    from cran_bench.running.preparation import find_prepared
    from cran_bench.running.runner import Runner, fit_unit
    from cran_bench.viewing import explain as explaining
    from cran_bench.viewing.drawing import require_drawable

    configured = METHODS.configure(quick_method(method) if quick else method)
    if not hasattr(configured.plugin.cls, "explain"):
        able = [name for name in METHODS.usable() if hasattr(METHODS.get(name).cls, "explain")]
        raise BadInput(f"{configured.plugin.name} cannot explain itself; these can: {', '.join(able)}")
    if out is not None:
        require_drawable(out)
    where = pick_device(device)
    configured_data = DATASETS.configure(quick_dataset(dataset) if quick else dataset)
    prepared = find_prepared(configured_data, data, cache, backbone, regions, vectors)
    split, row = prepared.find(image, where)
    if text.isdecimal():
        if not 1 <= int(text) <= len(split.texts):
            raise BadInput(f"{image} has captions 1 to {len(split.texts)}, not {text}; or write a sentence")
        text = split.texts[int(text) - 1]
    split = split.asking([text])
    job = Runner(prepared, Path(), cache, where)
    part = cast("Explaining", job.fitted(configured, seed, fit_unit(configured, "captions")))
    (found,) = part.explain(split, [(0, 0)])
    title = f"{configured.label}: {image}"
    typer.echo(f"{title}\n{text}\n\n{explaining.describe(found)}")
    if out is not None:
        boxes = split.boxes[0].cpu().numpy() if found.regions or found.pairs else None
        explaining.draw(found, prepared.collection.images.read(row), boxes, title, out)
        say(f"drew {out}")


@app.command()
def search(
    sentence: Annotated[
        str | None, typer.Argument(metavar="[SENTENCE]", help="What to look for among the images.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Look for texts that describe this picture.")
    ] = None,
    method: Annotated[str, typer.Option("-m", "--method", metavar="METHOD", help="The method that searches.")] = "cca",
    dataset: DatasetOption = "scenes",
    top: Annotated[int, typer.Option("-n", "--top", min=1, help="How many to show.")] = 10,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="train, val or test.")] = "test",
    out: DrawingOption = None,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    data: DataOption = Path("data"),
    backbone: BackboneOption = None,
    regions: RegionsOption = None,
    vectors: VectorsOption = "ppmi-svd",
    cache: CacheOption = cache_folder(),  # noqa: B008
    device: DeviceOption = "auto",
) -> None:
    """Search a dataset with a sentence, or with a picture of your own, by a fitted method.

    Example: cran-bench search "a red star is above a blue square" -m cran -o found.png

    Example: cran-bench search --image dog.jpg -d flickr8k
    """
    from cran_bench.dataset import SPLITS
    from cran_bench.errors import did_you_mean
    from cran_bench.images import open_image
    from cran_bench.machine.environment import pick_device
    from cran_bench.registry import DATASETS, METHODS, quick_dataset, quick_method
    from cran_bench.running.preparation import find_prepared
    from cran_bench.running.runner import Runner, fit_unit
    from cran_bench.viewing import search as searching
    from cran_bench.viewing.drawing import require_drawable

    if (sentence is None) == (image is None):
        raise BadInput('search takes a sentence or --image FILE, one of the two: cran-bench search "a red star"')
    if split not in SPLITS:
        raise BadInput(f"there is no split '{split}'{did_you_mean(split, SPLITS)}")
    if out is not None:
        require_drawable(out)
    configured = METHODS.configure(quick_method(method) if quick else method)
    if image is not None and not image.is_file():
        raise BadInput(f"there is no picture {image}; give the path of an image file")
    picture = None if image is None else open_image(image)
    where = pick_device(device)
    configured_data = DATASETS.configure(quick_dataset(dataset) if quick else dataset)
    prepared = find_prepared(configured_data, data, cache, backbone, regions, vectors)
    front_end = None if picture is None else prepared.front_end(backbone, regions)
    unit = fit_unit(configured, "captions")
    part = Runner(prepared, Path(), cache, where).fitted(configured, seed, unit)
    members = prepared.split(split, "captions", where, unit)
    if picture is not None and front_end is not None:
        hits = searching.texts_for(part, members, prepared.picture(picture, front_end, where), top)
    else:
        hits = searching.images_for(part, members, sentence or "", top)
    title = f"{configured.label} in {configured_data.label}, {split}: {sentence or image}"
    typer.echo(f"{title}\n\n{searching.describe(hits)}")
    if out is not None:
        rows = prepared.collection.splits[split]
        images = [prepared.collection.images.read(int(rows[hit.position])) for hit in hits]
        searching.draw(hits, images, title, picture, out)
        say(f"drew {out}")
