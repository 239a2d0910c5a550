"""Tables, tests of significance, reports and comparisons by category, of made records."""

import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from recorded import record_of

from cran_bench.comparison import compare_dataset
from cran_bench.comparison.significance import significance_table
from cran_bench.errors import BadInput
from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.precisions import CATEGORY_METRICS
from cran_bench.records.schema import Address, DataInfo, Failure
from cran_bench.records.store import Finished, ResultStore
from cran_bench.records.tasks import RECALL
from cran_bench.registry import METHODS
from cran_bench.similarity import COSINE
from cran_bench.tables.paper import published_rows
from cran_bench.tables.tables import build_tables, render
from cran_bench.tables.typesetting import FORMATS

CLASSES = 5


def data_info(images=40, **data):
    about = {"label": "wikipedia", "quick": False, "split_sha": "5" * 64, "images": images, "captions": images}
    about |= {"front_end": "data + none", "features_sha": "f" * 64, "vectors": "ppmi-svd", "labels_sha": "a" * 64}
    return DataInfo(**about | data)


def run(method="cca:cm", noise=1.0, *, seed=0, images=40, bare=0, labelled=True, **data):
    """A record and its ranks: class centres with `noise`; the first `bare` images have no category."""
    random = np.random.default_rng(int(100 * noise) + seed)
    classes = np.arange(images) % CLASSES
    sides = [np.eye(CLASSES)[classes] + noise * random.standard_normal((images, CLASSES)) for _ in range(2)]
    labels = torch.from_numpy(np.eye(CLASSES, dtype=np.uint8)[classes])
    labels[:bare] = 0
    rows, columns = (torch.from_numpy(side).float() for side in sides)
    found = evaluate(
        rows, columns, torch.arange(images), None, COSINE, "documents", labels=labels if labelled else None
    )
    label = METHODS.configure(method).label
    data, fingerprint = data_info(images, **data), f"{int(100 * noise):05}{seed}0123456789"
    record = record_of(label, data, dict(found.metrics), fingerprint, protocol="documents", seed=seed)
    return record, found.ranks


def finished(*about, **changes):
    record, ranks = run(*about, **changes)
    return Finished(record, lambda: ranks)


def stored(folder, *runs):
    store = ResultStore(folder)
    for record, ranks in runs:
        about = record.data.label, "documents", 0, record.method.label, record.seed, record.fingerprint
        store.write(Address(*about), record, ranks)
    return folder


def failure(**data):
    about = {"method_label": "kcca:tuned", "protocol": "documents", "folds": 0, "seed": 0}
    texts = {"error": "it broke", "traceback": "", "started": "2026-01-01T00:00:00+00:00", "environment": {}}
    return Failure(data=data_info(**data), **about, **texts)


ROWS = [("cca:paper", 1.5), ("cca:cm", 0.5), ("cfa:tuned", 1.0)]


@pytest.fixture(scope="module")
def tables():
    return build_tables([finished(*row, bare=2) for row in ROWS], [failure()], task="category")


def flat(text):
    return " ".join(text.split())


def test_rows_are_sorted_by_mean_average_precision_with_three_decimals(tables):
    (table,) = tables
    assert [row.label for row in table.rows] == ["cca:cm", "cfa:tuned", "cca:paper", "kcca:tuned"]
    cells = table.display()
    best = table.rows[0].records[0].metrics
    assert cells["map"] == [*(f"{row.mean('map'):.3f}" for row in table.rows[:3]), "failed"]
    assert [cells[name][0] for name in ("i2t_map50", "t2i_class_map")] == [
        f"{best[name]:.3f}" for name in ("i2t_map50", "t2i_class_map")
    ]
    assert cells["behind_best"][0] == "best"
    gap = table.behind_best()["cca:paper"]
    assert gap.high < 0 and cells["behind_best"][2] == f"{gap.value:.3f} [{gap.low:.3f}, {gap.high:.3f}]  "
    assert gap.value == pytest.approx(table.rows[2].mean("map") - best["map"])


def test_notes_say_what_the_figures_are(tables):
    text = flat(render(tables, "terminal"))
    for words in (
        "wikipedia · protocol documents · 40 images, 40 texts · by category",
        "its own partner included. mAP: mean average precision of the whole list",
        "with ties in expectation",
        "5 categories; without any, and left out: 2 image and 2 text queries.",
        "Behind best: mAP minus the best other row's",
        "kcca:tuned seed 0 FAILED: it broke",
    ):
        assert words in text
    assert "MedR" not in text and "R@1" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_a_table_by_category_fits(tables, width):
    lines = render(tables, "terminal", width=width).splitlines()
    assert max(map(len, lines)) <= width
    (heading,) = [line for line in lines if line.startswith("method")]
    assert all(column in heading for column in ("i2t mAP", "t2i mAP", " mAP", "behind best"))
    assert width == 80 or "t2i @50" in heading
    assert re.search(r"^cca:cm +\.\d{3} +\.\d{3} +\.\d{3} ", "\n".join(lines), re.MULTILINE)


