"""The blind baseline: how far contrasts can be solved from their captions alone, without the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cran_bench.contrasts import NO_PARTNER, Contrasts
from cran_bench.errors import BadInput
from cran_bench.frontend.text.ngrams import NearUnits, NGrams, Values
from cran_bench.frontend.text.tagging import words_of
from cran_bench.frontend.text.words import tokenize
from cran_bench.machine.progress import track

ORDERS = range(1, 6)
DISCOUNTS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
CALIPER = 0.25
"""The largest difference, in nats, of the margins of two pairs that balance each other."""

CHARACTERS, WINDOW, DISCOUNT, FIRST_SHARE = 6, 5, 0.8, 0.5
"""Settings of the second model, chosen on the contrasts that `make_swaps` makes of Flickr8k's validation captions."""
MOST_CAPTIONS = 100_000
"""The second model learns from no more training captions than this, evenly spaced."""


@dataclass(frozen=True)
class Blind:
    """What two models of the text alone make of P contrasts.

    Attributes:
        first: (P,) log p(true) - log p(false) of word n-grams; exactly 0 for a tie.
        second: (P,) the same of the second model, by which nothing is balanced; to be read on balanced subsets.
        balanced: (P,) whether the pair is in the balanced subset of its kind, on which `first` is right for 50 %.
        same_words: (P,) whether both captions have the same words, each as often, punctuation and case aside.
    """

    first: Values
    second: Values
    balanced: NDArray[np.bool_]
    same_words: NDArray[np.bool_]

    @classmethod
    def unknown(cls, contrasts: Contrasts) -> Blind:
        """Ties and no balanced subset, for data without training captions, which such models are made of."""
        tie, none = np.zeros(len(contrasts)), np.zeros(len(contrasts), dtype=np.bool_)
        return cls(tie, tie, none, _same_words(contrasts))


def blind_scores(contrasts: Contrasts, train: Sequence[str], val: Sequence[str]) -> Blind:
    """Score `contrasts` by models of the training captions, and choose the balanced subset of each kind.

    The first model is an interpolated Kneser-Ney model of word n-grams, of the order and discount with the lowest
    perplexity on the validation captions.

    The second attacks the balanced subsets, and need not know how the false captions were made.  It multiplies the
    probabilities of two models that see what word n-grams do not: n-grams of characters, case and all, know rare words
    by their letters, and pairs of words at most `WINDOW` apart relate those that others separate.  Where the first
    model is balanced, its margin is noise that the second shares; so half of it is subtracted, on all pairs alike.
    Read its accuracy on balanced subsets only.

    Raises:
        BadInput: there are no training or no validation captions.
    """
    for name, texts in (("training", train), ("validation", val)):
        if not any(map(tokenize, texts)):
            raise BadInput(
                f"the blind baseline of contrasts needs {name} captions with words, but there are none: give the "
                "dataset training and validation captions, or run it without contrasts"
            )
    model = NGrams([words_of(text) for text in train], max(ORDERS))
    order, discount = model.best([words_of(text) for text in val], ORDERS, DISCOUNTS)
    texts = list(dict.fromkeys((*contrasts.true, *contrasts.false)))
    words, some = [words_of(text) for text in texts], train[:: -(-len(train) // MOST_CAPTIONS)]
    jobs: list[Callable[[], Values]] = [
        lambda: model.scores(words, order, discount),
        lambda: NGrams([_line(text) for text in some], CHARACTERS).scores(
            [_line(text) for text in texts], CHARACTERS, DISCOUNT
        ),
        lambda: NearUnits([words_of(text) for text in some], WINDOW, DISCOUNT).scores(words),
    ]
    first, letters, near = (job() for job in track(jobs, "blind baseline of the contrasts", total=len(jobs)))
    place = {text: row for row, text in enumerate(texts)}
    true, false = (np.array([place[text] for text in of], dtype=np.int64) for of in (contrasts.true, contrasts.false))
    margin, second = (scores[true] - scores[false] for scores in (first, letters + near - FIRST_SHARE * first))
    return Blind(margin, second, balanced_subset(contrasts, margin), _same_words(contrasts))


def _same_words(contrasts: Contrasts) -> NDArray[np.bool_]:
    pairs = zip(contrasts.true, contrasts.false, strict=True)
    return np.array([_bags(true) == _bags(false) for true, false in pairs], dtype=np.bool_)


def _bags(text: str) -> tuple[list[str], list[str]]:
    return sorted(word for word in words_of(text) if word[0].isalnum()), sorted(tokenize(text))


def balanced_subset(contrasts: Contrasts, margin: Values) -> NDArray[np.bool_]:
    """Choose pairs (P,) on which a model with these margins (P,) is right for half, whatever use it makes of them.

    Within each kind every kept pair with a margin above 0 has a kept partner of its own below 0, whose margin differs
    in size by at most `CALIPER`.  In the order of the sizes each pair takes as its partner the latest one before it
    that has the other sign and no partner yet.  Ties of the model are kept, and both halves of crossed pairs, whose
    margins are opposite already.  Pairs of equal margin follow each other by their captions and images, so that the
    subset does not depend on the order of the pairs.
    """
    kept: NDArray[np.bool_] = (margin == 0) | (contrasts.partners != NO_PARTNER)
    rows = sorted(
        np.flatnonzero(~kept).tolist(),
        key=lambda row: (abs(margin[row]), contrasts.true[row], contrasts.false[row], contrasts.image[row]),
    )
    waiting: list[list[int]] = [[] for _ in contrasts.kinds]
    for row in rows:
        before = waiting[contrasts.kind[row]]
        if before and abs(margin[row]) - abs(margin[before[-1]]) > CALIPER:
            before.clear()
        if before and (margin[row] > 0) != (margin[before[-1]] > 0):
            kept[[row, before.pop()]] = True
        else:
            before.append(row)
    return kept


def _line(text: str) -> str:
    return " ".join(text.split())
