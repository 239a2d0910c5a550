"""The memory that a fit uses, compared with the estimate of its method.

`tox -e memory`.  Each row is fitted in a separate process on generated features, with few steps but full sizes.  The
growth of the process must not exceed the estimate, or a machine could run out of memory; and the estimate must not be
many times the growth, or fits that have room would be refused.  CRAN_BENCH_MEMORY=0.06 uses 6 % of MS-COCO's images;
from this size on, regions are not kept in memory but read by batch.
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
IN_MEMORY = ",limit=6000"  # few enough images to keep their regions in memory
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
    ("linear-head[epochs=2]", "captions", ""),
    ("pcmepp[epochs=2]", "captions", ""),
    ("cmdn[rbm_steps=40,steps=40,autoencoder_steps=40,dbn_steps=40,fusion_steps=40,labels=none]", "captions", ""),
    ("sm[C=1,labels=clusters:20]", "captions", ""),
    ("scm[C=1,dim=128,labels=clusters:20]", "captions", ""),
    ("cca3v[ridge=0.01,labels=clusters:20]", "captions", ""),
    ("ml-cca[kappa=0.25,labels=clusters:20]", "captions", ""),
    ("ml-cca[kappa=0.25,few=20,labels=keywords:300]", "captions", ""),
    ("jrl[labels=clusters:20]", "captions", ""),
    ("s2upg[gamma=1,sigma=0.1,ridge=1,labels=clusters:20]", "documents", ""),
    ("ccl[rbm_steps=40,steps=40,joint_steps=40,autoencoder_steps=40]", "captions", IN_MEMORY),
    ("cran-baseline[max_epochs=1]", "captions", IN_MEMORY),
    ("cran-local[max_epochs=1,caption_sampling=first]", "captions", ""),
    ("cran-relation[max_epochs=1,caption_sampling=first]", "captions", ""),
    ("cran[max_epochs=1,caption_sampling=first]", "captions", ""),
    ("cran-ensemble[max_epochs=1,caption_sampling=first]", "captions", ""),
    ("cran-plus-baseline[max_epochs=1,pretraining_epochs=1,caption_sampling=first]", "captions", ""),
    ("cran-plus-local[max_epochs=1,text_init=random,caption_sampling=first]", "captions", ""),
    ("cran-plus-relation[max_epochs=1,text_init=random,caption_sampling=first]", "captions", ""),
    ("cran-plus-ensemble[max_epochs=1,text_init=random,caption_sampling=first]", "captions", ""),
    ("cran-plus[max_epochs=1,pretraining_epochs=1,restarts=1]", "captions", IN_MEMORY),
    ("vsepp[epochs=1]", "captions", ""),
    ("dual-path[width=compact,epochs=1]", "captions", ",limit=6000"),
    ("vse-infinity[epochs=1]", "captions", IN_MEMORY),
    ("scan[epochs=1]", "captions", IN_MEMORY),
    ("region-phrase[rounds=1]", "captions", ""),
    ("cran:paper[max_epochs=1,epoch_mode=images]", "captions", ",limit=800"),
]
"""Method, unit, and a limit on the number of images where all would take too long."""
MIB = 1 << 20
TIMES = 4

SCALE = float(os.environ.get("CRAN_BENCH_MEMORY", "0"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of generated image and region features."""
    folder = tmp_path_factory.mktemp("data")
    generate, images = Path(__file__).with_name("generate.py"), str(round(SCALE * 123_287))
    subprocess.run(
        [sys.executable, generate, "precomp", folder, "--images", images, "--regions", str(REGIONS)], check=True
    )
    return folder


@pytest.mark.skipif(not SCALE, reason="takes twenty minutes: tox -e memory, or set CRAN_BENCH_MEMORY")
@pytest.mark.parametrize(("row", "unit", "limit"), ROWS, ids=[" ".join(row) for row in ROWS])
def test_a_fit_uses_about_the_estimated_memory(data, tmp_path, row, unit, limit):
    alone = subprocess.run(
        [sys.executable, __file__, row, unit, limit, data, tmp_path], stdout=subprocess.PIPE, check=True
    )
    estimated, used = map(int, alone.stdout.split())
    say(f"{row} {unit}: {used / MIB:,.0f} MiB used, {estimated / MIB:,.0f} estimated")
    assert used < estimated
    assert estimated < TIMES * used


def fitted(row: str, unit: Unit, limit: str, data: Path, folder: Path) -> tuple[int, int]:
    """The estimated and the measured growth of this process during a fit, in bytes."""
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
    estimated = estimate(method, train, val)
    with memory(device) as measured:
        FitStore(folder, prepared.identity, train, val, device).fitted(method, 0, row)
    return estimated, measured.peak


if __name__ == "__main__":
    _, row, unit, limit, data, folder = sys.argv
    sys.stdout.write("{} {}".format(*fitted(row, unit, limit, Path(data), Path(folder))))  # type: ignore[arg-type]
