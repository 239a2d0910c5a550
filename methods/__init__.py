"""The rows of the tables, one file for each method.  The registry finds them; the engine never imports them."""

if __name__ == "methods":
    raise ImportError("this folder is cran_bench.methods: import it by that name, after 'pip install -e .'")
