"""Tuning of a row: it is fitted with several choices of its fields, of which the best on validation is tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cran_bench.contract import Method
from cran_bench.errors import BadInput, CannotWrite
from cran_bench.machine.progress import say
from cran_bench.records.schema import TrialInfo, TuningInfo
from cran_bench.registry import METHODS, Configured, search_space
from cran_bench.running.fits import Fit
from cran_bench.running.memory import NoRoom
from cran_bench.specs import flat_fields, format_options


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
    fitted: Callable[[Configured[Method], str], Fit[Method]],
    score: Callable[[Fit[Method], str], float],
) -> tuple[Fit[Method], TuningInfo]:
    """Fit every trial of a row; return the fit that is best on validation, with the seconds of all, and the choice.

    A trial fails if its training diverges or it asks for features that the data lacks; another is chosen then.

    Args:
        method: the row.
        seed: seed of the fits and of the draw.
        fitted: fits a trial, or loads its fit.
        score: the rsum of a fit on validation.

    Raises:
        BadInput: every trial fails.
    """
    tried, searched = trials(method, seed), flat_fields(method.plugin.cls)
    best: Fit[Method] | None = None
    costs: dict[str, float] = {}
    infos: list[TrialInfo] = []
    errors: list[BadInput] = []
    for number, trial in enumerate(tried, 1):
        label, part = f"{method.label} · seed {seed} · trial {number} of {len(tried)}", trial.build()
        fields = {name: searched[name].of(part) for name in method.space}
        told = f"{label} {format_options(fields)}".rstrip()
        try:
            fit = fitted(trial, label)
            rsum = score(fit, label)
        except (CannotWrite, NoRoom):
            raise
        except BadInput as error:
            errors.append(error)
            infos.append(TrialInfo(fields=fields, rsum=None, error=" ".join(str(error).split())))
            say(f"{told} failed: {error}")
            continue
        costs |= fit.costs
        infos.append(TrialInfo(fields=fields, rsum=rsum))
        say(f"{told} has rsum {rsum:.1f} on validation")
        if choice(infos) == number - 1:
            best = fit
    if best is None:
        raise errors[0]
    space = {name: list(values) for name, values in method.space.items()}
    about = TuningInfo(trials=method.tune, seed=seed, space=space, tried=infos, chosen=choice(infos))
    return replace(best, costs=costs), about


def choice(tried: Sequence[TrialInfo]) -> int:
    """The position of the trial with the greatest rsum, the first of equals."""
    return max(range(len(tried)), key=lambda k: -1.0 if (rsum := tried[k].rsum) is None else rsum)
