"""The closed-form methods at MS-COCO's size: 123,287 generated images with 4096-d features and 616,435 captions.

`tox -e full-size`, ten minutes on two cores.  CRAN_BENCH_SCALE=0.02 uses 2 % of the images.  Features are read by
block, so the memory is that of the covariances, for any number of images.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cran_bench.machine.progress import duration, say
from cran_bench.records.store import ResultStore

METHODS = "cca,cfa,kcca[solver=nystrom,columns=3000]"
DATASET = "precomp[folder=precomp]"
MINUTES, GIB = 20, 12

SCALE = float(os.environ.get("CRAN_BENCH_SCALE", "0"))


@pytest.mark.skipif(not SCALE, reason="takes ten minutes and 4 GB: tox -e full-size, or set CRAN_BENCH_SCALE")
def test_closed_forms_at_full_size(tmp_path):
    generate = Path(__file__).with_name("generate.py")
    images = str(max(80, round(SCALE * 123_287)))
    subprocess.run([sys.executable, generate, "precomp", tmp_path, "--images", images], check=True)
    where = ("--data", tmp_path, "--cache", tmp_path / "cache")
    command = Path(sys.executable).with_name("cran-bench")
    start = time.perf_counter()
    subprocess.run([command, "prepare", DATASET, *where], check=True)
    prepared = time.perf_counter()
    together = "--jobs", "1", "--threads", "2"  # in one process, whose memory is the peak
    subprocess.run([command, "run", "-d", DATASET, *where, "-m", METHODS, "--results", tmp_path, *together], check=True)
    minutes = (time.perf_counter() - prepared) / 60
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)  # of the largest child
    say(f"{images} images: prepared in {duration(prepared - start)}, rows in {minutes:.1f} min, {peak:.1f} GiB")
    records = [run.record for run in ResultStore(tmp_path).runs()]
    for record in records:
        say(f"{record.method.label}: rsum {record.metrics['rsum']:.1f}, fit {record.seconds.fit:.0f} s")
    assert len(records) == 3 and all(record.metrics["t2i_r10"] > 1000 / record.data.images for record in records)
    assert minutes < MINUTES and peak < GIB
