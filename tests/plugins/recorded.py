"""Made records for tests of tables, comparisons and pages: single ones, and folders of results, without any fit."""

import json
import os
import shutil
from dataclasses import replace
from itertools import product

import numpy as np

from cran_bench.machine.storage import canonical_json, sha256_bytes, sha256_json
from cran_bench.ranking.agreement import Agreement
from cran_bench.ranking.contrasted import NOT_CROSSED, Contrasted
from cran_bench.ranking.metrics import Counts
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.relevance import Retrieved
from cran_bench.records.archive import read_record
from cran_bench.records.examples import Examples
from cran_bench.records.schema import (
    ERROR,
    SCHEMA,
    Address,
    DataInfo,
    Failure,
    MethodInfo,
    Record,
    Seconds,
    SimilarityInfo,
)
from cran_bench.records.store import ResultStore
from cran_bench.records.tasks import evidence_metrics
from cran_bench.registry import METHODS

IMAGES, PER = 40, 3
TEXTS = PER * IMAGES
IMAGE_OF = np.arange(TEXTS) // PER
KINDS = ("agent", "attribute", "preposition", "noun")


MARKUP = "</script><img src=x onerror=alert(1)>&\"'|\x1b[31m\u202e"
ARABIC = "كلب يجري على الشاطئ"


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
        image[rows] = np.arange(10, IMAGES).repeat(2) - [0, 10] * (IMAGES - 10)  # chains of images: 0, 10, 20, 30
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
    """Ranks of 40 images and 120 captions, with contrasts and judgments; `about` is for `contrasted`."""
    ranks = RecordedRanks(counts(IMAGES, seed), counts(TEXTS, seed + 1), IMAGE_OF)
    sides = {"i2t": retrieved(np.arange(0, IMAGES, 2), right, seed), "t2i": retrieved(np.arange(100), right, seed + 1)}
    relevant = {"expert": {"t2i": sides["t2i"]}, "eccv": sides}
    agreements = {"expert": agreement(2 * (1 - right), seed)}
    return replace(ranks, contrasts=contrasted(right, seed, **about), relevant=relevant, agreements=agreements)


def record_of(
    label, data, metrics, fingerprint, *, protocol="captions", folds=0, seed=0, parameters=None, environment=None
):
    """The record of a method, given by its label, on `data`; it took a second in each phase."""
    name, _, preset = label.partition("[")[0].partition(":")
    return Record(
        fingerprint=fingerprint,
        data=data,
        method=MethodInfo(
            label=label,
            name=name,
            preset=preset,
            paper_row=METHODS.describe(name).paper_row if name in METHODS.names() else None,
            **({"reference": METHODS.describe(name).reference} if name in METHODS.references() else {}),
            parameters=parameters or {},
            chose={},
            unit="documents" if protocol == "documents" else "captions",
            code_sha="c" * 64,
            fit_fingerprint="d" * 64,
        ),
        protocol=protocol,
        folds=folds,
        seed=seed,
        metrics=metrics,
        ties=0,
        seconds=Seconds(features=1, fit=1, embed=1, similarity=1, rank=1),
        similarity=SimilarityInfo(name="cosine", kernel="reference", dtype="float64"),
        device="cpu",
        peak_memory=1,
        environment=environment or {"commit": "0123456789ab"},
        started="2026-01-01T00:00:00+00:00",
        ranks_sha="",
    )


def data_of(label="scenes", **changes):
    """The data of a record with `ranks_of`."""
    about = {"label": label, "quick": False, "split_sha": "5" * 64, "images": IMAGES, "captions": TEXTS}
    about |= {"front_end": "pixels + boxes", "features_sha": "f" * 64, "vectors": "ppmi-svd", "sources_sha": "a" * 64}
    return DataInfo(**about | changes)


