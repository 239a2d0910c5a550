"""The summary of all tables: ranks, means over datasets, costs and what is missing, of made records."""

import csv
import io
import json
import re

import numpy as np
import pytest
from recorded import record_of

from cran_bench.ranking.metrics import Counts
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.chance import chance_and_perfect
from cran_bench.records.schema import Address, DataInfo, Failure
from cran_bench.records.standings import Scored, gaps_like_these, mean_over, rank_intervals
from cran_bench.records.statistics import estimates
from cran_bench.records.store import Finished, ResultStore
from cran_bench.records.tasks import RECALL
from cran_bench.tables.summary import on_front, ranks_text, summarise
from cran_bench.tables.tables import build_tables
from cran_bench.tables.typesetting import FORMATS

IMAGES = 60


def data_info(dataset="scenes", **data):
    about = {
        "label": dataset,
        "quick": False,
        "split_sha": dataset.encode().hex().ljust(64, "0"),
        "captions": 2 * IMAGES,
    }
    about |= {"front_end": "pixels + boxes", "features_sha": "f" * 64, "vectors": "ppmi-svd", "images": IMAGES}
    return DataInfo(**about | data)


def made(method, hits, dataset="scenes", *, seconds=1.0, memory=1, seed=0, **data):
    """A record and its ranks: a right answer is first with a probability of `hits`, else sixth."""

    def counts(queries, seed):
        better = np.where(np.random.default_rng(seed).random(queries) < hits, 0, 5).astype(np.int32)
        return Counts(better, np.zeros_like(better), np.ones_like(better))

    noise = len(method) + len(dataset) + 100 * seed
    ranks = RecordedRanks(counts(IMAGES, noise), counts(2 * IMAGES, noise + 1), np.arange(IMAGES).repeat(2))
    of = method, data_info(dataset, **data), ranks.metrics().values(), f"{noise:03}{int(100 * hits):03}0123456789"
    record = record_of(*of, seed=seed)
    record = record.model_copy(
        update={"seconds": record.seconds.model_copy(update={"fit": seconds}), "peak_memory": memory}
    )
    return record, ranks


def finished(*about, **changes):
    record, ranks = made(*about, **changes)
    return Finished(record, lambda: ranks)


def failure(method, dataset="scenes", **data):
    about = {"method_label": method, "protocol": "captions", "folds": 0, "seed": 0, "data": data_info(dataset, **data)}
    texts = {"error": "it broke", "traceback": "", "started": "2026-01-01T00:00:00+00:00", "environment": {}}
    return Failure(**about, **texts)


THREE = {"cca:tuned": 0.9, "cfa:tuned": 0.5, "kcca:tuned": 0.48}


def three(dataset, seed=0, **data):
    return [finished(method, hits, dataset, seed=seed, **data) for method, hits in THREE.items()]


def summary_of(runs, failures=(), **about):
    return summarise(build_tables(runs, failures), **about)


@pytest.fixture(scope="module")
def two():
    """Three rows on two datasets, a fourth on one, and a fifth that failed on the other."""
    more = [finished("macc:tuned", 0.95, "scenes", seconds=0.1), finished("dcca:tuned", 0.3, "scenes")]
    return summary_of([*three("scenes"), *three("flickr8k"), *more], [failure("dcca:tuned", "flickr8k")])


def test_a_mean_is_of_scores_from_chance_to_perfection(two):
    (task,) = two.tasks
    assert [row.label for row in task.standings if row.mean] == task.complete and {*task.complete} == {*THREE}
    t2i = sum(k / IMAGES for k in (1, 5, 10))
    i2t = sum(1 - np.prod([(118 - x) / (120 - x) for x in range(k)]) for k in (1, 5, 10))  # either of two among 120
    chance = 100 * (i2t + t2i)
    for row in task.standings[:3]:
        scores = [100 * (cell.value - chance) / (600 - chance) for cell in row.cells]
        assert [cell.score for cell in row.cells] == pytest.approx(scores)
        assert row.mean.score == pytest.approx(np.mean(scores))
        assert (row.mean.seconds, row.mean.memory) == (2, 1)


