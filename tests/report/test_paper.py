"""The paper's tables on the page, and training curves: the numbers that are drawn are those of the tables."""

import json
from dataclasses import replace

import numpy as np
import pytest
from invented import as_printed, made, tabled

from cran_bench.comparison import compare_dataset
from cran_bench.comparison.with_paper import VERDICTS, paper_cells
from cran_bench.records.tasks import FIGURES
from cran_bench.report.contents import table_ids
from cran_bench.report.curves import POINTS, curve_contents
from cran_bench.report.details import Details, as_json
from cran_bench.report.paper import paper_contents
from cran_bench.tables.paper import paper_rows

OWN = {"data": "flickr30k[split=entities]"}


@pytest.fixture(scope="module")
def judged():
    """Rows of Tables 1 and 3 on Flickr-30K, with each verdict; one that is not comparable; one row on other data."""
    runs = as_printed(corr_ae=25.0, cca=-8.0, gmm_hglmm=12.0, kcca=5.0)
    runs = [run for run in runs if run[0].method.name in ("cca", "kcca", "corr-ae", "gmm-hglmm", "dcca", "cran")]
    runs.append(
        made("cran-local:paper[width=compact]", [20, 40, 50] * 2, protocol="mean", parameters={"width": "compact"})
    )
    runs.append(made("cfa:paper", [10, 20, 30] * 2, protocol="captions"))
    runs.append(made("cfa:tuned", [1, 2, 3] * 2))
    runs += [
        made("cca:tuned", [30, 50, 60] * 2, data=data, quick=":" in data, images=200)
        for data in ("flickr8k", "scenes:quick")
    ]
    return tabled(runs, [])


def test_each_number_is_that_of_the_table(judged):
    found = json.loads(as_json(paper_contents(judged)))
    assert [one["dataset"] for one in found["sets"]] == ["flickr30k[split=entities]", "flickr8k"]
    rows = {
        (name, row.label): (table, row)
        for name, table in zip(table_ids(judged), judged, strict=True)
        for row in table.rows
    }
    for one in found["sets"]:
        for key, shown in one["rows"].items():
            table, row = rows[shown["table"], shown["label"]]
            assert one["dataset"] == table.group.dataset and key.endswith(f" {row.records[0].method.paper_row}")
            for figure, numbers in zip(FIGURES, shown["measured"], strict=True):
                own = [row.mean(figure), *table.samples[row.label].interval(figure).ends]
                np.testing.assert_allclose(numbers, own, atol=0.006)
    for section in found["tables"]:
        printed = paper_rows(section["number"], section["dataset"])
        assert [row["values"] for row in section["rows"]] == [[row.values[f] for f in FIGURES] for row in printed]


def test_verdicts_are_those_of_the_text(judged):
    one, other = paper_contents(judged)["sets"]
    told = set()
    for verdict in compare_dataset([t for t in judged if t.group.dataset == OWN["data"]], "flickr30k", None):
        if not verdict.title.startswith("Table"):
            continue
        reading = "captions" if "· captions ·" in verdict.title else "matching"
        preset = "tuned" if "preset tuned" in verdict.title else "paper"
        name, words, gaps = "", [], []
        for line in verdict.lines:
            if line[2] == "annotation":
                name, words, gaps = line[0], [], []
            words += line[-1].split(" / ") if " / " in line[-1] else [line[-1]] * 3
            gaps += [text.partition(" ")[0] for text in line[4:9:2]]
            if line[2] == "retrieval":
                shown = one["rows"][f"{preset} {reading} {name}"]
                assert shown["verdicts"] == words
                assert [f"{gap[0]:+z.1f}" for gap in shown["gaps"]] == gaps
                told |= set(words)
    assert told == set(VERDICTS)
    assert one["rows"]["paper matching CRAN-local"]["why"] == "width compact"
    assert one["rows"]["paper captions CFA"]["why"] == "" and "paper matching CCL" not in one["rows"]
    assert not any("verdicts" in row or "gaps" in row for row in other["rows"].values())
    assert other["why"]["mscoco"] == "measured on flickr8k, but the paper's numbers are of MS-COCO"


def test_rows_of_one_of_the_papers_datasets_are_not_held_against_the_other(judged):
    own = [table for table in judged if table.group.dataset == OWN["data"]]
    cells = paper_cells(paper_rows(2)[-1], own, "paper", "matching")
    assert {cell.verdict for cell in cells.values()} == {"not comparable"}
    assert {cell.gap for cell in cells.values()} == {None} and "numbers are of MS-COCO" in cells["i2t_r1"].why
    (one, _) = paper_contents(judged)["sets"]
    assert [*one["why"]] == ["mscoco"]


def test_data_with_one_label_have_names_of_their_own():
    runs = [
        made(
            "cca:paper",
            [20, 40, 50] * 2,
            **OWN,
            images=100,
            features_sha=sha * 64,
            front_end=f"onnx:{sha}.onnx[tensor=x] + none",
        )
        for sha in "ab"
    ]
    runs += [
        made("cca:paper", [20, 40, 50] * 2, data="mscoco[split=random]", images=100, split_sha=sha * 64) for sha in "ab"
    ]
    sets = paper_contents(tabled(runs, []))["sets"]
    assert len({one["id"] for one in sets}) == len({one["title"] for one in sets}) == 4
    assert sets[0]["title"] == "flickr30k[split=entities], a.onnx + none"


def test_curves_are_those_that_were_recorded(tmp_path):
    (table,) = tabled([made("cca:tuned", [20, 40, 50] * 2)], [])
    (row,) = table.rows
    at = tmp_path / "record.json"
    row = replace(row, runs=[replace(row.runs[0], path=at)])
    lines = ["trained,epoch,loss,rsum,twins"]
    lines += [f"long,{epoch},{1 / epoch:.6g},{'' if epoch % 2 else epoch},50" for epoch in range(1, 1002)]
    lines += ["broken,1,inf,3,50", "broken,2,1,4,50", "short,1,2,,"]
    (tmp_path / "record.curves.csv").write_text("\n".join(lines))
    found = json.loads(as_json(curve_contents([row], Details(None))))[row.label]
    long, broken = found["plots"]
    assert [line["name"] for line in long["lines"]] == ["loss", "rsum"] and long["across"] == "epoch"
    loss, rsum = long["lines"]
    assert len(loss["x"]) == len(rsum["x"]) == POINTS
    assert (loss["x"][0], loss["x"][-1], rsum["x"][0], rsum["x"][-1]) == (1, 1001, 2, 1000)
    np.testing.assert_allclose(loss["y"], 1 / np.array(loss["x"]), rtol=1e-3)
    assert rsum["x"] == rsum["y"] and loss["x"] == sorted(loss["x"])
    assert (broken["name"], broken["lines"]) == ("broken", [{"name": "rsum", "x": [1, 2], "y": [3, 4]}])
