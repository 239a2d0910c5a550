"""The rows of the tables: one file, one method.  Found through the registry, never imported by the engine."""

if __name__ == "methods":
    raise ImportError("this folder is installed as cran_bench.methods: import that, and install with 'pip install -e .'")