def test_ranks_are_those_of_the_statistics(two):
    (task,) = two.tasks
    for place, table in enumerate(task.tables):
        found = {row.label: row.cells[place].rank for row in task.standings if row.cells[place]}
        assert {label: rank for label, rank in found.items() if rank} == table.rank_intervals()
    scored = []
    for table in task.tables:
        of_table = estimates([table.samples[label] for label in task.complete])
        chance, _ = chance_and_perfect(RECALL, table.rows[0].ranks[0])
        scored.append(Scored(of_table.scaled(chance, 600), table.group.dataset, table.group.split_sha))
    here, like = mean_over(scored).gaps(0.05).certain, gaps_like_these(scored, 0.05).certain
    rows = {row.label: row.mean for row in task.standings if row.mean}
    assert [list(rows[label].here) for label in task.complete] == rank_intervals(here).tolist()
    assert [list(rows[label].alike) for label in task.complete] == rank_intervals(here, like).tolist()
    assert [rows[label].here for label in THREE] == [(1, 1), (2, 3), (2, 3)]
    assert rows["cca:tuned"].alike[1] > 1  # two datasets say little of others


def test_what_is_missing_is_seen_and_counted(two):
    (task,) = two.tasks
    by_label = {row.label: row for row in task.standings}
    scenes = [table.group.dataset for table in task.tables].index("scenes")
    assert by_label["macc:tuned"].cells[1 - scenes] is None and by_label["macc:tuned"].cells[scenes].place == "best"
    failed = by_label["dcca:tuned"].cells[1 - scenes]
    assert (failed.status, failed.text, failed.rank) == ("failed", "failed", None)
    assert "2 of 5 rows have no mean, as they are not ranked on both datasets." in " ".join(task.notes)
    assert "1 cell has failed runs or damaged records" in " ".join(task.notes)
    text = two.render("terminal")
    assert re.search(r"macc:tuned +- +- +- .* ★", text) and re.search(r"dcca:tuned .* failed", text)


def test_contents_for_the_page(two):
    (task,) = json.loads(json.dumps(two.contents(lambda table: f"id-{table.group.dataset}"), allow_nan=False))
    assert (task["title"], task["figure"], task["quick"]) == ("recall · protocol captions", "rsum", False)
    assert {column["id"] for column in task["columns"]} == {"id-scenes", "id-flickr8k"}
    best, *_, last = task["rows"]
    assert best["label"] == "cca:tuned" and best["rankHere"] == [1, 1] and best["front"] == ["time", "memory"]
    assert all(cell["rank"] and cell["value"] for cell in best["cells"])
    assert last["mean"] is last["rankHere"] is last["rankAlike"] is last["seconds"] is None
    cells = [cell for row in task["rows"] for cell in row["cells"]]
    assert cells.count(None) == 1 and [cell["text"] for cell in cells if cell and cell["value"] is None] == ["failed"]
    assert task["notes"] == two.tasks[0].notes


def test_the_csv_has_a_line_for_each_cell_and_mean(two):
    lines = list(csv.DictReader(io.StringIO(two.render("csv"))))
    assert len(lines) == 5 * 2 + 3 and json.loads(two.render("json"))[0].keys() == lines[0].keys()
    of = {(line["method"], line["dataset"]): line for line in lines}
    assert of["macc:tuned", "flickr8k"]["status"] == "not run" and of["dcca:tuned", "flickr8k"]["status"] == "failed"
    mean = of["cca:tuned", ""]
    assert (mean["figure"], mean["rank_low"], mean["rank_high"], mean["seconds_front"]) == ("mean", "1", "1", "True")
    scores = [float(of["cca:tuned", dataset]["score"]) for dataset in ("scenes", "flickr8k")]
    assert float(mean["score"]) == pytest.approx(np.mean(scores), abs=1e-3)


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_has_every_row(two, style):
    text = two.render(style, 80)
    assert all(method in text for method in ("cca:tuned", "macc:tuned", "dcca:tuned"))
    assert style != "terminal" or (max(map(len, text.splitlines())) <= 80 and "Left out to fit 80" in text)