def recall_ranks(skill=0.5, seed=0, images=IMAGES, per=PER):
    """Ranks without contrasts and judgments, in which right answers are first with a chance of `skill`."""
    random = np.random.default_rng(seed)

    def side(size):
        better = np.minimum(random.geometric(skill, size) - 1, images - 1)
        return Counts(*(x.astype(np.int32) for x in (better, np.zeros(size), np.ones(size))))

    return RecordedRanks(side(images), side(images * per), np.arange(images * per) // per)


def store_run(results, label, ranks=None, *, data=None, seed=0, examples=None, curves=None, **changes):
    """Write a record with the figures of its ranks, and the files beside it; return the record's path.

    Args:
        results: folder of results.
        label: of the method.
        ranks: by default those of `recall_ranks` for the seed.
        data: by default `data_of`.
        seed: of the run.
        examples: example queries, as `Examples`.
        curves: points of training curves, by name.
        changes: other fields of the record.
    """
    data, ranks = data or data_of(), ranks or recall_ranks(seed=seed)
    protocol, folds = changes.get("protocol", "captions"), changes.get("folds", 0)
    fingerprint = changes.get("fingerprint") or sha256_bytes(f"{data} {label} {protocol} {seed}".encode())
    metrics = {**ranks.metrics().values(), **evidence_metrics(ranks)}
    record = record_of(label, data, metrics, fingerprint, protocol=protocol, seed=seed)
    record = record.model_copy(update={"ties": ranks.ties(), **changes})
    store, address = ResultStore(results), Address(data.label, protocol, folds, label, seed, fingerprint)
    store.write(address, record, ranks, curves, examples)
    return store.path(address)


def change(path, seal=True, **changes):
    """Change fields of a stored record, with a checksum that fits unless `seal` is false."""
    values = {**json.loads(path.read_text()), **changes}
    del values["checksum"]
    path.write_text(canonical_json({**values, "checksum": sha256_json(values) if seal else ""}))


def failure_of(label, error="it gave NaN", *, data=None, seed=0):
    """An error record."""
    about = {"protocol": "captions", "folds": 0, "seed": seed, "error": error, "traceback": f"Traceback\n{error}"}
    about |= {"started": "2026-01-01T00:00:00+00:00", "environment": {}}
    return Failure(data=data or data_of(), method_label=label, **about)


def store_failure(results, label, error="it gave NaN", *, data=None, seed=0):
    """Write an error record, and return its path."""
    failure = failure_of(label, error, data=data, seed=seed)
    address = Address(failure.data.label, "captions", 0, label, seed, sha256_bytes(label.encode()))
    ResultStore(results).write_failure(address, failure)
    return next((results / "runs").rglob(f"{address.stem().name}*{ERROR}"))


def _one_method(results):
    store_run(results, "cca:tuned")


def _newer(results):
    store_run(results, "cca:tuned")
    path = store_run(results, "cfa:tuned")
    change(path, schema_version=SCHEMA + 1, data={**data_of().model_dump(), "licence": "new"}, licence="new")


def _failed(results):
    store_run(results, "cca:tuned")
    store_failure(results, "cfa:tuned")
    store_failure(results, "cran:tuned", f"{MARKUP} {ARABIC}", data=data_of("flickr8k"))


def _damaged(results):
    store_run(results, "cca:tuned")
    paths = [store_run(results, f"kcca:tuned[dim={k}]", recall_ranks(seed=k)) for k in range(5)]
    change(paths[0], metrics={**json.loads(paths[0].read_text())["metrics"], "i2t_r1": 99.0})
    change(paths[1], seal=False, ties=3)
    paths[2].write_text(paths[2].read_text()[:200])
    paths[3].with_suffix(".npz").unlink()
    paths[4].with_suffix(".npz").write_bytes(paths[0].with_suffix(".npz").read_bytes())


def _hundred(results):
    for k in range(100):
        store_run(results, f"cca:tuned[dim={k + 1}]", recall_ranks(0.2 + 0.006 * k, k))


def _thousands(results):
    """5,000 records: 10 datasets x 100 methods x 5 seeds, of 4 images; with ranks of 20 kinds."""
    kinds = []
    for k in range(20):
        ranks = recall_ranks(0.2 + 0.03 * k, k, images=4, per=1)
        path = store_run(results / "kinds", "cca:tuned", ranks, data=data_of(images=4, captions=4), seed=k)
        kinds.append((path.with_suffix(".npz"), read_record(path)))
    for dataset, row, seed in product(range(10), range(100), range(5)):
        ranks, record = kinds[(row + seed) % len(kinds)]
        data, label = data_of(f"made-{dataset}", images=4, captions=4), f"cca:tuned[dim={row + 1}]"
        fingerprint = sha256_bytes(f"{dataset} {row} {seed}".encode())
        method = record.method.model_copy(update={"label": label})
        changes = {"data": data, "method": method, "seed": seed, "fingerprint": fingerprint}
        values = record.model_copy(update=changes).model_dump(exclude={"checksum"})
        path = ResultStore(results).path(Address(data.label, "captions", 0, label, seed, fingerprint))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(canonical_json({**values, "checksum": sha256_json(values)}))  # each synced would take minutes
        os.link(ranks, path.with_suffix(".npz"))
    shutil.rmtree(results / "kinds")


def _markup(results):
    for name in (MARKUP, ARABIC):
        answer = {"image": name, "text": 1, "score": 0.5}
        example = {"direction": "i2t", "image": name, "text": 0, "found": [answer]}
        pages = Examples.model_validate({"examples": [example]})
        data = data_of(f"folder[name={name}]", front_end=name, vectors=name, text_encoder=name)
        curves = {name: [{"epoch": 1, "rsum": 2.0}, {"epoch": 2, "rsum": 3.0}]}
        about = {"environment": dict.fromkeys(("cpu", "gpu", "torch", "commit"), name), "device": name}
        store_run(results, f"cca:{name}", data=data, examples=pages, curves=curves, **about)
        store_run(results, f"{name}:tuned", recall_ranks(0.6, 1), data=data, **about)
        store_failure(results, f"cfa:{name}", name, data=data)


def _judged(results):
    data = data_of("flickr8k", contrasts="swap", contrasts_sha="c" * 64, judgments_sha="d" * 64)
    for label, right in (("cca:tuned", 0.6), ("cfa:tuned", 0.52), ("scan:tuned", 0.8)):
        for seed in range(2):
            hard = [{"image": f"{k}.jpg", "pair": k, "kind": KINDS[k % 4], "true": 0.1, "false": 0.2} for k in range(3)]
            pages = Examples.model_validate({"examples": [], "contrasts": hard})
            store_run(results, label, ranks_of(right, seed, crossed=True), data=data, seed=seed, examples=pages)
    store_run(results, "cca:tuned[text=tfidf]", ranks_of(0.6, bag=True, crossed=True), data=data)


FOLDERS = {
    "one method": _one_method,
    "newer schema": _newer,
    "failed rows": _failed,
    "damaged rows": _damaged,
    "a hundred methods": _hundred,
    "thousands of records": _thousands,
    "markup": _markup,
    "judged": _judged,
}
"""What `make_results` makes."""


def make_results(results, kind):
    """Write records of one of the kinds of `FOLDERS` below a folder of results, and return it."""
    FOLDERS[kind](results)
    return results
