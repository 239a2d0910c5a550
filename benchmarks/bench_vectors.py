"""Reading the vectors of the captions' words from a word2vec file of GoogleNews' size, 3,000,000 x 300.

`tox -e benchmarks -- -k vectors -s`.  The file is generated, 3.6 GB.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

WORDS, DIM, NEEDED = 3_000_000, 300, 20_000

# a separate process, for the peak memory of the reader alone
READ = """
import resource, sys, time
from cran_bench.frontend.text.vectors import vector_source
sentences = [[f"word{k}" for k in range(0, %d, %d)]]
start = time.perf_counter()
vectors = vector_source(f"word2vec:{sys.argv[1]}").open(sentences)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, len(vectors))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "generated.bin"
    block = np.random.default_rng(0).standard_normal((10_000, DIM)).astype("<f4")
    with path.open("wb") as out:
        out.write(f"{WORDS} {DIM}\n".encode())
        for start in range(0, WORDS, len(block)):
            out.write(b"".join(b"word%d " % (start + k) + block[k].tobytes() for k in range(len(block))))
    yield path
    path.unlink()


def test_the_rows_that_are_needed(benchmark, file):
    def read() -> list[float]:
        script = READ % (WORDS, WORDS // NEEDED)
        done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True)
        return [float(value) for value in done.stdout.split()]

    seconds, peak, count = benchmark.pedantic(read, rounds=1)
    benchmark.extra_info |= {"read_s": seconds, "peak_GiB": peak}
    print(f"\n{NEEDED:,} of {WORDS:,} x {DIM}: {seconds:.1f} s, peak {peak:.2f} GiB")  # noqa: T201
    assert count == NEEDED and seconds < 30 and peak < 1