def test_tables_of_one_dataset_are_columns_of_their_own_and_one_dataset():
    """A front end joins the mean if it has all rows; two of one dataset say nothing of other datasets."""
    other = {"front_end": "data + none", "features_sha": "e" * 64}
    (both,) = summary_of([*three("scenes"), *three("scenes", seed=1, **other)]).tasks
    assert both.names == ["scenes (1)", "scenes (2)"] and both.counted == [0, 1] and both.has_means
    assert all(row.mean.here and row.mean.alike is None for row in both.standings)
    assert any("scenes (2)" in note and "data + none" in note for note in both.notes)
    (one,) = summary_of([*three("scenes", **other), *three("scenes")[:2], *three("flickr8k")]).tasks
    assert sorted(one.names[k] for k in one.counted) in (["flickr8k", "scenes (1)"], ["flickr8k", "scenes (2)"])
    assert len(one.tables[one.counted[-1]].rows) == 3 and len(one.complete) == 3
    assert any(note.startswith("Not in the mean") for note in one.notes)
    (options,) = summary_of([*three("scenes"), *three("scenes[train=600]")]).tasks
    assert options.has_means and all(row.mean.alike is None for row in options.standings)


def test_a_dataset_that_few_rows_have_is_named():
    runs = [*three("scenes"), *three("flickr8k"), finished("cca:tuned", 0.5, "wikipedia")]
    (task,) = summary_of(runs).tasks
    assert task.complete == ["cca:tuned"]
    assert (
        "2 of 3 rows have no mean, as they are not ranked on all 3 datasets; without wikipedia, 3 rows would"
        in " ".join(task.notes)
    )
    assert "wikipedia: a single ranked row, whose rank is 1 of 1." in task.notes


def test_quick_data_join_no_mean_and_have_no_ranks():
    full, quick = summary_of([*three("scenes:quick", quick=True), *three("scenes"), *three("flickr8k")]).tasks
    assert not full.is_quick and len(full.tables) == 2 and quick.is_quick and quick.names == ["scenes:quick"]
    assert not any(cell.rank for row in quick.standings for cell in row.cells)
    assert not any(row.mean.here or row.mean.fronts for row in quick.standings)
    assert "quick: not for comparison" in quick.text("terminal", 80)


def test_a_single_row_is_ranked_one_of_one():
    summary = summary_of([finished("cca:tuned", 0.5), finished("cca:tuned", 0.5, "flickr8k")])
    (row,) = summary.tasks[0].standings
    assert [(cell.rank, cell.place) for cell in row.cells] == [((1, 1), "")] * 2
    assert (row.mean.here, row.mean.alike) == ((1, 1), (1, 1))


def test_failures_alone_are_shown():
    summary = summary_of([], [failure("cca:tuned"), failure("cfa:tuned", "flickr8k")])
    assert summary.tasks[0].complete == [] and summary.render("terminal", 80).count("failed") >= 2
    assert "failed" in summary.render("csv") and json.dumps(summary.contents(lambda table: ""), allow_nan=False)


def test_more_records_than_have_intervals(monkeypatch):
    monkeypatch.setattr("cran_bench.tables.tables.INTERVALS_UP_TO", 5)
    (task,) = summary_of([*three("scenes"), *three("flickr8k")]).tasks
    assert all(row.mean.score > 0 and row.mean.here is None for row in task.standings)
    assert "No ranks for over" in " ".join(task.notes) and "[" not in task.text("terminal", 80).split("\n\n")[1]


def test_names_with_markup_and_marks_of_direction_are_read_as_text():
    label = "cca:tuned[text=<b>|\u202eabc]"
    summary = summary_of([finished(label, 0.9), *three("scenes"), *three("a|b\u202e")])
    terminal, markdown = summary.render("terminal", 80), summary.render("markdown")
    assert "\\u202eabc" in terminal and "\u202e" not in terminal + markdown and r"<b>\|" in markdown
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")}) == 1


def test_only_rows_of_a_preset():
    runs = [*three("scenes"), finished("cca:paper", 0.99)]
    (task,) = summary_of(runs, [failure("dcca:paper")], preset="paper").tasks
    assert [row.label for row in task.standings] == ["cca:paper", "dcca:paper"]


def test_the_front_against_loops():
    random = np.random.default_rng(0)
    quality, cost = random.integers(0, 6, 40).astype(float), random.integers(0, 6, 40)
    for k, on in enumerate(on_front(quality, cost)):
        beaten = [
            quality[j] >= quality[k] and cost[j] <= cost[k] and (quality[j], -cost[j]) != (quality[k], -cost[k])
            for j in range(40)
        ]
        assert on == (not any(beaten))
    assert on_front(quality, cost).any()