def test_every_format_has_every_figure(tables):
    for style in FORMATS:
        assert render(tables, style)
    lines = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    record = tables[0].rows[0].records[0]
    assert [name for name in lines[0] if name in record.metrics] == list(CATEGORY_METRICS)
    assert float(lines[0]["map"]) == round(record.metrics["map"], 6)
    assert float(lines[0]["map_low"]) < float(lines[0]["map"]) < float(lines[0]["map_high"])
    assert json.loads(render(tables, "json", ["method", "map"]))[0] == {
        "method": "cca:cm",
        "map": float(lines[0]["map"]),
    }
    assert "i2t class" in render(tables, "latex") and "| cca:cm" in render(tables, "markdown")


def test_several_seeds_have_a_deviation():
    (table,) = build_tables([finished("cca:cm", 0.5 + seed / 10, seed=seed) for seed in range(3)], [], task="category")
    (cell,) = table.display()["map"]
    assert cell == f"{table.rows[0].mean('map'):.3f} ± {table.rows[0].deviation('map'):.3f}"
    assert "± of directions" in flat(render([table], "terminal", width=80))


def test_tables_of_recall_are_as_without_labels():
    with_labels = build_tables([finished(*row) for row in ROWS], [failure()])
    without = build_tables([finished(*row, labelled=False, labels_sha="") for row in ROWS], [failure(labels_sha="")])
    for style in FORMATS:
        assert render(with_labels, style) == render(without, style)
    assert without[0].task is RECALL
    assert not build_tables(
        [finished(*ROWS[0], labelled=False, labels_sha="")], [failure(labels_sha="")], task="category"
    )


def test_other_labels_are_another_table():
    both = [finished("cca:cm", 0.5), finished("cfa:tuned", 0.5, labels_sha="b" * 64)]
    tables = build_tables(both, [], task="category")
    assert len(tables) == 2 and "labels aaaaaaaa" in tables[0].title
    assert "they differ in labels" in " ".join(tables[0].notes)
    assert len(build_tables(both, [])) == 1


# Significance


