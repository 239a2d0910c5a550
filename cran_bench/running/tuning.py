"""Tuning of a row: it is fitted with several choices of its fields, of which the best on validation is tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cran_bench.contract import Method
from cran_bench.embeddings import Embedding
from cran_bench.errors import BadInput
from cran_bench.machine.progress import say
from cran_bench.records.schema import TuningInfo
from cran_bench.registry import METHODS, Configured, search_space
from cran_bench.running.fits import Fit, FitStore
from cran_bench.specs import flat_fields, format_options
from cran_bench.split import MissingFeature, Split


def trials(method: Configured[Method], seed: int) -> list[Configured[Method]]:
    """The choices of fields that are tried for a row: its own, then at most `tune - 1` others from its search space.

    They are drawn at random without replacement, so that fewer trials are the first of more.  A row that is not tuned
    has one.

    Raises:
        BadInput: the method does not accept a choice.
    """
    if not method.tune:
        return [method]
    first, sizes = METHODS.varied(method, {}), [len(values) for values in method.space.values()]
    found, generator = {first.label: first}, np.random.default_rng(seed)
    drawn: set[tuple[int, ...]] = set()
    while len(found) < method.tune and len(drawn) < np.prod(sizes, dtype=float):
        drawn.add(positions := tuple(generator.integers(sizes).tolist()))
        chosen = {name: values[k] for (name, values), k in zip(method.space.items(), positions, strict=True)}
        trial = METHODS.varied(method, chosen)
        found.setdefault(trial.label, trial)
    return list(found.values())


def require_search(method: Configured[Method]) -> None:
    """Require that a method has every field of its search space and accepts each of the values.

    Raises:
        BadInput: it does not.
    """
    for name, values in search_space(method.plugin).items():
        for value in values:
            METHODS.varied(method, {name: value})


def best_of(
    method: Configured[Method],
    seed: int,
    store: FitStore,
    embed: Callable[[Method, Split], tuple[Embedding, Embedding]],
) -> tuple[Fit[Method], TuningInfo]:
    """Fit the trials of a row; return the best fit on validation, with the seconds of all that end, and what was tried.

    A trial that diverges, or asks for features that the data lacks, is not chosen.

    Raises:
        BadInput: every trial fails, or one for another reason.
    """
    tried, fields_of = trials(method, seed), flat_fields(method.plugin.cls)
    space = {name: list(values) for name, values in method.space.items()}
    fields = [{name: fields_of[name].of(trial.build()) for name in space} for trial in tried]
    fits: dict[int, Fit[Method]] = {}
    costs: dict[str, float] = {}
    rsums: list[float | None] = []
    for number, trial in enumerate(tried):
        label = f"{method.label} · seed {seed} · trial {number + 1} of {len(tried)}"
        told = f"{label} {format_options(fields[number])}".rstrip()
        try:
            fit = store.fitted(trial.build(), seed, label)
            if not space:  # nothing to choose, and a method that fits nothing may know the test split only
                about = TuningInfo(trials=method.tune, seed=seed, space={}, tried=[{}], rsum=[None], chosen=0)
                return fit, about
            rsum = store.score(fit, seed, label, *embed(fit.part, store.val)).criterion
        except BadInput as error:
            if type(error) not in (BadInput, MissingFeature) or (not fits and number == len(tried) - 1):
                raise
            rsums.append(None)
            say(f"{told} failed: {error}")
            continue
        rsums.append(rsum)
        say(f"{told}: {'rsum' if store.metric == 'rsum' else '100 mAP'} {rsum:.1f} on validation")
        costs |= fit.costs
        fits = {k: kept for k, kept in {**fits, number: fit}.items() if k == choice(rsums)}
    (chosen,) = fits
    about = TuningInfo(trials=method.tune, seed=seed, space=space, tried=fields, rsum=rsums, chosen=chosen)
    return replace(fits[chosen], costs=costs), about


def choice(rsums: Sequence[float | None]) -> int:
    """The position of the greatest rsum, the first of equals; None stands for a trial that failed."""
    return max(range(len(rsums)), key=lambda k: -1.0 if (rsum := rsums[k]) is None else rsum)