def test_rows_on_the_front_are_marked():
    costs = [("cca:tuned", 0.9, 5.0, 10), ("cfa:tuned", 0.5, 1.0, 20), ("kcca:tuned", 0.1, 2.0, 5)]
    (task,) = summary_of([finished(m, hits, seconds=s, memory=b) for m, hits, s, b in costs]).tasks
    assert all(row.mean.here == row.cells[0].rank for row in task.standings)  # of a single table nothing else is known
    found = {row.label: sorted(row.mean.fronts) for row in task.standings}
    assert found == {"cca:tuned": ["memory", "seconds"], "cfa:tuned": ["seconds"], "kcca:tuned": ["memory"]}


def test_ranks_as_text():
    assert [ranks_text(rank) for rank in ((2, 4), (3, 3), None)] == ["2-4", "3", "-"]


def test_a_table_may_have_a_best_row_if_its_ranks_begin_with_one():
    (table,) = build_tables([finished(f"cca:tuned[dim={k}]", 0.5 + 0.02 * k) for k in range(1, 9)], [])
    behind = table.behind_best()
    for label, (low, high) in table.rank_intervals().items():
        assert 1 <= low <= high <= 8 and (low == 1) == (label not in behind or behind[label].high >= 0)


def write(store, *about, **changes):
    record, ranks = made(*about, **changes)
    at = Address(record.data.label, "captions", 0, record.method.label, record.seed, record.fingerprint)
    store.write(at, record, ranks)
    return store.path(at)


def test_the_command(command, tmp_path):
    store = ResultStore(tmp_path)
    for dataset in ("scenes", "flickr8k"):
        for method, hits in THREE.items():
            write(store, method, hits, dataset)
    said = command("summary", "--results", tmp_path)
    assert said.code == 0 and "recall · protocol captions" in said.out and "alike" in said.out
    assert command("summary", "--results", tmp_path, "-m", "cca").out.count("[1]") == 2
    assert "flickr8k" not in command("summary", "--results", tmp_path, "-d", "scenes", "--task", "recall").out
    out = tmp_path / "summary.md"
    assert command("summary", "--results", tmp_path, "-f", "markdown", "-o", out).code == 0
    assert out.read_text().startswith("### recall · protocol captions")
    for arguments, sentence in {
        ("--task", "recal"): "there is no task 'recal'; did you mean 'recall'?",
        ("--preset", "tunned"): "no record has the preset 'tunned'; did you mean 'tuned'?",
        ("-f", "html"): "there is no table format 'html'",
        ("--task", "category"): "none of these records has figures by category",
        ("-m", "ccl"): "there are no records of ccl:tuned",
    }.items():
        refused = command("summary", "--results", tmp_path, *arguments)
        assert refused.code == 2 and refused.sentence.startswith(sentence)


def test_a_damaged_record_is_a_cell(command, tmp_path):
    store = ResultStore(tmp_path)
    paths = [write(store, *row) for row in THREE.items()]
    paths[1].write_text(paths[1].read_text().replace('"seed": 0', '"seed": 7').replace('"seed":0', '"seed":7'))
    said = command("summary", "--results", tmp_path)
    assert said.code == 0 and re.search(r"cfa:tuned +damaged", said.out)
    assert "1 cell has failed runs or damaged records" in " ".join(said.out.split())


# references ---------------------------------------------------------------------------------------------------------


def test_a_reference_is_shown_beside_the_rows_and_has_no_rank_and_no_mean():
    best = finished("truth", 0.99, seconds=0.001), finished("truth", 0.99, "flickr8k", seconds=0.001)
    both = [*three("scenes"), *three("flickr8k")]
    with_it, without = (summary_of(runs).tasks[0] for runs in ([*both, *best], both))
    assert with_it.complete == without.complete
    rows = {row.label: row for row in with_it.standings}
    reference, others = rows.pop("truth"), {row.label: row for row in without.standings}
    assert rows == others
    assert reference.is_reference and reference.mean is None and with_it.standings[-1] is reference
    assert [(cell.rank, cell.place) for cell in reference.cells] == [(None, "")] * 2
    assert all(cell.value > 580 for cell in reference.cells)
    assert reference.contents()["reference"] and not rows["cca:tuned"].contents()["reference"]
    told = [note for note in with_it.notes if note not in without.notes]
    assert len(told) == 1 and told[0].startswith("‡ truth: a reference row, not a method and not ranked: a caption ")
    text = with_it.text("markdown", None)
    assert text.count("truth ‡") == 1 and "cca:tuned ‡" not in text
