#!/bin/sh
# What a person with an NVIDIA GPU runs first, five minutes: `benchmarks/gpu.sh`, with the options of gpu.py.
#
# PYTHON=... names the Python to use.  If it has no cran-bench, an environment in .gpu/ sees its packages, such as a
# torch that fits the driver, and pip installs there what is missing; pip's own variables hold.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ! "$python" -P -c "import cran_bench.methods" 2>/dev/null; then
  own=.gpu/bin/python
  if [ ! -x $own ]; then
    "$python" -m venv .gpu
    "$python" -P -c "import sys; print(*(x for x in sys.path if x.endswith('-packages')), sep='\n')" \
      >"$($own -c "import sysconfig; print(sysconfig.get_path('purelib'))")/of_python.pth"
  fi
  $own -P -c "import cran_bench.methods" 2>/dev/null || $own -m pip install --quiet -e .
  python=$own
fi
exec "$python" benchmarks/gpu.py "$@"
