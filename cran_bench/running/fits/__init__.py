"""Fitted parts, stored by the fingerprint of everything that determines them, so that no fit is done twice."""

from cran_bench.running.fits.run import Fit, LentRun, run_of
from cran_bench.running.fits.serialisation import fields_json, load_state, save_state
from cran_bench.running.fits.store import FitStore, SharedFit, code_of

__all__ = ["Fit", "FitStore", "LentRun", "SharedFit", "code_of", "fields_json", "load_state", "run_of", "save_state"]