def test_significance_without_methods_is_against_the_best(tables):
    text = significance_table(tables, [], "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["against"] for line in lines] == ["cfa:tuned", "cca:paper"]
    assert list(lines[0]) == ["against", "mAP", "difference", "95 % interval", "verdict"]
    gap = tables[0].behind_best()["cca:paper"]
    assert lines[1]["difference"] == f"{-gap.value:+.3f}" and lines[1]["verdict"] == "better"


def test_significance_figure_by_figure(tables):
    text = significance_table(tables, ["cca:cm", "cca:paper"], "terminal")
    assert "McNemar" not in text and "of fractions" in text
    figures = re.findall(r"(i2t mAP|t2i mAP|i2t @50|t2i @50| mAP) +0\.\d{3}", text)
    assert figures == ["i2t mAP", "t2i mAP", "i2t @50", "t2i @50", " mAP"]


# The command line


def test_the_commands(command, tmp_path):
    results = stored(tmp_path / "results", *(run(*row) for row in ROWS))
    said = command("table", "category", "--results", results)
    assert said.code == 0 and "by category" in said.out and "R@1" not in said.out
    assert command("table", "category", "--results", results, "--columns", "method,map").out.count(" mAP") >= 1
    assert "by category" not in command("table", "--results", results).out
    said = command("significance", "-d", "wikipedia", "-p", "documents", "--metric", "map", "--results", results)
    assert said.code == 0 and "better" in said.out
    said = command("significance", "-d", "wikipedia", "-p", "documents", "--metric", "mapp", "--results", results)
    assert said.code == 2 and "--metric is rsum, map, contrasts or judgments, not 'mapp'" in said.err
    assert command("table", "categories", "--results", results).err.count("did you mean 'category'?") == 1


def test_records_without_labels_say_so(command, tmp_path):
    results = stored(tmp_path / "results", run("cca:cm", labelled=False, labels_sha=""))
    said = command("table", "category", "--results", results)
    assert said.code == 2 and "none of these records has figures by category: they need data with labels" in flat(
        said.err
    )


def test_the_report_has_a_section_by_category(command, tmp_path):
    results = stored(tmp_path / "results", *(run(*row) for row in ROWS))
    said = command("report", "--results", results, "-o", tmp_path / "page.html")
    assert said.code == 0, said.err
    page = (tmp_path / "page.html").read_text()
    contents = json.loads(re.search(r'id="contents">(.*?)</script>', page)[1])
    found = {table["task"]: (table["headlineName"], table["most"]) for table in contents["tables"]}
    assert found == {"recall": ("rsum", 600), "category": ("mAP", 1)}
    assert [block["figure"] for block in contents["standings"]] == ["rsum", "mAP"]


# Comparisons


def compared(*runs, label="wikipedia", reference=None):
    def tabled(some):
        some = [Finished(record, lambda ranks=ranks: ranks) for record, ranks in some]
        return [table for task in ("recall", "category") for table in build_tables(some, [], task=task)]

    return compare_dataset(tabled(runs), label, None if reference is None else tabled(reference))


def published(verdicts):
    (verdict,) = [verdict for verdict in verdicts if verdict.title.startswith("Published")]
    return verdict, {(line[0], line[-2]): line[-1] for line in verdict.lines}


def test_the_published_figures_are_read():
    rows = {(row.row, row.provenance): row for row in published_rows("wikipedia")}
    assert rows["SCM", "M"].values == {"i2t_map": 0.277, "t2i_map": 0.226} and rows["SCM", "M"].is_quoted
    assert rows["CCA", "C"].values["i2t_map"] == 0.2435 and not rows["CCA", "C"].is_quoted
    assert not published_rows("flickr30k")
    for row in rows.values():
        name = row.preset.partition(":")[0]
        assert not name or name not in METHODS.names() or row.label.startswith(row.preset)


def test_a_row_far_below_public_code_has_regressed_and_quoted_ones_are_never_judged():
    low = run("cca:cm", 20.0, images=693)
    verdict, lines = published(compared(low))
    assert lines["CM", "M"] == "informational" and lines["CCA", "C"] == "REGRESSED"
    assert lines["SCM", "M"] == lines["PLS", "C"] == "missing"
    assert len(verdict.regressions) == 1 and verdict.judged == 2
    assert "annotation: mAP is significantly (95 %) more than 0.02 below CCA's, 0.243" in verdict.regressions[0]
    record = low[0]
    cells = next(line for line in verdict.lines if line[0] == "CM")
    assert cells[2] == f"0.249 → {record.metrics['i2t_map']:.3f}"
    assert cells[3].startswith(f"{record.metrics['i2t_map'] - 0.249:+.3f} [")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"images": 462}, "462 test pairs, but the split ucsd has 693"), ({"quick": True}, "part of the data")],
)
def test_rows_on_other_data_are_not_comparable(changes, reason):
    verdict, lines = published(compared(run("cca:cm", 20.0, **{"images": 693, **changes})))
    assert lines["CCA", "C"] == "not comparable" and not verdict.regressions and not verdict.judged
    assert f"cca:cm is not comparable: {reason}." in verdict.notes


def test_compare_needs_no_reference_for_published_figures(command, tmp_path):
    results = stored(tmp_path / "results", run("cca:cm", 20.0, images=693))
    said = command("compare", "-d", "wikipedia", "--results", results, "--reference", tmp_path / "none")
    assert said.code == 1 and "1 regressions" in said.out


def test_a_reference_is_compared_by_category_too():
    before, same, lower = run("cca:cm", 0.5), run("cca:cm", 0.5), run("cca:cm", 2.0)
    found = [v for v in compared(same, reference=[before]) if "by category" in v.title and "reference" in v.title]
    assert len(found) == 1 and not found[0].regressions and found[0].judged == 1
    found = [v for v in compared(lower, reference=[before]) if "by category" in v.title and "reference" in v.title]
    assert [line[-1] for line in found[0].lines] == ["LOWER", "LOWER"]
    assert found[0].lines[0][3] == f"{before[0].metrics['i2t_map']:.3f}"
    assert re.search(r"by category, cca:cm, annotation: 0\.\d{3}, the reference has 0\.\d{3}", found[0].regressions[0])


def test_other_labels_are_no_reference():
    record, ranks = run("cca:cm", 0.5)
    other = record.model_copy(update={"data": record.data.model_copy(update={"labels_sha": "b" * 64})}), ranks
    with pytest.raises(BadInput, match=r"by category are of different data than the reference: labels is a+, in the"):
        compared((record, ranks), reference=[other])
