"""The rows of the tables: one file, one method.  Found through the registry, never imported by the engine."""

if __name__ == "methods":
    raise ImportError("this folder is cran_bench.methods: import it by that name, after 'pip install -e .'")
