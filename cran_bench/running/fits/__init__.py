"""Fitted parts, stored by the fingerprint of everything that determines them, so that no fit is done twice."""

from cran_bench.running.fits.run import Fit, LentRun
from cran_bench.running.fits.serialisation import fields_json, load_state, save_state
from cran_bench.running.fits.store import FitStore, SharedFit, code_of, fit_fingerprint

__all__ = [
    "Fit",
    "FitStore",
    "LentRun",
    "SharedFit",
    "code_of",
    "fields_json",
    "fit_fingerprint",
    "load_state",
    "save_state",
]
