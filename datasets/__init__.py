"""The datasets, one file each; the engine finds them through the registry and never imports them."""

if __name__ == "datasets":
    raise ImportError(
        "this folder is cran_bench.datasets and shadows any installed package 'datasets': "
        "run from another folder, or set PYTHONSAFEPATH=1"
    )
