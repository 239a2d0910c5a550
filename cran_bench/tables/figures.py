"""What tables call their figures, the sentences that explain them, and the rows above the methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cran_bench.ranking.agreement import CORRELATIONS, between_people
from cran_bench.ranking.contrasted import CROSSED, FEW_PAIRS, HEADLINE, PREFIX, Contrasted, kind_and_part
from cran_bench.ranking.precisions import CATEGORY_COUNTS, CATEGORY_FIGURES, CUT
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.relevance import FIGURES as RETRIEVED
from cran_bench.records.store import Finished
from cran_bench.records.tasks import DIRECTIONS, FIGURES, Task

MEDR = "MedR is the plain median of the ranks (vsepp and SCAN print floor(median of zero-based ranks) + 1)"
UNSEEN = "○"
"""Marks a figure that a bag of words has by construction, as the words of both captions are the same."""
PROVEN = 55.0  # percent; a balanced subset on which the second blind model is better is not blind-proof
BLIND = {"blind (n-gram)": "blind", "second blind": "second"}
"""The text-only models by the labels of their rows, with the field of `Contrasted` that has their outcomes."""
CORRELATED = tuple(f".{name}" for name in CORRELATIONS)
"""Endings of the names of correlations."""
_BALANCED = ".balanced"
PHASES = ("features", "fit", "embed", "similarity", "rank")
_JUDGED = dict(zip(("own_r1", *RETRIEVED), ("own", "R@1", "R@5", "R@10", "mAP@R", "R-prec", "nDCG"), strict=True))
HEADINGS = {
    **{figure: figure.replace("_r", " R@") if figure.endswith("_r1") else f"R@{figure[5:]}" for figure in FIGURES},
    **{"medr": "MedR", "rsum": "rsum", "twin_accuracy": "twins", "behind_best": "behind best"},
    **dict(
        zip(
            CATEGORY_FIGURES, ("i2t mAP", "t2i mAP", "mAP", "i2t @50", "t2i @50", "i2t class", "t2i class"), strict=True
        )
    ),
    **{f"{phase}_s": f"{phase} s" for phase in PHASES[1:]},
}
"""Headings of the readable columns, by their names in the CSV (`medr` has both medians); others are as named."""
_OF_JUDGMENTS = {
    **{f"{side}_{name}": f"{side} {text}" for side in DIRECTIONS for name, text in _JUDGED.items()},
    **{"map_r": "mAP@R", "tau_b": "tau-b", "tau_c": "tau-c", "spearman": "Spearman"},
}


def heading(name: str) -> str:
    """The heading of a column: kinds of contrasts and figures of judgments go without the part that all share."""
    if name == HEADLINE:
        return "mean"
    if not name.startswith(PREFIX):
        return HEADINGS.get(name) or _OF_JUDGMENTS.get(name.partition(".")[2], name)
    kind, part = kind_and_part(name)
    return kind if part == "balanced" else f"{kind} {part.replace('_', ' ')}" if part else f"{kind} (all)"


def meaning(task: Task, runs: Sequence[Finished], unseen: Sequence[str]) -> list[str]:
    """Sentences on what the figures of a table are.

    Args:
        task: that of its rows.
        runs: the finished ones.
        unseen: labels of rows that do not see the order of words.
    """
    if task.name == "category":
        return _of_category(runs)
    if task.name == "contrasts":
        return _of_contrasts(runs[0].ranks.contrasts, task, unseen) if runs and runs[0].ranks.contrasts else []
    if task.name == "judgments":
        return _of_judgments(task, runs[0].ranks) if runs else []
    return [f"Recall in percent; {MEDR}."]


def _of_category(runs: Sequence[Finished]) -> list[str]:
    lines = [
        "Everything that shares a category with the query is right, its own partner included. mAP: mean average "
        "precision of the whole list, without interpolation, as a fraction, with ties in expectation.",
        f"@{CUT}: of the first {CUT}, divided by the right ones among them, so it says nothing of how many are "
        "found. Class: the mean over categories of their mean AP.",
        "Intervals are a little too short: the AP of queries of one category are correlated through the gallery.",
    ]
    for counts in {tuple(run.record.metrics[name] for name in CATEGORY_COUNTS) for run in runs}:
        classes, images, texts = (f"{count:,.0f}" for count in counts)
        left = f"; without any, and left out: {images} image and {texts} text queries" if any(counts[1:]) else ""
        lines.append(f"{classes} {'category' if classes == '1' else 'categories'}{left}.")
    return lines


def _of_contrasts(contrasts: Contrasted, task: Task, unseen: Sequence[str]) -> list[str]:
    kinds, ranked = contrasts.kinds, [kind_and_part(name)[0] for name in contrasts.ranked]
    sizes = np.bincount(contrasts.kind, minlength=len(kinds))
    balanced, alike = (
        np.bincount(contrasts.kind[x == 1], minlength=len(kinds)) for x in (contrasts.balanced, contrasts.same_words)
    )
    which = f"the {len(ranked)} kinds" if len(ranked) == len(kinds) else f"{len(ranked)} of {len(kinds)} kinds"
    lines = [
        "The share of pairs, in percent, in which the true caption of an image scores above the false one. Ties count "
        "one half; chance is 50 %.",
        "blind is a text-only n-gram model of the training captions. Figures are of balanced subsets, on which it is "
        "at chance, or of all pairs where marked so. The standard error on n pairs is up to 50 / sqrt(n) points.",
    ]
    if ranked:
        lines.append(f"Mean: over {which}, balanced.")
    few = [f"{kind} ({count})" for kind, count in zip(kinds, balanced.tolist(), strict=True) if kind not in ranked]
    if few:
        mean = "and not in the mean" if ranked else "so that there is no mean"
        lines.append(f"Under {FEW_PAIRS} balanced pairs, shown but not ranked, {mean}: {', '.join(few)}.")
    _, second = blind(contrasts, task).values()
    of_second = [(kind, second[f"{PREFIX}{kind}{_BALANCED}"]) for kind in ranked]
    if weak := [f"{kind} ({value:.1f} %)" for kind, value in of_second if value > PROVEN]:
        lines.append(f"Not blind-proof, as the second text-only model is above {PROVEN:.0f} %: {', '.join(weak)}.")
    if whole := [kind for kind, size, same in zip(kinds, sizes, alike, strict=True) if 0 < size == same]:
        lines.append(f"Both captions have the same words, in another order: {', '.join(whole)}.")
    for kind, size, same in zip(kinds, sizes.tolist(), alike.tolist(), strict=True):
        if f"{PREFIX}{kind}.same_words" in task.figures:
            lines.append(f"{kind}: {same:,} of {size:,} pairs have the same words, shown apart too.")
    if unseen:
        ranked_not = ", and are not ranked" * (HEADLINE in task.by_order)
        lines.append(
            f"{UNSEEN} The order of words is not seen: all pairs with the same words tie, exactly 50 %. Such rows were "
            f"not tested there{ranked_not}: {', '.join(unseen)}."
        )
    if (contrasts.partner >= 0).any():
        lines.append(
            "Crossed pairs: text is right if both images prefer their captions (chance 25 %), image if both captions "
            "prefer their images (25 %), group if all four do (16.7 %)."
        )
    return lines


def _of_judgments(task: Task, ranks: RecordedRanks) -> list[str]:
    lines, found = [], ranks.relevant.get(task.of, {})
    if task.correlations:
        rated = ranks.agreements[task.of]
        others = ranks.image_of[rated.caption] != rated.image
        pairs, people = int(others.sum()), rated.ratings.shape[1]
        many = f"each with {people} ratings, which count one by one" if people > 1 else "each with one rating"
        lines.append(
            f"tau-c, tau-b and Spearman's correlation (with the mean rating), times 100, of scores with people's "
            f"ratings: {pairs:,} pairs of an image and a caption, {many}; own captions are left out."
        )
        if people > 1:
            of_two = between_people(rated, ranks.image_of).values()
            b, c = (sorted(values[name] for values in of_two) for name in ("tau_b", "tau_c"))
            lines.append(
                f"Between two of the people, tau-c is {c[0]:.1f} to {c[-1]:.1f} and tau-b {b[0]:.1f} to {b[-1]:.1f}."
            )
    sizes = {"i2t": (len(ranks.i2t.better), "image"), "t2i": (len(ranks.t2i.better), "caption")}
    for side, some in found.items():
        count, kind = sizes[side]
        all_of = f"all {count:,}" if len(some.query) == count else f"{len(some.query):,} of {count:,}"
        lines.append(f"{side}: {all_of} {kind} queries were judged, with {some.right.mean():.1f} right answers each.")
    if found:
        lines.append(
            "R@1 in percent: a right answer is first, as are R@5 and R@10 among the first 5 and 10; own is R@1 of the "
            "same queries if only their own caption or image is right. mAP@R, R-precision (R-prec) and nDCG are "
            "fractions, with R the number of right answers. Ties are in expectation."
        )
    return lines


def blind(contrasts: Contrasted, task: Task) -> dict[str, dict[str, float]]:
    """The figures of each text-only model in percent, by its label and by name, and ``all``, the mean over all pairs.

    Of crossed pairs there is only the share.
    """
    found: dict[str, dict[str, float]] = {}
    figures = [name for name in task.figures if kind_and_part(name)[1] not in CROSSED]
    for label, field in BLIND.items():
        model = replace(contrasts, text=getattr(contrasts, field))
        means = {name: float(np.nanmean(model.by_pair(name))) for name in figures}
        if ranked := task.totals.get(HEADLINE):
            means[HEADLINE] = float(np.mean([means[name] for name in ranked]))
            means["all"] = float(np.mean([means[PREFIX + kind_and_part(name)[0]] for name in ranked]))
        found[label] = means
    return found


def above(contrasts: Contrasted, task: Task) -> dict[str, list[str]]:
    """The lines above the methods: numbers of pairs, and what text-only models get right, by column.

    `method` has their labels; those that end in ``all`` are of all pairs, others of the balanced subsets.
    """
    counts = {name: f"{np.count_nonzero(~np.isnan(contrasts.by_pair(name))):,}" for name in task.figures}
    models = blind(contrasts, task).values()
    percent = [{name: f"{value:.1f}" for name, value in means.items()} for means in models]
    columns = {"method": ["pairs", *(f"{name}, all" for name in BLIND), "balanced pairs", *BLIND]}
    for name in task.columns:
        kind, part = kind_and_part(name)
        whole, own = ("all", name) if name == HEADLINE else (name, "")
        if part == "balanced":
            whole, own = PREFIX + kind, name
        columns[name] = [means.get(key, "") for key in (whole, own) for means in (counts, *percent)]
    return columns
