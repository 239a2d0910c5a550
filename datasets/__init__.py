"""The datasets: one file each.  Found through the registry, never imported by the engine."""

if __name__ == "datasets":
    raise ImportError(
        "this folder is cran_bench.datasets and hides the package 'datasets' you may want: "
        "run from another folder, or set PYTHONSAFEPATH=1"
    )
