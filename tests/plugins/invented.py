"""Made rows with given recalls: those that the paper prints, or others."""

from zlib import crc32

import numpy as np
from recorded import record_of

from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.records.schema import Address, DataInfo
from cran_bench.records.store import Finished, ResultStore
from cran_bench.records.tasks import FIGURES
from cran_bench.registry import METHODS
from cran_bench.tables.paper import TABLES, TEST_PAIRS, paper_rows
from cran_bench.tables.tables import build_tables

PAPER_FRONT_END = "torchvision:vgg19 + paper"
NAMES = {METHODS.get(name).paper_row: name for name in METHODS.names()}


def tabled(runs, failures):
    return build_tables([Finished(record, lambda ranks=ranks: ranks) for record, ranks in runs], failures)


def ranks_of(recalls, images, captions, luck):
    """Ranks with these recalls in percent; an image that is hard for one row is hard for the others."""
    hard = np.random.default_rng(0).permutation((np.arange(images) + 0.5) / images)
    random = np.random.default_rng(luck)

    def counts(figures, times):
        u = np.repeat(hard, times) + 0.1 * random.normal(size=images * times)
        share = 100 * (u.argsort().argsort() + 0.5) / len(u)
        better = np.select([share < bound for bound in figures], [0, 3, 8], 99).astype(np.int32)
        return Counts(better, np.zeros_like(better), np.ones_like(better))

    owners = np.repeat(np.arange(images), captions)
    return Ranks(counts(recalls[:3], 1), counts(recalls[3:], captions), owners)


def made(
    label,
    recalls,
    *,
    data="flickr30k[split=entities]",
    protocol="documents",
    seed=0,
    front_end=PAPER_FRONT_END,
    images=1000,
    parameters=None,
    **changes,
):
    ranks = ranks_of(recalls, images, 5 if protocol == "captions" else 1, seed + crc32(label.encode()))
    info = {"label": data, "quick": False, "split_sha": "5" * 64, "images": images, "captions": 5 * images}
    info |= {"front_end": front_end, "features_sha": "f" * 64, "vectors": "ppmi-svd"}
    known = {*info, "sources_sha", "extras_sha"}
    record = record_of(
        label,
        DataInfo(**{**info, **{k: v for k, v in changes.items() if k in known}}),
        ranks.metrics().values(),
        f"{label}{protocol}{seed}{data}",
        protocol=protocol,
        folds=changes.get("folds", 0),
        seed=seed,
        parameters=parameters,
        environment={"cpu": "a cpu", "gpu": None, "torch": "2.9", "commit": "abc"},
    )
    return record, ranks


def as_printed(dataset="flickr30k", preset="paper", **off):
    """The paper's rows as if measured: the printed recalls, less `off` points for a row by its plugin name."""
    data = {"flickr30k": "flickr30k[split=entities]", "mscoco": "mscoco[split=random]"}[dataset]
    runs, images = [], TEST_PAIRS[dataset]
    for table, sets in TABLES.items():
        for row in paper_rows(table) if dataset in sets else ():
            name = NAMES[row.name]
            if row.dataset != dataset or (table == 3 and row.name == "CRAN"):
                continue
            width = "[width=full]" if name.startswith("cran") else ""
            recalls = [max(0.5, row.values[figure] - off.get(name.replace("-", "_"), 0.0)) for figure in FIGURES]
            runs.append(made(f"{name}:{preset}{width}", recalls, data=data, protocol=row.protocol, images=images))
    return runs


def stored(folder, runs):
    store = ResultStore(folder)
    for record, ranks in runs:
        where = (record.data.label, record.protocol, record.folds, record.method.label, record.seed)
        store.write(Address(*where, record.fingerprint), record, ranks)
    return folder
