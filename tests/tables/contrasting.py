"""Made records with contrasts and judgments, for tests of what shows them."""

from dataclasses import replace

import numpy as np

from cran_bench.ranking.agreement import Agreement
from cran_bench.ranking.contrasted import NOT_CROSSED, Contrasted
from cran_bench.ranking.metrics import Counts
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.relevance import Retrieved
from cran_bench.records.schema import DataInfo, Failure, MethodInfo, Record, Seconds, SimilarityInfo
from cran_bench.records.store import Finished
from cran_bench.registry import METHODS

IMAGES, PER = 40, 3
TEXTS = PER * IMAGES
IMAGE_OF = np.arange(TEXTS) // PER
KINDS = ("agent", "attribute", "preposition", "noun")


def contrasted(right=0.7, seed=0, bag=False, crossed=False):
    """60 pairs of each kind but 30 nouns; agent and most of attribute have the same words; 12 nouns are balanced."""
    random = np.random.default_rng(5)
    kind = np.repeat(np.arange(4), (60, 60, 60, 30))
    count = len(kind)
    image, blind = random.integers(0, IMAGES, count), 2 * (random.random(count) < 0.65)
    same = (kind == 0) | ((kind == 1) & (np.arange(count) % 4 > 0))
    balanced = np.zeros(count, dtype=bool)
    for k, most in enumerate((20, 15, 10, 6)):
        for outcome in (0, 2):
            balanced[np.flatnonzero((kind == k) & (blind == outcome))[:most]] = True
    second = np.where((kind == 2) & balanced, 2, 2 * (random.random(count) < 0.5))
    own = np.random.default_rng(seed)
    text = np.where(own.random(count) < 0.05, 1, 2 * (own.random(count) < right))
    text = np.where(same, 1, text) if bag else text
    partner, cross = np.full(count, -1), np.full(count, NOT_CROSSED)
    if crossed:
        rows = np.flatnonzero(kind == 2)
        partner[rows] = rows.reshape(-1, 2)[:, ::-1].ravel()
        cross[rows] = 2 * (own.random(len(rows)) < right)
    values = {"kind": kind, "text": text, "crossed": cross, "blind": blind, "second": second}
    values |= {"balanced": balanced, "same_words": same}
    values = {name: x.astype(np.uint8) for name, x in values.items()}
    return Contrasted(kinds=KINDS, image=image.astype(np.int32), partner=partner.astype(np.int32), **values)


def retrieved(queries, right, seed):
    random, count = np.random.default_rng(seed), len(queries)
    r1 = random.random(count) < right
    found = (
        r1,
        r1 | (random.random(count) < 0.5),
        r1 | (random.random(count) < 0.7),
        *right * random.random((3, count)),
    )
    return Retrieved(queries.astype(np.int32), np.full(count, 2, np.int32), *(np.array(x, np.float64) for x in found))


def agreement(noise, seed):
    random = np.random.default_rng(3)
    image, caption = random.integers(0, IMAGES, 90), random.integers(0, TEXTS, 90)
    quality = random.standard_normal(90)
    ratings = np.clip(np.round(2.5 + quality[:, None] + 0.5 * random.standard_normal((90, 3))), 1, 4)
    scores = quality + noise * np.random.default_rng(seed).standard_normal(90)
    rank = np.unique(scores, return_inverse=True)[1]
    return Agreement(*(x.astype(np.int32) for x in (image, caption, rank)), ratings=ratings)


def counts(size, seed):
    better = np.random.default_rng(seed).integers(0, 4, size)
    return Counts(*(x.astype(np.int32) for x in (better, np.zeros(size), np.ones(size))))


def ranks_of(right=0.7, seed=0, **about):
    ranks = RecordedRanks(counts(IMAGES, seed), counts(TEXTS, seed + 1), IMAGE_OF)
    sides = {"i2t": retrieved(np.arange(0, IMAGES, 2), right, seed), "t2i": retrieved(np.arange(100), right, seed + 1)}
    relevant = {"expert": {"t2i": sides["t2i"]}, "eccv": sides}
    agreements = {"expert": agreement(2 * (1 - right), seed)}
    return replace(ranks, contrasts=contrasted(right, seed, **about), relevant=relevant, agreements=agreements)


def data_info(**data):
    about = {"label": "flickr8k", "quick": False, "split_sha": "5" * 64, "images": IMAGES, "captions": TEXTS}
    about |= {"front_end": "data + none", "features_sha": "f" * 64, "vectors": "ppmi-svd"}
    about |= {"contrasts": "swap", "contrasts_sha": "c" * 64, "judgments_sha": "d" * 64}
    return DataInfo(**about | data)


def run(method="cca:tuned", right=0.7, *, seed=0, about=None, **data):
    """A record and its ranks."""
    ranks, name = ranks_of(right, seed, **about or {}), method.partition("[")[0].partition(":")[0]
    record = Record(
        fingerprint=f"{int(100 * right):05}{seed}0123456789",
        data=data_info(**data),
        method=MethodInfo(
            label=method,
            name=name,
            preset="tuned",
            paper_row=METHODS.describe(name).paper_row,
            parameters={},
            chose={},
            unit="captions",
            code_sha="c" * 64,
            fit_fingerprint="d" * 64,
        ),
        protocol="captions",
        folds=0,
        seed=seed,
        metrics=ranks.metrics().values(),
        ties=0,
        seconds=Seconds(features=1, fit=1, embed=1, similarity=1, rank=1),
        similarity=SimilarityInfo(name="cosine", kernel="reference", dtype="float64"),
        device="cpu",
        peak_memory=1,
        environment={"commit": "0123456789ab"},
        started="2026-01-01T00:00:00+00:00",
        ranks_sha="",
    )
    return record, ranks


def finished(*about, **changes):
    record, ranks = run(*about, **changes)
    return Finished(record, lambda: ranks)


def failure(**data):
    about = {"method_label": "kcca:tuned", "protocol": "captions", "folds": 0, "seed": 0}
    texts = {"error": "it broke", "traceback": "", "started": "2026-01-01T00:00:00+00:00", "environment": {}}
    return Failure(data=data_info(**data), **about, **texts)
