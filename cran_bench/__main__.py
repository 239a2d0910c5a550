"""`python -m cran_bench` is `cran-bench`: what `torchrun -m` starts."""

from cran_bench.cli import main

main()
