"""What a fit really holds, beside what its method says beforehand it will hold.

`tox -e memory`.  Every row is fitted in a process of its own on generated features, with few steps and all of its
sizes.  What the process grows by may not exceed the estimate, as a machine would be overrun; nor may the estimate be
many times of it, as fits would be refused that have room.  CRAN_BENCH_MEMORY=0.06 takes so much of MS-COCO's size; from
there on regions are not held, but read by the batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cran_bench.machine.progress import say
from cran_bench.protocols import Unit

REGIONS = 5
HELD = ",limit=6000"  # images whose regions are few enough to be held
ROWS: list[tuple[str, Unit, str]] = [
    ("cca", "captions", ""),
    ("cca[text=word_cnn]", "captions", ""),
    ("cfa", "captions", ""),
    ("kcca[solver=exact]", "documents", ",limit=4000"),
    ("kcca[solver=cholesky,columns=3000]", "captions", ""),
    ("kcca[solver=nystrom,columns=3000]", "captions", ""),
    ("kcca[solver=fourier,columns=3000]", "captions", ""),
    ("kcca:paper", "captions", ""),
    ("macc[columns=3000]", "captions", ""),
    ("macc[columns=3000]", "documents", ""),
    ("gmm-hglmm", "captions", ""),
    ("bimodal-ae[rbm_steps=40,steps=40]", "captions", ""),
    ("multimodal-dbn[rbm_steps=40,steps=40]", "captions", ""),
    ("corr-ae[rbm_steps=40,steps=40]", "captions", ""),
    ("corr-ae[rbm_steps=40,steps=40,granularity=parts]", "captions", ""),
    ("dcca[epochs=2]", "captions", ""),
    ("ccl[rbm_steps=40,steps=40,joint_steps=40,autoencoder_steps=40]", "captions", HELD),
    ("cran-baseline[max_epochs=1,text_init=random]", "captions", HELD),
    ("cran-local[max_epochs=1,text_init=random,caption_sampling=first]", "captions", ""),
    ("cran-relation[max_epochs=1,text_init=random,caption_sampling=first]", "captions", ""),
    ("cran[max_epochs=1,pretraining_epochs=1,restarts=1]", "captions", HELD),
    ("cran:paper[max_epochs=1,epoch_mode=images]", "captions", ",limit=800"),
]
"""Method, what it is fitted on, and of how many images where all of them would take too long."""
MIB = 1 << 20
TIMES = 4

SCALE = float(os.environ.get("CRAN_BENCH_MEMORY", "0"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of generated features of images and regions."""
    folder = tmp_path_factory.mktemp("data")
    generate, images = Path(__file__).with_name("generate.py"), str(round(SCALE * 123_287))
    subprocess.run(
        [sys.executable, generate, "precomp", folder, "--images", images, "--regions", str(REGIONS)], check=True
    )
    return folder


@pytest.mark.skipif(not SCALE, reason="takes twenty minutes: tox -e memory, or set CRAN_BENCH_MEMORY")
@pytest.mark.parametrize(("row", "unit", "limit"), ROWS, ids=[" ".join(row) for row in ROWS])
def test_a_fit_holds_what_its_method_says(data, tmp_path, row, unit, limit):
    alone = subprocess.run(
        [sys.executable, __file__, row, unit, limit, data, tmp_path], stdout=subprocess.PIPE, check=True
    )
    said, held = map(int, alone.stdout.split())
    say(f"{row} {unit}: {held / MIB:,.0f} MiB held, {said / MIB:,.0f} said")
    assert held < said
    assert said < TIMES * held


def fitted(row: str, unit: Unit, limit: str, data: Path, folder: Path) -> tuple[int, int]:
    """Bytes by which this process will grow in a fit, as its method says, and those by which it does."""
    import torch

    from cran_bench.bench.measuring import memory
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.running.fits import FitStore
    from cran_bench.running.memory import estimate
    from cran_bench.running.preparation import find_prepared

    device = torch.device("cpu")
    prepared = find_prepared(DATASETS.configure(f"precomp[folder=precomp{limit}]"), data, data / "cache")
    train, val = (prepared.split(name, unit, device) for name in ("train", "val"))
    method = METHODS.configure(row).build()
    said = estimate(method, train, val)
    with memory(device) as found:
        FitStore(folder, prepared.identity, train, val, device).fitted(method, 0, row)
    return said, found.peak


if __name__ == "__main__":
    _, row, unit, limit, data, folder = sys.argv
    sys.stdout.write("{} {}".format(*fitted(row, unit, limit, Path(data), Path(folder))))  # type: ignore[arg-type]
