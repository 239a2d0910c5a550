"""Tables, tests of significance, comparisons and reports by contrasts and by judgments, of made records."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from recorded import IMAGE_OF, IMAGES, KINDS, TEXTS, contrasted, ranks_of, record_of

from cran_bench.comparison import compare_dataset
from cran_bench.comparison.significance import significance_table
from cran_bench.contrasts import Contrasts
from cran_bench.errors import BadInput
from cran_bench.ranking.contrasted import NOT_CROSSED
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.examples import Examples, find_hard_contrasts
from cran_bench.records.schema import Address, DataInfo, Failure
from cran_bench.records.statistics import sample, samples, times_drawn
from cran_bench.records.store import Finished, ResultStore
from cran_bench.records.tasks import contrasts_task, evidence_metrics, judgments_task
from cran_bench.registry import DATASETS
from cran_bench.running.evidence import contrasts_of
from cran_bench.tables.figures import UNSEEN
from cran_bench.tables.summary import summarise
from cran_bench.tables.tables import build_tables, render
from cran_bench.tables.typesetting import FORMATS


def data_info(**data):
    about = {"label": "flickr8k", "quick": False, "split_sha": "5" * 64, "images": IMAGES, "captions": TEXTS}
    about |= {"front_end": "data + none", "features_sha": "f" * 64, "vectors": "ppmi-svd"}
    about |= {"contrasts": "swap", "contrasts_sha": "c" * 64, "judgments_sha": "d" * 64}
    return DataInfo(**about | data)


def run(method="cca:tuned", right=0.7, *, seed=0, about=None, **data):
    """A record and its ranks."""
    ranks = ranks_of(right, seed, **about or {})
    about = ranks.metrics().values(), f"{int(100 * right):05}{seed}0123456789"
    return record_of(method, data_info(**data), *about, seed=seed), ranks


def finished(*about, **changes):
    record, ranks = run(*about, **changes)
    return Finished(record, lambda: ranks)


def failure(**data):
    about = {"method_label": "kcca:tuned", "protocol": "captions", "folds": 0, "seed": 0}
    texts = {"error": "it broke", "traceback": "", "started": "2026-01-01T00:00:00+00:00", "environment": {}}
    return Failure(data=data_info(**data), **about, **texts)


def address_of(record):
    about = record.data.label, record.protocol, record.folds, record.method.label, record.seed, record.fingerprint
    return Address(*about)


ROWS = [("cca:tuned", 0.6), ("cfa:tuned", 0.52), ("scan:tuned", 0.8)]
BAG = "cca:tuned[text=tfidf]"


def rows(**changes):
    return [*(finished(*row, **changes) for row in ROWS), finished(BAG, 0.6, about={"bag": True}, **changes)]


@pytest.fixture(scope="module")
def table():
    (found,) = build_tables(rows(), [failure()], task="contrasts")
    return found


@pytest.fixture(scope="module")
def judged():
    return {table.group.of: table for table in build_tables(rows(), [failure()], task="judgments")}


def flat(text):
    return " ".join(text.split())


# Figures and their intervals


@pytest.mark.parametrize(("crossed", "together"), [(False, IMAGES), (True, 10)])
def test_resampled_shares_against_a_loop_over_pairs(crossed, together):
    """Images of crossed pairs are drawn together, with the first of all that such pairs connect."""
    ranks = ranks_of(0.7, crossed=crossed)
    pairs, draws = ranks.contrasts, 40
    task = contrasts_task(pairs)
    found = sample([ranks], draws, task)
    chosen = {  # which pairs, and what each counts
        "contrasts.agent": (pairs.kind == 0, pairs.text / 2),
        "contrasts.attribute.balanced": ((pairs.kind == 1) & (pairs.balanced == 1), pairs.text / 2),
        "contrasts.attribute.same_words": ((pairs.kind == 1) & (pairs.same_words == 1), pairs.text / 2),
    }
    if crossed:
        both = (pairs.crossed / 2) * (pairs.crossed[pairs.partner] / 2)
        chosen["contrasts.preposition.image"] = (pairs.kind == 2, both)
    loops = {figure: [] for figure in chosen}
    for times in times_drawn(IMAGES, draws):
        for figure, (pairs_of, values) in chosen.items():
            copies = [values[p] for p in np.flatnonzero(pairs_of) for _ in range(times[pairs.image[p] % together])]
            loops[figure].append(100 * np.mean(copies))
    for figure, (pairs_of, values) in chosen.items():
        assert found.interval(figure).value == pytest.approx(100 * values[pairs_of].mean())
        np.testing.assert_allclose(found.draws[:, task.figures.index(figure)], loops[figure], rtol=0, atol=1e-9)
    balanced = [found.interval(f"contrasts.{kind}.balanced").value for kind in KINDS[:3]]
    assert found.interval("contrasts").value == pytest.approx(np.mean(balanced)), "the 12 nouns do not count"
    assert evidence_metrics(ranks)["contrasts"] == pytest.approx(np.mean(balanced))


def test_the_group_score_of_constant_scores_is_chance_over_orders():
    """One sixth of the orders of four scores have both true pairs above both others; ties of two or three likewise."""
    pairs = contrasted(crossed=True)
    for values, chance in (((1, 1, 1, 1), 1 / 6), ((1, 2, 2, 2), 1 / 2), ((1, 2, 1, 2), 1 / 3), ((2, 2, 2, 0), 0)):
        text, crossed = pairs.text.copy(), pairs.crossed.copy()
        first = np.flatnonzero(pairs.partner >= 0)[::2]
        for place, of in ((first, 0), (pairs.partner[first], 1)):
            text[place], crossed[place] = values[of], values[2 + of]
        scores = replace(pairs, text=text, crossed=crossed).by_pair("contrasts.preposition.group")
        assert np.nanmean(scores) == pytest.approx(100 * chance)


def test_a_kind_of_one_image_is_never_drawn_as_zero():
    pairs = replace(contrasted(), image=np.where(contrasted().kind == 3, 0, contrasted().image).astype(np.int32))
    ranks = replace(ranks_of(), contrasts=pairs)
    found = sample([ranks], 200, contrasts_task(pairs)).interval("contrasts.noun")
    assert found.low == found.value == found.high


def test_resampled_retrieval_against_a_loop_over_queries():
    ranks, draws = ranks_of(0.7), 30
    task = judgments_task("eccv", ranks)
    found = sample([ranks], draws, task)
    some = ranks.relevant["eccv"]["t2i"]
    own = ranks.t2i.hits(1)[some.query]
    for figure, values in (("t2i_map_r", some.ap), ("t2i_own_r1", 100 * own), ("t2i_r1", 100 * some.r1)):
        loop = [
            np.mean([x for q, x in zip(some.query, values, strict=True) for _ in range(times[IMAGE_OF[q]])])
            for times in times_drawn(IMAGES, draws)
        ]
        np.testing.assert_allclose(found.draws[:, task.figures.index(f"eccv.{figure}")], loop, rtol=0, atol=1e-9)
    sides = [found.interval(f"eccv.{side}_map_r").value for side in ("i2t", "t2i")]
    assert task.headline == "eccv.map_r" and found.interval("eccv.map_r").value == pytest.approx(np.mean(sides))


def test_only_the_same_contrasts_and_judgments_are_paired():
    one = ranks_of()
    other = replace(one, contrasts=replace(one.contrasts, balanced=1 - one.contrasts.balanced))
    with pytest.raises(BadInput, match="needs ranks of the same queries"):
        samples([[one], [other]], 3, contrasts_task(one.contrasts))
    some = one.relevant["eccv"]
    fewer = replace(one, relevant={"eccv": {**some, "t2i": replace(some["t2i"], right=some["t2i"].right + 1)}})
    with pytest.raises(BadInput, match="needs ranks of the same queries"):
        samples([[one], [fewer]], 3, judgments_task("eccv", one))
    with pytest.raises(BadInput, match="have no contrasts: run the method again with --contrasts"):
        sample([replace(one, contrasts=None)], 3, contrasts_task(one.contrasts))


# Tables


def test_rows_that_see_no_order_are_shown_last_and_not_ranked(table):
    assert [row.label for row in table.rows] == ["scan:tuned", "cca:tuned", "cfa:tuned", BAG, "kcca:tuned"]
    assert {*table.behind_best()} == {"cca:tuned", "cfa:tuned"}
    cells = table.display()
    assert cells["contrasts.agent.balanced"][-2] == "50.0 ○" and cells["contrasts"][-2].endswith(" ○")
    assert "○" not in cells["contrasts.preposition.balanced"][-2] and cells["behind_best"][-2] == ""
    assert table.rows[3].values("contrasts.agent") == [50.0]


def test_the_order_of_words_ranks_nothing_out_where_the_headline_does_not_depend_on_it():
    few = contrasted(bag=True)
    few = replace(few, balanced=few.balanced * (few.kind == 2))  # of pairs with other words only
    bag = Finished(run(BAG, 0.9)[0], lambda: replace(ranks_of(0.9), contrasts=few))
    other = replace(few, text=contrasted(0.6).text)
    (table,) = build_tables(
        [bag, Finished(run()[0], lambda: replace(ranks_of(), contrasts=other))], [], task="contrasts"
    )
    assert [row.label for row in table.ranked] == [row.label for row in table.finished]
    cells, text = table.display(), flat(render([table], "terminal"))
    place = cells["method"].index(BAG)
    assert cells["contrasts.agent"][place] == "50.0 ○" and "○" not in cells["contrasts"][place]
    assert f"not tested there: {BAG}." in text and "as they do not see" not in significance_table(
        [table], [], "terminal"
    )


def test_kinds_may_have_the_names_of_parts():
    usual = contrasted(crossed=True)
    named = replace(usual, kinds=("balanced", "text", "group", "same_words"))
    for one, other in zip(named.names, usual.names, strict=True):
        np.testing.assert_array_equal(named.by_pair(one), usual.by_pair(other))
    runs = [Finished(run()[0], lambda x=x: replace(ranks_of(), contrasts=x)) for x in (named, usual)]
    above = [build_tables([one], [], task="contrasts")[0].above for one in runs]
    assert [*above[0].values()] == [*above[1].values()]


def test_text_only_models_and_counts_stand_above_the_methods(table):
    cells, pairs = table.display(), table.rows[0].ranks[0].contrasts
    assert cells["method"][:6] == [
        *("pairs", "blind (n-gram), all", "second blind, all", "balanced pairs", "blind (n-gram)", "second blind")
    ]
    of = pairs.kind == 2
    kept = of & (pairs.balanced == 1)
    shares = [
        f"{50 * x.mean():.1f}" for x in (pairs.blind[of], pairs.second[of], pairs.blind[kept], pairs.second[kept])
    ]
    expected = ["60", *shares[:2], "20", *shares[2:]]
    assert cells["contrasts.preposition.balanced"][:6] == expected and expected[4] == "50.0"
    assert cells["contrasts.preposition"][:6] == [*expected[:3], "", "", ""]


def test_notes_say_what_the_figures_of_contrasts_are(table):
    text = flat(render([table], "terminal"))
    for words in (
        "flickr8k · protocol captions · 40 images, 120 captions · contrasts swap",
        "Ties count one half; chance is 50 %.",
        "Under 20 balanced pairs, shown but not ranked, and not in the mean: noun (12).",
        "Not blind-proof, as the second text-only model is above 55 %: preposition (100.0 %).",
        "attribute: 45 of 60 pairs have the same words, shown apart too.",
        f"were not tested there, and are not ranked: {BAG}.",
        "Behind best: mean minus the best other row's",
        "kcca:tuned seed 0 FAILED: it broke",
    ):
        assert words in text
    assert "MedR" not in text and "R@1" not in text and "Crossed" not in text
    (crossed,) = build_tables([finished(*ROWS[0], about={"crossed": True})], [], task="contrasts")
    text = flat(render([crossed], "terminal"))
    assert "group if all four do (16.7 %)" in text and "preposition group" in text


@pytest.mark.parametrize("width", [80, 100])
def test_tables_of_contrasts_and_judgments_fit(table, judged, width):
    for one, needed in (
        (table, ("mean", "agent", "behind best")),
        *((x, ("t2i own", "t2i R@1")) for x in judged.values()),
    ):
        lines = render([one], "terminal", width=width).splitlines()
        assert max(map(len, lines)) <= width
        (head,) = [line for line in lines if line.startswith("method")]
        assert all(column in head for column in needed)


def test_every_format_has_every_figure_and_its_number_of_pairs(table, judged):
    for style in FORMATS:
        assert all(render([one], style) for one in (table, *judged.values()))
    assert r"50.0 $\circ$" in render([table], "latex")
    lines = list(csv.DictReader(io.StringIO(render([table], "csv"))))
    assert [line["method"] for line in lines[-2:]] == ["blind (n-gram)", "second blind"]
    assert [line["order"] for line in lines[2:4]] == ["seen", "unseen"] and lines[0]["set"] == "swap"
    assert lines[0]["contrasts.noun.balanced_n"] == "12" and lines[0]["contrasts.noun_n"] == "30"
    for figure in ("contrasts", "contrasts.agent", "contrasts.agent.balanced"):
        assert float(lines[0][f"{figure}_low"]) < float(lines[0][figure]) < float(lines[0][f"{figure}_high"])
    found = json.loads(render([judged["expert"]], "json"))[0]
    assert found["expert.t2i_r1_n"] == 100 and found["expert.tau_c_low"] < found["expert.tau_c"] < 100
    assert json.loads(render([table], "json", ["method", "contrasts"]))[0].keys() == {"method", "contrasts"}


def test_no_ranked_kind_means_no_headline():
    few = replace(contrasted(), balanced=np.zeros_like(contrasted().balanced))
    record, ranks = run(*ROWS[0])
    several = [Finished(record, lambda: replace(ranks, contrasts=few)) for _ in range(2)]
    several[1] = Finished(run(*ROWS[1])[0], several[1].read)
    (table,) = build_tables(several, [], task="contrasts")
    assert not table.behind_best() and "contrasts" not in table.display()
    assert "so that there is no mean: agent (0)" in flat(render([table], "terminal"))
    for labels in ([], ["cca:tuned", "cfa:tuned"]):
        with pytest.raises(BadInput, match="has no kind with 20 balanced pairs, so that it ranks no method"):
            significance_table([table], labels, "terminal")


def test_other_contrasts_are_another_table():
    tables = build_tables([finished(*ROWS[0]), finished(*ROWS[1], contrasts_sha="e" * 64)], [], task="contrasts")
    assert len(tables) == 2 and "contrasts swap · contrasts cccccccc" in tables[0].title
    seeds = build_tables([finished(*ROWS[0]), finished(*ROWS[1], contrasts="swap[seed=1]")], [], task="contrasts")
    assert [table.kind for table in seeds] == ["contrasts swap", "contrasts swap[seed=1]"]
    assert len(build_tables([finished(*ROWS[0]), finished(*ROWS[1], contrasts_sha="e" * 64)], [])) == 1


def test_records_without_contrasts_have_no_such_table():
    bare = {"contrasts": "", "contrasts_sha": "", "judgments_sha": ""}
    record, ranks = run(*ROWS[0], **bare)
    one = Finished(record, lambda: replace(ranks, contrasts=None, relevant={}, agreements={}))
    for task in ("contrasts", "judgments"):
        assert not build_tables([one], [failure(**bare)], task=task)
    assert isinstance(ranks, RecordedRanks) and set(contrasted().crossed.tolist()) == {NOT_CROSSED}


def test_judgments_have_a_table_for_each_set(judged):
    assert [*judged] == ["eccv", "expert"]
    expert, eccv = judged["expert"], judged["eccv"]
    assert expert.task.headline == "expert.tau_c" and "expert.i2t_r1" not in expert.display()
    record = expert.rows[0]
    interval = expert.samples[record.label].interval("expert.tau_c")
    assert expert.display()["expert.tau_c"][0] == f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"
    text = flat(render([expert], "terminal"))
    assert re.search(r"\d\d pairs of an image and a caption, each with 3 ratings, which count one by one", text)
    assert "t2i: 100 of 120 caption queries were judged, with 2.0 right answers each." in text
    assert "i2t: 20 of 40 image queries were judged" in flat(render([eccv], "terminal"))
    assert "kcca:tuned" in eccv.display()["method"] and "kcca:tuned" in expert.display()["method"]


# Significance


def test_significance_of_contrasts(table):
    lines = list(csv.DictReader(io.StringIO(significance_table([table], [], "csv"))))
    assert [line["against"] for line in lines] == ["cca:tuned", "cfa:tuned"]
    assert list(lines[0]) == ["against", "mean", "difference", "95 % interval", "verdict"]
    text = significance_table([table], ["scan:tuned", "cfa:tuned"], "terminal")
    assert re.findall(r"(?m)^\S* +(agent|attribute|preposition|noun|mean) ", text) == [*KINDS[:3], "mean"]
    assert "McNemar" not in text and "for the 4 tests" in flat(text)
    text = significance_table([table], ["scan:tuned", BAG], "terminal")
    assert "for the 1 tests" in flat(text) and f"as they do not see it: {BAG}." in flat(text)


def test_contrasts_that_rank_one_row_hide_no_others(table, capsys):
    (alone,) = build_tables([finished(*ROWS[0], contrasts="", contrasts_sha="e" * 64)], [], task="contrasts")
    text = significance_table([alone, table], [], "csv")
    assert text == significance_table([table], [], "csv") and "has only one method" in capsys.readouterr().err
    with pytest.raises(BadInput, match="has only one method: give at least two methods"):
        significance_table([alone], [], "csv")


def test_significance_of_judgments_is_by_set(judged):
    tables = [*judged.values()]
    lines = list(csv.DictReader(io.StringIO(significance_table(tables, ["scan:tuned", "cfa:tuned"], "csv"))))
    assert {line["set"] for line in lines} == {"eccv", "expert"}
    assert {line["figure"] for line in lines if line["set"] == "expert"} >= {"tau-c", "tau-b", "Spearman", "t2i own"}
    assert significance_table(tables, [], "terminal").count("judgments e") == 2


# Comparisons


def compared(runs, reference):
    def tabled(some):
        some = [Finished(record, lambda ranks=ranks: ranks) for record, ranks in some]
        return [x for task in ("contrasts", "judgments") for x in build_tables(some, [], task=task)]

    return compare_dataset(tabled(runs), "flickr8k", tabled(reference))


def test_contrasts_and_judgments_are_compared_with_a_reference():
    before, lower = run("cca:tuned", 0.9), run("cca:tuned", 0.3)
    verdicts = compared([before], [before])
    assert [v.title.split(" · ")[3] for v in verdicts] == ["contrasts swap", "judgments eccv", "judgments expert"]
    assert not [line for v in verdicts for line in v.regressions]
    verdicts = compared([lower], [before])
    assert [line[2] for line in verdicts[0].lines] == ["contrasts"] and verdicts[0].lines[0][-1] == "LOWER"
    assert [line[2] for line in verdicts[2].lines] == ["ratings", "retrieval"]
    assert re.match(
        r"REGRESSION flickr8k, captions, contrasts swap, cca:tuned, contrasts: \d\d\.\d", verdicts[0].regressions[0]
    )
    other = run("cca:tuned", 0.9, contrasts_sha="e" * 64)
    with pytest.raises(
        BadInput, match=r"contrasts swap are of different data than the reference: contrasts is c+, in the"
    ):
        compared([before], [other])


# The command line


def test_the_commands(command, tmp_path):
    store = ResultStore(tmp_path / "results")
    for about, changes in ((ROWS[0], {}), (ROWS[1], {}), ((BAG, 0.6), {"about": {"bag": True}})):
        record, ranks = run(*about, **changes)
        store.write(address_of(record), record, ranks)
    results = ("--results", tmp_path / "results")
    said = command("table", "contrasts", *results)
    assert said.code == 0 and "balanced pairs" in said.out and "R@1" not in said.out
    assert "judgments expert" in command("table", "judgments", *results, "--columns", "method,expert.tau_c").out
    for metric in ("contrasts", "judgments"):
        said = command("significance", "-d", "flickr8k", "--metric", metric, *results)
        assert said.code == 0 and "against" in said.out, said.err
    assert command("table", "contrast", *results).err.count("did you mean 'contrasts'?") == 1
    assert command("table", "category", *results).code == 2


# The report


def test_the_hardest_contrasts_are_of_different_images_of_the_balanced_subset():
    random = np.random.default_rng(0)
    count = 300
    image = random.integers(0, 30, count)
    texts = [f"caption {k}" for k in range(count)], [f"other {k}" for k in range(count)]
    pairs = Contrasts(image, *texts, random.integers(0, 2, count), ("a", "b"))
    true, false = random.random((2, count))
    wrong = (random.random(count) < 0.5) & (true < false)
    found = find_hard_contrasts([f"{k}.jpg" for k in range(30)], pairs, true, false, wrong)
    worst = {}
    for k in sorted(range(count), key=lambda k: true[k] - false[k]):
        if wrong[k] and image[k] not in worst:
            worst[image[k]] = k
    assert [one.pair for one in found] == [*worst.values()][:10]
    for one in found:
        assert (one.image, one.kind) == (f"{image[one.pair]}.jpg", "ab"[pairs.kind[one.pair]])
        assert one.true == round(true[one.pair], 4) < one.false == round(false[one.pair], 4)
    assert not find_hard_contrasts([f"{k}.jpg" for k in range(30)], pairs, true, false, wrong & False)


def test_the_report_shows_the_hardest_contrasts_with_their_pictures(command, tmp_path):
    dataset = DATASETS.configure("scenes[train=2,val=2,test=40]")
    collection = dataset.build().load(tmp_path)
    pairs, ids = contrasts_of(collection, "swap"), collection.images.ids
    true, false = np.random.default_rng(0).random((2, len(pairs)))
    hard = find_hard_contrasts(ids, pairs, true, false, true < false)
    about = {"label": dataset.label, "split_sha": collection.split_sha()}
    for sha, is_there in ((pairs.sha(ids), True), ("e" * 64, False)):
        folder = tmp_path / sha[:4]
        record, ranks = run("cca:tuned", **about, contrasts_sha=sha)
        ResultStore(folder).write(address_of(record), record, ranks, examples=Examples(examples=[], contrasts=hard))
        assert not [path for path in folder.rglob("*.json") if pairs.false[hard[0].pair] in path.read_text()]
        said = command("report", "--results", folder, "--cache", tmp_path / "cache", "-o", tmp_path / "page.html")
        assert said.code == 0 and ("their captions differ from those of the records" in said.err) != is_there, said.err
        page = (tmp_path / "page.html").read_text()
        found = json.loads(re.search(r'id="detail-contrasts-[^"]*">(.*?)</script>', page)[1])
        cards = [found["pairs"][str(pair)] for pair, _, _ in found["rows"][0]["hard"]]
        assert [card["image"] for card in cards] == [one.image for one in hard] and len({*map(str, cards)}) == 10
        shown = [[pairs.true[one.pair], pairs.false[one.pair]] for one in hard]
        assert [card.get("captions") for card in cards] == (shown if is_there else [None] * 10)
        pictures = json.loads(re.search(r'id="pictures">(.*?)</script>', page)[1])
        wanted = {f"{found['data']}/{card['place']}" for card in cards} if is_there else set()
        assert {*pictures} == wanted


def test_the_summary_ranks_no_row_that_does_not_see_the_order_of_words():
    """Its cell has a mark instead of a rank, and it has no mean; sets of judgments are summarised apart."""
    runs = [*rows(), *rows(label="scenes", split_sha="6" * 64)]
    (task,) = summarise(build_tables(runs, [failure()], task="contrasts")).tasks
    assert {row.label for row in task.standings if row.mean} == {label for label, _ in ROWS}
    cells = next(row.cells for row in task.standings if row.label == BAG)
    assert all(cell.rank is None and cell.text.endswith(UNSEEN) for cell in cells)
    assert any(note.startswith(UNSEEN) for note in task.notes)
    for row in task.standings[:3]:
        assert row.mean.score == pytest.approx(np.mean([2 * (cell.value - 50) for cell in row.cells]))
    of = summarise(build_tables(runs, [], task="judgments")).tasks
    assert [task.headline for task in of] == ["eccv.map_r", "expert.tau_c"]
    scores = [(cell.value, cell.score) for row in of[1].standings for cell in row.cells]
    assert all(value == score for value, score in scores) and "tau-c with people's ratings" in of[1].notes[0]
