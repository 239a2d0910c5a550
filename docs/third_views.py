"""Make the table of docs/category.md: what a third view of CCA does to recall and to precision by clusters of texts.

The clusters are made from the texts themselves, so the precision is circular on the text side: a diagnostic, no result.
"""

import argparse
import itertools
import sys
from pathlib import Path

import torch

import cran_bench
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.experiment import folders
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner

VIEWS = {"none": None, "clusters:20": "clusters:20", "clusters:100": "clusters:100", "keywords:300": "keywords:300"}
POWERS = 0, 1, 2, 4
CLUSTERS = "clusters:20"


def main() -> None:
    """Print one line for each third view and one column for each power of the eigenvalues."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="flickr8k")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone")
    parser.add_argument("--regions", default="none")
    parser.add_argument("--ridge", default="0.05", help="fraction of the largest variance of each view")
    parser.add_argument("--dim", default="128")
    given = parser.parse_args()
    where, results, cache = folders(given.data)
    data = find_prepared(DATASETS.configure(given.dataset), where, cache, given.backbone, given.regions)
    runner = Runner(data, results, cache, torch.device("cpu"))
    lines = ["| third view |" + "".join(f" t = {power} |" for power in POWERS), "| --- |" + " --- |" * len(POWERS)]
    cells = {(view, power): cell(runner, view, power, given) for view, power in itertools.product(VIEWS, POWERS)}
    for view in VIEWS:
        lines.append(f"| {view} |" + "".join(f" {cells[view, power]} |" for power in POWERS))
    sys.stdout.write("\n".join(lines) + "\n")


def cell(runner: Runner, view: str, power: int, given: argparse.Namespace) -> str:
    """R@1 in both directions and rsum by captions; mean average precision in both directions by documents."""
    options = f"dim={given.dim},power={power},image=sqrt"
    method = f"cca[{options},ridge_image={given.ridge},ridge_text={given.ridge}]"
    if VIEWS[view]:
        method = f"cca3v[{options},standardize=false,ridge={given.ridge},labels={VIEWS[view]}]"
    configured = METHODS.configure(method)
    _, captions, *sides = runner.embedded(configured, "captions", 0)
    recall = cran_bench.evaluate(*sides, captions.image_of).metrics
    _, documents, *sides = runner.embedded(configured, "documents", 0)
    labels = documents.categories(CLUSTERS)
    found = cran_bench.evaluate(*sides, documents.image_of, protocol="documents", labels=labels).metrics
    return (
        f"{recall['i2t_r1']:.1f} / {recall['t2i_r1']:.1f}, {recall['rsum']:.1f}; "
        f"{found['i2t_map']:.3f} / {found['t2i_map']:.3f}"
    )


if __name__ == "__main__":
    main()
