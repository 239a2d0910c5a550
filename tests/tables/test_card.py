"""The card of a row: its numbers are those of the records, it says what the row cannot show, its command works."""

import json
import re
import shlex

import numpy as np
import pytest
from recorded import record_of

from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.records.schema import Address, DataInfo, Failure, TuningInfo
from cran_bench.records.store import Finished, ResultStore
from cran_bench.tables.card import card, command, markdown
from cran_bench.tables.paper import paper_rows
from cran_bench.tables.tables import build_tables

ENVIRONMENT = {"commit": "0123456789ab+", "cpu": "a cpu", "gpu": None, "threads": 2, "torch": "2.13.0"}
PAPER = {
    "label": "flickr30k[split=entities]",
    "images": 1000,
    "captions": 5000,
    "front_end": "torchvision:vgg19 + paper",
}


def finished(method="cca:tuned", better=1, *, seed=0, protocol="captions", chose=None, about=None, record=None, **data):
    """A run in which `better` wrong answers, plus the query's number modulo 3, are before the right one."""
    info = {"label": "scenes", "quick": False, "split_sha": "5" * 64, "images": 60, "captions": 120}
    info |= {"front_end": "pixels + boxes", "features_sha": "f" * 64, "vectors": "ppmi-svd"}
    info = DataInfo(**info | data)
    sizes = info.images, info.images if protocol != "captions" else info.captions
    counts = [Counts(*(np.array(x, np.int32) for x in (better + np.arange(n) % 3, [0] * n, [1] * n))) for n in sizes]
    ranks = Ranks(counts[0], counts[1], np.arange(sizes[1]) // (sizes[1] // sizes[0]))
    made = record_of(
        method, info, ranks.metrics().values(), f"{seed}{better}".ljust(64, "a"), seed=seed, protocol=protocol
    )
    details = {"parameters": {"dim": [8, 16], "text": "tfidf"}, "chose": chose or {}, "encoders": ["backbone"]}
    changes = {"method": made.method.model_copy(update=details | (about or {})), "environment": ENVIRONMENT}
    changes |= {"seconds": made.seconds.model_copy(update={"fit": 1.25 + seed}), "peak_memory": 123_456_789}
    return Finished(made.model_copy(update=changes | (record or {})), lambda: ranks)


def failure(method="kcca:tuned", seed=0):
    data = finished().record.data
    lost = {"error": "RuntimeError: no", "traceback": "", "started": "", "environment": {}}
    return Failure(data=data, method_label=method, protocol="captions", folds=0, seed=seed, **lost)


def sections(runs, failures=(), label="cca:tuned"):
    """The sections of the card of a row, as dictionaries, and its table."""
    (table,) = build_tables(runs, failures)
    (row,) = (row for row in table.rows if row.label == label)
    return {heading: dict(lines) for heading, lines in card(row, table)}, row, table


def test_every_figure_is_that_of_the_records():
    found, row, table = sections([finished(seed=0), finished(better=2, seed=1), finished("cfa:tuned", 4)])
    headings = {f"{side}_{x}": f"{side} {x.replace('r', 'R@')}" for side in ("i2t", "t2i") for x in ("r1", "r5", "r10")}
    figures = {figure: found["Results"][heading] for figure, heading in {**headings, "rsum": "rsum"}.items()}
    for figure, text in figures.items():
        value, deviation, *ends = map(float, re.findall(r"[\d.]+", text))
        values = [record.metrics[figure] for record in row.records]
        assert value == pytest.approx(np.mean(values), abs=0.05) and len(values) == 2
        assert deviation == pytest.approx(np.std(values, ddof=1), abs=0.05)
        assert ends == pytest.approx(table.samples[row.label].interval(figure).ends, abs=0.05)
    names = {"medr": "median rank", "meanr": "mean rank"}
    ranks = {f"{side}_{x}": found["Results"][f"{side} {name}"] for side in ("i2t", "t2i") for x, name in names.items()}
    for figure, text in ranks.items():
        assert float(text.split(" ±")[0]) == pytest.approx(row.mean(figure), rel=1e-5)
    assert found["Results"]["rsum behind the best row"] == "best of 2 rows"
    behind = sections([finished(), finished("cfa:tuned", 4)], label="cfa:tuned")[0]["Results"][
        "rsum behind the best row"
    ]
    gap = build_tables([finished(), finished("cfa:tuned", 4)], [])[0].behind_best()["cfa:tuned"]
    assert behind == f"{gap.value:.1f} [{gap.low:.1f}, {gap.high:.1f}], is not the best"


def test_what_differs_between_seeds_is_said_of_each():
    tuning = TuningInfo(trials=2, seed=7, space={"dim": [8, 16]}, tried=[{}, {"dim": 16}], rsum=[None, 1.5], chosen=1)
    runs = [
        finished("cca:tuned[text=bow,tune=2]", seed=0, chose={"dim": 8, "power": 1.0}, about={"tuning": tuning}),
        finished("cca:tuned[text=bow,tune=2]", seed=2, chose={"dim": 16, "power": 1.0}, about={"tuning": tuning}),
    ]
    found, row, table = sections(runs, label="cca:tuned[text=bow,tune=2]")
    assert found["Chosen on validation"] == {"dim": "seed 0: 8; seed 2: 16", "power": "1"}
    assert found["Hyper-parameters"] == {"dim": "8|16", "text": "tfidf"}
    about = found["What it is"]
    assert (
        about["method"].startswith("CCA: canonical correlation analysis")
        and about["options beside the preset"] == "text=bow"
    )
    assert about["publication"].startswith('H. Hotelling, "Relations between two sets of variates"')
    assert about["equation"].startswith("max  w' Cxy v") and about["row of the paper"] == "CCA"
    assert found["Training"]["tuned"] == "trial 2 of 2, drawn with seed 7 from dim=8|16; on validation: failed, 1.5"
    assert found["Training"]["seeds"] == "0, 2" and found["Cost"]["fit, seconds"] == "2.25, mean over seeds"
    assert found["Cost"]["peak memory"] == "123 MB" and found["Cost"]["threads"] == "2"
    assert found["Provenance"]["commit"] == "0123456789ab, with uncommitted changes"
    assert found["Provenance"]["fingerprint"] == "; ".join(f"seed {r.seed}: {r.fingerprint}" for r in row.records)
    method = "-m 'cca:tuned[text=bow,tune=2]' -d scenes -p captions -s 0,2"
    front_end = "--backbone pixels --regions boxes --threads 2"
    assert shlex.join(command(row, table.group)) == f"cran-bench run {method} {front_end}"


def test_limits_and_exposures_are_told():
    data = {
        "label": "flickr8k",
        "trained_on": {"backbone": ["flickr30k"], "regions": None},
        "quick": True,
        "images": 5,
        "captions": 10,
    }
    found, *_ = sections([finished(**data)])
    limits = found["Limits"]
    assert {"one seed", "quick", "exposed", "small test split", "uncommitted changes"} <= limits.keys()
    assert (
        "among them images of this test set"
        in limits["exposed"]
        == found["Data and protocol"]["exposed to the test split"]
    )
    assert found["Data and protocol"]["training of these"] == "backbone trained on flickr30k"
    assert found["Against the CRAN paper"] == {
        "comparable": "no: the paper has no flickr8k; other backbone than torchvision:vgg19"
    }


def test_a_comparable_row_has_the_printed_figures_beside_it():
    found, *_ = sections([finished(protocol="documents", **PAPER)])
    (printed,) = (row for row in paper_rows(1) if (row.name, row.dataset) == ("CCA", "flickr30k"))
    assert found["Against the CRAN paper"]["comparable"] == "yes"
    numbers = [float(x) for x in re.findall(r"R@\d+ ([\d.]+)", found["Against the CRAN paper"]["printed in Table 1"])]
    assert numbers == list(printed.values.values())


def test_a_row_that_failed_or_whose_method_is_not_here_has_a_card():
    found, *_ = sections([finished()], [failure()], "kcca:tuned")
    assert found["Limits"] == {"failed": "kcca:tuned seed 0 FAILED: RuntimeError: no"} and "Results" not in found
    (other,) = (
        finished(
            record={"method": finished().record.method.model_copy(update={"label": "mine.py:M", "name": "mine.py:M"})}
        ),
    )
    found, *_ = sections([other], label="mine.py:M")
    assert (
        found["What it is"]["method"] == "mine.py:M, which is not installed here"
        and "publication" not in found["What it is"]
    )
    assert "-m mine.py:M" in found["Make it again"]["command"]


def test_markup_is_text_in_markdown_and_what_is_shared_is_written_once():
    odd = "scenes[a=<script>,c=כלב\u202e]"
    runs = [finished(), finished(protocol="documents"), finished(label=odd, vectors="glove:![a](http://b)")]
    rows = [(row, table) for table in build_tables(runs, []) for row in table.rows]
    text = markdown(rows)
    prose = [line for line in text.splitlines() if not line.startswith("      ")]  # others are code blocks
    assert not any(mark in line for mark in ("<script>", "](", "\u202e") for line in prose) and "כלב" in text
    assert text.count("## Hyper-parameters") == 1 == text.count("## What it is")
    assert [line for line in text.splitlines() if line.startswith("## ")][-3:] == [
        "## scenes · protocol captions · 60 images, 120 captions",
        "## scenes · protocol documents · 60 images, 120 captions",
        "## scenes[a=&lt;script>,c=כלב\\u202e] · protocol captions · 60 images, 120 captions",
    ]
    assert markdown(rows[:1]).splitlines()[0] == "# cca:tuned"


def test_its_command_finds_the_record_again(recorded_scenes, command, tmp_path):
    tiny = recorded_scenes
    said = command("export", "card", "cca", "--results", tiny.results, "-o", tmp_path / "cca.md")
    assert said.code == 0 and f"wrote {tmp_path / 'cca.md'}" in said.err, said.err
    text = (tmp_path / "cca.md").read_text()
    (line,) = re.findall(r"^ +cran-bench (.*)$", text, re.MULTILINE)
    folders = ["--data", tiny.data, "--cache", tiny.cache, "--results", tiny.results]
    again = command(*shlex.split(line), *folders)
    assert again.code == 0 and "[1/1] cca:tuned" in again.err and "(reused)" in again.err, again.err
    (path,) = tiny.results.rglob("cca-*[0-9a-f].json")
    record = json.loads(path.read_text())
    assert (
        f"- fingerprint: {record['fingerprint']}\n" in text and f"- records: {path.relative_to(tiny.results)}" in text
    )
    assert command("export", "card", "cca", "--results", tiny.results).out.rstrip() == text.rstrip()


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("ccaa:tuned", [], "there is no record of ccaa:tuned; did you mean 'cca:tuned'?"),
        ("kcca", [], "there is no record of kcca:tuned; did you mean 'cca:tuned'?"),
        ("cca:tunde", [], "cca has no preset 'tunde'; did you mean 'tuned'?"),
        ("cca", ["-d", "wikipedia"], "there are no records of wikipedia below"),
        ("cca", ["-o", "there/cca.md"], "there is no folder there"),
    ],
)
def test_what_has_no_card_is_one_sentence(command, tmp_path, monkeypatch, method, options, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRAN_BENCH_RESULTS", raising=False)
    run, store = finished(), ResultStore(tmp_path / "results")
    store.write(Address("scenes", "captions", 0, "cca:tuned", 0, run.record.fingerprint), run.record, run.ranks)
    said = command("export", "card", method, *options)
    assert said.code == 2 and sentence in " ".join(said.err.split()), said.err
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
