"""Commands that use a fitted method: explain and search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say

from . import options
from .options import app, echo

if TYPE_CHECKING:
    from cran_bench.contract import Explaining, Method
    from cran_bench.registry import Configured
    from cran_bench.running.runner import Runner


@app.command()
def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Id of an image of the dataset, such as test-00000a.")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A sentence, or the number of one of the image's own captions.")
    ] = "1",
    method: Annotated[
        str, typer.Option("-m", "--method", metavar="METHOD", help="A method that can explain.")
    ] = "cran",
    dataset: options.Dataset = "scenes",
    out: options.Drawing = None,
    seed: options.Seed = 0,
    quick: options.Quick = False,
    data: options.Data = Path("data"),
    backbone: options.Backbone = None,
    regions: options.Regions = None,
    vectors: options.Vectors = "ppmi-svd",
    text_encoder: options.TextEncoder = None,
    cache: options.Cache = options.CACHE,
    device: options.Device = "auto",
) -> None:
    """Show why a method scores an image and a text as it does: levels, attention, best regions and region pairs.

    Example: cran-bench explain test-00000a

    Example: cran-bench explain test-00000a "a red star is above a blue square" -m cran-relation -o why.png
    """
    from cran_bench.registry import METHODS
    from cran_bench.running.runner import fit_unit
    from cran_bench.viewing import explain as explaining

    configured = _configured(method, quick, out)
    if not hasattr(configured.plugin.cls, "explain"):
        able = [name for name in METHODS.usable() if hasattr(METHODS.get(name).cls, "explain")]
        raise BadInput(f"{configured.plugin.name} does not support explain; these methods do: {', '.join(able)}")
    runner = _runner(dataset, quick, data, cache, (backbone, regions, vectors, text_encoder), device)
    split, row = runner.data_of(configured).find(image, runner.device)
    if text.isdecimal():
        if not 1 <= int(text) <= len(split.texts):
            raise BadInput(f"{image} has captions 1 to {len(split.texts)}, not {text}; or write a sentence")
        text = split.texts[int(text) - 1]
    split = split.asking([text])
    fitted = cast("Explaining", runner.fitted(configured, seed, fit_unit(configured, "captions")))
    (explanation,) = fitted.explain(split, [(0, 0)])
    title = f"{configured.label}: {image}"
    echo(f"{title}\n{text}\n\n{explaining.describe(explanation)}")
    if out is not None:
        boxes = split.boxes[0].cpu().numpy() if explanation.regions or explanation.pairs else None
        explaining.draw(explanation, runner.data.collection.images.read(row), boxes, title, out)
        say(f"drew {out}")


@app.command()
def search(
    sentence: Annotated[str | None, typer.Argument(metavar="[SENTENCE]", help="Which images to search for.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Search for texts that describe this picture.")
    ] = None,
    method: Annotated[str, typer.Option("-m", "--method", metavar="METHOD", help="The method that searches.")] = "cca",
    dataset: options.Dataset = "scenes",
    top: Annotated[int, typer.Option("-n", "--top", min=1, help="Number of results.")] = 10,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="train, val or test.")] = "test",
    out: options.Drawing = None,
    seed: options.Seed = 0,
    quick: options.Quick = False,
    data: options.Data = Path("data"),
    backbone: options.Backbone = None,
    regions: options.Regions = None,
    vectors: options.Vectors = "ppmi-svd",
    text_encoder: options.TextEncoder = None,
    cache: options.Cache = options.CACHE,
    device: options.Device = "auto",
) -> None:
    """Search a dataset for a sentence, or for a picture of your own, with a fitted method.

    Example: cran-bench search "a red star is above a blue square" -m cran -o found.png

    Example: cran-bench search --image dog.jpg -d flickr8k
    """
    from cran_bench.dataset import SPLITS
    from cran_bench.errors import did_you_mean
    from cran_bench.images import open_image
    from cran_bench.running.runner import fit_unit
    from cran_bench.viewing import search as searching

    if (sentence is None) == (image is None):
        raise BadInput('search takes either a sentence or --image FILE: cran-bench search "a red star"')
    if split not in SPLITS:
        raise BadInput(f"there is no split '{split}'{did_you_mean(split, SPLITS)}")
    configured = _configured(method, quick, out)
    if image is not None and not image.is_file():
        raise BadInput(f"there is no picture {image}; give the path of an image file")
    picture = None if image is None else open_image(image)
    runner = _runner(dataset, quick, data, cache, (backbone, regions, vectors, text_encoder), device)
    prepared = runner.data_of(configured)
    front_end = None if picture is None else prepared.front_end(backbone, regions)
    unit = fit_unit(configured, "captions")
    fitted = runner.fitted(configured, seed, unit)
    candidates = prepared.split(split, "captions", runner.device, unit)
    if picture is not None and front_end is not None:
        hits = searching.texts_for(fitted, candidates, prepared.picture(picture, front_end, runner.device), top)
    else:
        hits = searching.images_for(fitted, candidates, sentence or "", top)
    title = f"{configured.label} in {prepared.dataset.label}, {split}: {sentence or image}"
    echo(f"{title}\n\n{searching.describe(hits)}")
    if out is not None:
        images = prepared.collection.images
        searching.draw(hits, [images.read(images.ids.index(hit.image)) for hit in hits], title, picture, out)
        say(f"drew {out}")


def _configured(method: str, quick: bool, out: Path | None) -> Configured[Method]:
    """The method; before anything is computed, refuses a drawing that could not be written."""
    from cran_bench.registry import METHODS, quick_method
    from cran_bench.viewing.drawing import require_drawable

    if out is not None:
        require_drawable(out)
    return METHODS.configure(quick_method(method) if quick else method)


def _runner(
    dataset: str,
    quick: bool,
    data: Path,
    cache: Path,
    specs: tuple[str | None, str | None, str, str | None],
    device: str,
) -> Runner:
    """A runner on the prepared dataset, which records nothing."""
    from cran_bench.machine.environment import pick_device
    from cran_bench.registry import DATASETS, quick_dataset
    from cran_bench.running.preparation import find_prepared
    from cran_bench.running.runner import Runner

    where = pick_device(device)
    configured = DATASETS.configure(quick_dataset(dataset) if quick else dataset)
    prepared = find_prepared(configured, data, cache, *specs)
    return Runner(prepared, Path(), cache, where)
