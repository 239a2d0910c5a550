"""Verdicts on invented records: reproduced and regressed rows, orders, references, significance, the paper's tables."""

import csv
import io
import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from invented import NAMES, as_printed, made, stored, tabled

from cran_bench.comparison import compare_dataset, with_paper
from cran_bench.errors import BadInput
from cran_bench.frontend.images.torchvision import TorchvisionBackbone
from cran_bench.frontend.regions.faster_rcnn import PaperRegions
from cran_bench.records.schema import Address, Failure
from cran_bench.records.statistics import Interval
from cran_bench.records.store import ResultStore
from cran_bench.records.tasks import FIGURES
from cran_bench.specs import format_value
from cran_bench.tables.paper import CHAINS, OF_PAPER, TABLES, not_comparable, orders, paper_rows
from cran_bench.tables.tables import render


def verdicts(runs, label="flickr30k", reference=None):
    against = None if reference is None else tabled(reference, [])
    return compare_dataset(tabled(runs, []), label, against)


def regressions(found):
    return [sentence for verdict in found for sentence in verdict.regressions]


# The paper


def test_every_cell_is_there_and_is_a_recall():
    rows = [row for table in TABLES for row in paper_rows(table)]
    assert [len(paper_rows(table)) for table in TABLES] == [11, 11, 8]
    for row in rows:
        values = [row.values[figure] for figure in FIGURES]
        assert values[:3] == sorted(values[:3]) and values[3:] == sorted(values[3:]), row
        assert all(0 < value < 100 for value in values) and row.name in NAMES
    full = {row.dataset: row.values for row in rows if row.table == 3 and row.name == "CRAN"}
    assert full == {row.dataset: row.values for row in rows if row.table < 3 and row.name == "CRAN"}


def test_what_the_text_says_of_the_tables():
    """CRAN leads every column; CFA and GMM+HGLMM outperform some deep methods; each level helps, together most."""
    for table in (1, 2):
        cran, *others = paper_rows(table)
        assert all(cran.values[f] > other.values[f] for other in others for f in FIGURES)
        by_name = {row.name: row for row in others}
        assert all(by_name[n].rsum > by_name["Multimodal DBN"].rsum for n in ("CFA", "GMM+HGLMM"))
    for dataset in ("flickr30k", "mscoco"):
        rows = {row.name: row for row in paper_rows(3) if row.dataset == dataset}
        for part in ("CRAN-local", "CRAN-relation"):
            assert all(rows["CRAN"].values[f] > rows[part].values[f] for f in FIGURES)
            assert all(rows[part].values[f] > rows["CRAN-baseline"].values[f] for f in FIGURES)


@pytest.mark.parametrize("dataset", CHAINS)
def test_the_orders_are_those_of_the_printed_numbers(dataset):
    rows = {row.name: row for table in TABLES for row in paper_rows(table) if row.dataset == dataset}
    for better, worse in orders(dataset):
        assert rows[better].rsum > rows[worse].rsum
        assert all(rows[better].values[f] > rows[worse].values[f] for f in ("i2t_r1", "t2i_r1"))


@pytest.mark.parametrize("dataset", ["flickr30k", "mscoco"])
def test_printed_numbers_reproduce_themselves(dataset):
    found = verdicts(as_printed(dataset), dataset)
    assert not regressions(found)
    text = "\n".join(map(str, found))
    assert "REGRESSED" not in text and "reversed" not in text and "not comparable" not in text
    table = next(str(verdict) for verdict in found if verdict.title.startswith(f"Table {1 + (dataset == 'mscoco')}"))
    cran = next(line for line in table.splitlines() if line.startswith("CRAN"))
    assert cran.endswith("same") and "mean" in cran


def test_a_row_that_falls_far_behind_is_a_regression():
    found = regressions(verdicts(as_printed(corr_ae=25.0)))
    assert any(
        "corr-ae:paper, documents, i2t_r1: 5.3, the paper has 30.3; significantly (95 %) more than 10 points below" in s
        for s in found
    )
    assert not any("ccl" in sentence and "the paper has 37.7" in sentence for sentence in found)


def test_a_little_less_is_below_but_no_regression():
    found = verdicts(as_printed(corr_ae=6.0))
    assert not regressions(found)
    assert any("below" in line for line in str(found[0]).splitlines() if line.startswith("Corr-AE"))


def test_copied_rows_never_fail():
    found = verdicts(as_printed(gmm_hglmm=24.0, dcca=26.0))
    assert not regressions(found)
    assert "differs (copied)" in str(found[0]) and "informational" in str(found[0])


def test_a_reversed_order_is_a_regression_of_the_preset_paper_only():
    assert any(
        "cfa:paper has" in s and "less rsum than kcca:paper" in s for s in regressions(verdicts(as_printed(cfa=15.0)))
    )
    found = verdicts(as_printed(preset="tuned", cfa=9.5, kcca=-9.5))
    assert not regressions(found)
    assert "reversed" in "".join(map(str, found))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": "flickr30k"}, "no split=entities"),
        ({"data": "flickr30k:quick[split=entities]", "quick": True}, "part of the data"),
        ({"data": "flickr30k[limit=500,split=entities]"}, "part of the data"),
        ({"data": "flickr30k:small[split=entities]"}, "part of the data"),
        ({"front_end": "torchvision:resnet50 + paper"}, "other backbone than torchvision:vgg19"),
        ({"front_end": "pixels + paper"}, "other backbone than torchvision:vgg19"),
        ({"front_end": "torchvision:vgg19[crop=ten] + paper"}, "vgg19: crop=ten"),
        ({"front_end": "torchvision:vgg19[relu=false] + paper"}, "vgg19: relu=false"),
        ({"front_end": "torchvision:vgg19[weights=random.pth] + paper"}, "vgg19: weights=random.pth"),
        ({"front_end": "torchvision:vgg19[node=features.35] + paper"}, "vgg19: node=features.35"),
        ({"front_end": "torchvision:vgg19[precision=bfloat16] + paper"}, "vgg19: precision=bfloat16"),
        ({"front_end": "torchvision:vgg19 + grid"}, "other regions than paper"),
        ({"front_end": "torchvision:vgg19 + paper[iou=0.9]"}, "other regions than paper: iou=0.9"),
        ({"front_end": "torchvision:vgg19 + paper[vgg16=random.pth]"}, "other regions than paper: vgg16=random.pth"),
        ({"label": "cran:tuned[width=full]"}, "a training that was chosen on validation"),
        (
            {"label": "cran-baseline:tuned[width=full]", "parameters": {"width": "full"}},
            "a training that was chosen on validation",
        ),
        ({"label": "cran-local:tuned[width=full]"}, "a training that was chosen on validation"),
        ({"label": "cran-relation:tuned[width=full]"}, "a training that was chosen on validation"),
        ({"label": "cran:paper[width=compact]", "parameters": {"width": "compact"}}, "width compact"),
        ({"label": "cran:paper[top=5,width=full]"}, "other options (top"),
        ({"label": "cran:literal[width=full]"}, "other options (literal"),
        ({"data": "flickr8k"}, "the paper has no flickr8k"),
        ({"folds": 5}, "part of the data"),
        ({"images": 200}, "200 test images, but the paper has 1,000"),
    ],
)
def test_what_may_not_be_held_against_the_paper(changes, reason):
    asked = {"label": "cran:paper[width=full]", "protocol": "mean", **changes}
    record, _ = made(asked.pop("label"), [1, 2, 3, 1, 2, 3], **asked)
    assert reason in not_comparable(record)
    fine, _ = made("cran:paper[width=full]", [1, 2, 3, 1, 2, 3], protocol="mean", parameters={"width": "full"})
    assert not_comparable(fine) == ""


def test_a_row_that_is_not_comparable_does_not_regress():
    runs = [made("cca:paper", [1, 2, 3, 1, 2, 3], data="flickr30k"), made("cfa:paper", [1, 2, 3, 1, 2, 3])]
    found = verdicts(runs)
    sentences = regressions(found)
    assert sentences and all("cfa:paper" in sentence for sentence in sentences)
    assert "cca:paper is not comparable: no split=entities" in str(found[0])


def test_methods_that_look_at_no_regions_are_free_of_them():
    for front_end in ("torchvision:vgg19 + none", "torchvision:vgg19"):
        record, _ = made("cca:paper", [1, 2, 3, 1, 2, 3], front_end=front_end)
        assert not_comparable(record) == ""


def test_fields_that_say_what_they_are_anyway_change_nothing():
    same = "torchvision:vgg19[crop=center,device=cpu,weights=DEFAULT] + paper[device=cpu,iou=0.5]"
    record, _ = made("cran:paper[width=full]", [1, 2, 3, 1, 2, 3], front_end=same)
    assert not_comparable(record) == ""
    for spec, cls in (("torchvision:vgg19", TorchvisionBackbone), ("paper", PaperRegions)):
        defaults = {f.name: format_value(f.default) for f in fields(cls) if f.init and f.name != "model"}
        assert defaults == {**OF_PAPER[spec], "precision": "float32", "device": "auto"}


def test_a_row_of_another_method_is_nobodys():
    record, _ = made("cca:paper", [1, 2, 3, 1, 2, 3])
    for paper_row in (None, "CRAN"):
        other = record.method.model_copy(update={"paper_row": paper_row})
        assert "a method that the paper does not have" in not_comparable(record.model_copy(update={"method": other}))


def test_the_tuned_preset_of_cran_is_shown_but_not_judged():
    found = verdicts([run for run in as_printed(preset="tuned") if run[0].method.name in ("cran", "cran-local", "cca")])
    cells = next(verdict for verdict in found if "Table 1" in verdict.title)
    lines = {line[0]: line[-1] for line in cells.lines if line[0]}
    assert lines["CRAN"] == "not comparable" and lines["CCA"] == "same"
    assert any(
        "cran:tuned[width=full] is not comparable: preset tuned has a training that was chosen on validation" in n
        for n in cells.notes
    )
    (order,) = (v for v in found if "orders" in v.title and "one to one" in v.title)
    assert [(line[0], line[-1]) for line in order.lines] == [("CRAN > CRAN-local", "not comparable")]


def test_what_is_not_comparable_is_not_counted_as_compared(command, tmp_path):
    results = stored(tmp_path, [made("cran:tuned[width=full]", [1, 2, 3] * 2, protocol="mean")])
    said = command("compare", "--results", results)
    assert said.code == 2 and "no comparable rows found" in said.sentence


@pytest.mark.parametrize(
    ("value", "high", "verdict"),
    [(-12.0, -9.0, "below"), (-12.0, -10.5, "REGRESSED"), (-11.0, -10.0, "below"), (-9.0, -8.0, "below")],
)
def test_a_regression_is_a_whole_interval_more_than_ten_points_below(value, high, verdict):
    gap = Interval(value, 2 * value - high, high)
    assert with_paper._verdict(gap, "one_to_one", "matching") == verdict


def failed_run(label, protocol="documents", seed=0, **about):
    record, _ = made(label, [1, 2, 3, 1, 2, 3], protocol=protocol, **about)
    about = {"data": record.data, "method_label": label, "protocol": protocol, "folds": 0, "seed": seed}
    return Failure(**about, error="no memory", traceback="", started=record.started, environment={})


def test_missing_and_failed_rows_are_in_sight():
    runs = [run for run in as_printed() if run[0].method.name not in ("cca", "kcca")]
    found = compare_dataset(tabled(runs, [failed_run("kcca:paper")]), "flickr30k", None)
    lines = str(found[0]).splitlines()
    assert next(line for line in lines if line.startswith("CCA")).endswith("missing")
    assert next(line for line in lines if line.startswith("KCCA")).endswith("failed")
    assert regressions(found) == ["REGRESSION flickr30k, documents, kcca:paper seed 0 FAILED: no memory"]


def test_rows_of_different_data_are_judged_apart():
    """A full set, a part of it, and another split: no pair across them, and the comparable row is not hidden."""
    karpathy = [made("cca:paper", [50, 60, 70] * 2, data="flickr30k", seed=seed, split_sha="6" * 64) for seed in (0, 1)]
    part = [made("cfa:paper", [5, 6, 7] * 2, data="flickr30k[limit=500,split=entities]", images=500)]
    found = verdicts([*as_printed(cca=7.0, cfa=19.0), *karpathy, *part])
    assert any("cfa:paper has" in sentence for sentence in regressions(found))
    assert any("flickr30k[split=entities] ·" in verdict.title for verdict in found)
    shadowed = verdicts([*as_printed(corr_ae=25.0), *karpathy])
    assert any("corr-ae:paper, documents, i2t_r1" in sentence for sentence in regressions(shadowed))


def test_a_front_end_without_regions_can_be_compared():
    record, _ = made("ccl:paper", [1, 2, 3, 1, 2, 3], front_end="torchvision:vgg19")
    assert not_comparable(record) == "other regions than paper"


# The reference

SCENES = {"data": "scenes", "front_end": "pixels + boxes", "protocol": "captions", "images": 500}
BASE = np.array([30.0, 60.0, 75.0, 20.0, 45.0, 60.0])


def reference_runs(label="ccl:tuned", spread=1.0, base=BASE, seeds=5):
    moves = np.linspace(-spread, spread, seeds)
    return [made(label, base + move, seed=seed, **SCENES) for seed, move in enumerate(moves)]


@pytest.mark.parametrize("move", [0.0, 1.0, -1.5])
def test_what_seeds_explain_is_the_same(move):
    found = verdicts([made("ccl:tuned", BASE + move, seed=7, **SCENES)], "scenes", reference_runs())
    assert not regressions(found)


@pytest.mark.parametrize(("move", "word"), [(-9.0, "more than seeds explain"), (9.0, "check for a leak")])
def test_what_they_do_not_explain_is_a_regression(move, word):
    found = regressions(verdicts([made("ccl:tuned", BASE + move, seed=7, **SCENES)], "scenes", reference_runs()))
    assert len(found) == 2 and all(word in sentence for sentence in found)


def test_swapped_directions_are_seen_although_their_sum_is_the_same():
    found = regressions(verdicts([made("ccl:tuned", np.roll(BASE, 3), **SCENES)], "scenes", reference_runs()))
    assert len(found) == 2


def test_a_row_that_seeds_do_not_change_may_not_move_at_all():
    still = reference_runs("cca:tuned", spread=0.0)
    same = [replace_seed(still[0], 0)]
    assert not regressions(verdicts(same, "scenes", still))
    moved = [made("cca:tuned", BASE - 3.0, **SCENES)]
    assert regressions(verdicts(moved, "scenes", still + reference_runs(spread=4.0)))


def replace_seed(run, seed):
    return run[0].model_copy(update={"seed": seed}), run[1]


def test_one_seed_in_the_reference_is_allowed_what_the_other_rows_show():
    once = [reference_runs("dcca:tuned")[0]]
    now = [made("dcca:tuned", BASE - 6.0, seed=9, **SCENES)]
    assert not regressions(verdicts(now, "scenes", once + reference_runs(spread=6.0)))
    assert regressions(verdicts(now, "scenes", once))


def test_tolerances_hold_for_as_many_rows_as_there_are():
    """Fourteen rows whose seeds are exchangeable: a false alarm in at most one table of twenty, about."""
    random, alarms = np.random.default_rng(1), 0
    labels = [f"{name}:tuned" for row, name in NAMES.items() if row]
    for _ in range(12):
        before = [
            made(label, BASE + random.normal(0, 1.5), seed=seed, **{**SCENES, "images": 300})
            for label in labels
            for seed in range(3)
        ]
        now = [made(label, BASE + random.normal(0, 1.5), seed=9, **{**SCENES, "images": 300}) for label in labels]
        alarms += bool(regressions(verdicts(now, "scenes", before)))
    assert alarms <= 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split_sha": "6" * 64}, "split sha is 66"),
        ({"features_sha": "e" * 64}, "features sha is ee"),
        ({"front_end": "pixels + grid"}, "front end is pixels . grid, in the reference pixels . boxes"),
        ({"vectors": "glove:a.txt"}, "vectors is glove:a.txt"),
    ],
)
def test_other_data_is_refused(changes, sentence):
    with pytest.raises(BadInput, match=sentence.replace("+", ".")):
        verdicts([made("ccl:tuned", BASE, **{**SCENES, **changes})], "scenes", reference_runs())


@pytest.mark.parametrize(
    ("changes", "where"),
    [({"protocol": "documents"}, "protocol documents."), ({"folds": 5}, "protocol captions, 5 folds.")],
)
def test_a_protocol_without_reference_is_noted_and_the_others_are_compared(changes, where):
    runs = [made("ccl:tuned", BASE, **SCENES), made("ccl:tuned", BASE, **{**SCENES, **changes})]
    found = verdicts(runs, "scenes", reference_runs())
    (bare,) = (verdict for verdict in found if "no reference" in str(verdict))
    assert f"The reference has no records of scenes, {where}" in bare.notes and bare.judged == 0
    assert sum(verdict.judged for verdict in found if "against the reference" in verdict.title) == 1


def test_features_computed_elsewhere_are_the_same_data():
    """Their bytes differ with processor and threads; what they were made of does not."""
    before = [made("ccl:tuned", BASE, seed=seed, **SCENES, sources_sha="a" * 64) for seed in range(3)]
    now = {**SCENES, "features_sha": "e" * 64}
    found = verdicts([made("ccl:tuned", BASE, **now, sources_sha="a" * 64)], "scenes", before)
    assert "computed elsewhere" in str(found[0])
    for other in ({"sources_sha": "b" * 64}, {}):
        with pytest.raises(BadInput, match="features sha is ee"):
            verdicts([made("ccl:tuned", BASE, **now, **other)], "scenes", before)


def test_other_labels_or_vector_files_are_other_data():
    before, now = (made("ccl:tuned", BASE, **SCENES, extras_sha=sha * 64) for sha in "ab")
    with pytest.raises(BadInput, match=r"extras is bbb.*, in the reference aaa"):
        verdicts([now], "scenes", [before])
    assert verdicts([now], "scenes", [made("ccl:tuned", BASE, **SCENES)])  # a record that does not name them yet


def test_rows_without_reference_or_not_run_are_named():
    (found, *_) = verdicts([made("cfa:tuned", BASE, **SCENES)], "scenes", reference_runs())
    assert "no reference" in str(found) and "Not run: ccl:tuned." in str(found)


def test_a_failed_run_is_a_regression():
    record, _ = made("ccl:tuned", BASE, **SCENES)
    failed = Failure(
        data=record.data,
        method_label="ccl:tuned",
        protocol="captions",
        folds=0,
        seed=1,
        error="it broke",
        traceback="",
        started=record.started,
        environment={},
    )
    tables = tabled([(record, made("ccl:tuned", BASE, **SCENES)[1])], [failed])
    (found, *_) = compare_dataset(tables, "scenes", tabled(reference_runs(), []))
    assert found.regressions == ["REGRESSION scenes, captions, ccl:tuned seed 1 FAILED: it broke"]


# The verbs


def test_compare_says_it_with_its_exit_code(command, tmp_path):
    fine, broken = stored(tmp_path / "fine", as_printed()), stored(tmp_path / "broken", as_printed(corr_ae=25.0))
    said = command("compare", "--results", fine)
    assert said.code == 0 and said.out.endswith("no regression\n")
    assert "there are no records of mscoco" in said.err
    said = command("compare", "-d", "flickr30k", "--results", broken)
    assert said.code == 1 and "REGRESSION flickr30k, corr-ae:paper" in said.out
    said = command("compare", "--results", tmp_path / "none")
    assert said.code == 2 and said.sentence.endswith("run cran-bench run -d flickr30k first")
    said = command("compare", "-d", "flickr30k", "-d", "mscoco", "--results", broken)
    assert said.code == 2 and said.out == ""
    nothing = stored(tmp_path / "nothing", [made("cca:tuned[dim=5]", BASE)])
    said = command("compare", "--results", nothing)
    assert said.code == 2 and "no comparable rows found" in said.sentence
    said = command("compare", "-d", "mscoco", "--results", fine)
    assert said.code == 2 and "there are no records of mscoco" in said.sentence
    assert said.sentence.endswith("run cran-bench run -d mscoco first")


def test_compare_with_a_reference(command, tmp_path):
    reference = stored(tmp_path / "reference", reference_runs())
    fine = stored(tmp_path / "fine", [made("ccl:tuned", BASE, seed=3, **SCENES)])
    low = stored(tmp_path / "low", [made("ccl:tuned", BASE - 9, seed=3, **SCENES)])
    where = ["compare", "-d", "scenes", "--reference", reference, "--results"]
    assert command(*where, fine).code == 0
    said = command(*where, low)
    assert said.code == 1 and said.out.count("LOWER") == 2 and said.out.endswith("2 regressions\n")
    said = command("compare", "-d", "scenes", "--reference", tmp_path / "none", "--results", fine)
    assert said.code == 2 and "name their folder with --reference" in said.sentence
    path = min((reference / "runs").rglob("*.json"))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 6').replace('"seed":0', '"seed":6'))
    said = command(*where, fine)
    assert said.code == 1 and "REGRESSION scenes, captions, in the reference: " in said.out
    assert " seed 0 DAMAGED: " in said.out and "was changed after it was written" in said.out
    own = next((fine / "runs").rglob("*.npz"))
    own.write_bytes(b"")
    said = command(*where, fine)
    assert said.code == 1 and f"ccl:tuned seed 3 DAMAGED: {own} is not the file its record names" in said.out


def test_significance_of_two_and_of_all(command, tmp_path):
    runs = [made("cca:tuned", BASE, **SCENES), made("cfa:tuned", BASE - 12, **SCENES)]
    runs += [made("kcca:tuned", BASE + 0.1, seed=0, **SCENES)]
    results = stored(tmp_path, runs)
    said = command("significance", "cca", "cfa", "--results", results)
    lines = [line for line in said.out.splitlines() if "2t R@1 " in line or "2i R@1 " in line]
    assert said.code == 0 and all(line.endswith("better") for line in lines), said.out
    said = command("significance", "--results", results)
    assert next(line for line in said.out.splitlines() if line.startswith("cca")).endswith("not separable")
    assert next(line for line in said.out.splitlines() if line.startswith("cfa")).endswith("better")
    frame = pd.read_csv(io.StringIO(command("significance", "--results", results, "-f", "csv").out))
    assert list(frame["against"]) == ["cca:tuned", "cfa:tuned"]
    lines = json.loads(command("significance", "--results", results, "-f", "json").out)
    assert [line["against"] for line in lines] == ["cca:tuned", "cfa:tuned"] and isinstance(lines[0]["rsum"], float)


def test_significance_across_features(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    runs = [made("cca:tuned", BASE - 12, **SCENES), made("cfa:tuned", BASE - 20, **SCENES)]
    runs += [made("cca:tuned", BASE, seed=1, **SCENES, vectors="glove:a.txt")]
    runs += [made("cca:tuned", BASE + 9, seed=2, **SCENES, split_sha="6" * 64)]
    results = stored(tmp_path, runs)
    said = command("significance", "cca", "--across", "--results", results)
    assert said.code == 0 and "(-f csv has all)" in " ".join(said.out.split()), said
    assert max(map(len, said.out.splitlines())) <= 80
    first = said.out.partition(" ")[2][:3]
    kinds = [line for line in said.out.splitlines() if line.startswith(("(1) ", "(2) "))]
    assert len(kinds) == 2 and [line[:3] for line in kinds if "glove:a.txt" in line] == [first]
    frame = pd.read_csv(io.StringIO(command("significance", "--across", "--results", results, "-f", "csv").out))
    assert len(frame) == 2 and set(frame["verdict"]) == {"better"}
    assert command("significance", "cfa", "--across", "--results", results).code == 2
    results = stored(tmp_path / "more", [*runs, made("kcca:tuned", BASE, **SCENES, split_sha="7" * 64)])
    said = command("significance", "cca", "kcca", "--across", "--results", results)
    assert said.code == 2 and "cca:tuned and kcca:tuned were measured on different test splits" in said.sentence
    shas = [made("cca:tuned", BASE, seed=seed, **SCENES, sources_sha=str(seed) * 64) for seed in (8, 9)]
    said = command("significance", "cca", "--across", "--results", stored(tmp_path / "alike", shas))
    assert "ppmi-svd, sha 88888888." in said.out and "ppmi-svd, sha 99999999." in said.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cca"], "give at least two methods"),
        (["cca", "macc"], "there is no finished record of macc:tuned"),
        (["cca", "cca"], "cca:tuned is given twice: give each method once"),
        (["cca", "cfa", "-p", "all"], "under one protocol, not 4"),
        (["cca", "dcca"], "measured on different data: vectors is ppmi-svd and glove:a.txt"),
        (
            ["cca", "cfa", "-f", "html"],
            "there is no table format 'html': choose terminal, markdown, csv, latex, json; cran-bench report writes an",
        ),
        (["-d", "flickr8k"], "there are no records of flickr8k under protocol captions below"),
    ],
)
def test_significance_refuses(command, tmp_path, arguments, sentence):
    runs = [made("cca:tuned", BASE, **SCENES), made("cfa:tuned", BASE - 12, **SCENES)]
    runs += [made("dcca:tuned", BASE, **SCENES, vectors="glove:a.txt")]
    said = command("significance", *arguments, "--results", stored(tmp_path, runs))
    assert said.code == 2 and sentence in said.sentence


def test_the_papers_tables_in_its_shape(command, tmp_path):
    results = stored(tmp_path, [run for run in as_printed() if not run[0].method.label.startswith("macc")])
    said = command("table", "1", "--wide", "--results", results)
    lines = said.out.splitlines()
    assert [line.split("  ")[0] for line in lines[4:15]] == [row.name for row in paper_rows(1)]
    assert "0.381 (0.381)" in lines[4] and "cran:paper[width=full], mean" in lines[4]
    assert lines[11].startswith("MACC") and lines[11].count("- (0.") == 6 and "- is not measured." in said.out
    table = list(csv.DictReader(io.StringIO(command("table", "1", "--results", results, "-f", "csv").out)))
    assert table[7]["status"] == "missing" and float(table[0]["i2t_r1"]) == float(table[0]["i2t_r1_paper"]) == 0.381
    assert r"\toprule" in command("table", "3", "--results", results, "-f", "latex").out
    said = command("table", "3", "--results", results, "-f", "markdown")
    assert said.out.count("| MS-COCO") == 1 and said.out.count("Flickr-30K |") == 1


def test_a_failed_row_is_visible_in_the_papers_table(command, tmp_path):
    results = stored(tmp_path, [*as_printed()[:1], made("kcca:tuned", BASE)])
    failure = failed_run("kcca:paper")
    ResultStore(results).write_failure(Address(failure.data.label, "documents", 0, "kcca:paper", 0, "1" * 12), failure)
    said = command("table", "1", "--wide", "--results", results)
    assert next(line for line in said.out.splitlines() if line.startswith("KCCA")).count("failed (") == 6
    assert "kcca:paper seed 0 FAILED: no memory" in said.out
    table = list(csv.DictReader(io.StringIO(command("table", "1", "--results", results, "-f", "csv").out)))
    assert {row["row"]: row["status"] for row in table}["KCCA"] == "failed"


def test_other_data_in_the_papers_shape(command, tmp_path):
    results = stored(tmp_path, [made("cca:tuned", BASE, data="flickr8k", front_end="onnx:a + grid")])
    said = command("table", "1", "-d", "flickr8k", "--wide", "--results", results)
    assert "another dataset: they are not comparable" in said.out and "0.300 (0.076)" in said.out
    table = list(
        csv.DictReader(io.StringIO(command("table", "1", "-d", "flickr8k", "--results", results, "-f", "csv").out))
    )
    assert (table[10]["dataset"], table[10]["printed_dataset"]) == ("flickr8k", "flickr30k")
    said = command("table", "1", "-d", "flickr8k[limit=100]", "--results", results)
    assert "0.300" not in said.out


def test_the_papers_own_data_by_name(command, tmp_path):
    results = stored(tmp_path, as_printed("mscoco"))
    for name in ("mscoco", "mscoco[split=random]"):
        said = command("table", "3", "-d", name, "--wide", "--results", results)
        assert "another dataset" not in said.out and "0.230 (0.230)" in said.out and "(0.381)" not in said.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["1", "-m", "cca"], "--method does not apply to table 1"),
        (["1", "-p", "captions,mean"], "paper tables use a single protocol, not 2"),
        (["1", "--preset", "best"], "--preset is paper or tuned, not 'best'"),
        (["--preset", "tuned"], "--preset does not apply to table"),
        (["kernels", "-d", "scenes"], "--dataset does not apply to table kernels"),
    ],
)
def test_options_that_would_do_nothing_are_refused(command, tmp_path, arguments, sentence):
    said = command("table", *arguments, "--results", stored(tmp_path, as_printed()[:1]))
    assert said.code == 2 and sentence in said.sentence


@pytest.mark.parametrize("which", ["4", "kernel"])
def test_unknown_tables(command, tmp_path, which):
    said = command("table", which, "--results", tmp_path)
    assert said.code == 2 and f"there is no table '{which}'" in said.sentence


def test_kernels(command, tmp_path):
    said = command("table", "kernels", "--results", tmp_path)
    assert said.code == 2 and "cran-bench bench similarity" in said.sentence
    (tmp_path / "kernels").mkdir()
    columns = "bench,task,what,dtype,part,seconds,ns_per_pair,gflops,peak_percent,times_faster,rescored,error,ranks"
    line = "ranking,two by two,torch,float32,all,0.5,2,3,4,5.25,6,1e-7,identical"
    (tmp_path / "kernels" / "a-chip.csv").write_text(
        f"{columns},extra_mib,launches,waits,idle_percent,commit\n{line},7,,,,abc\n"
    )
    said = command("table", "kernels", "--results", tmp_path)
    assert "a-chip · ranking: two by two" in said.out and "5.25" in said.out
    assert "a-chip" in command("table", "kernels", "--results", tmp_path, "-f", "csv").out
    (timing,) = json.loads(command("table", "kernels", "--results", tmp_path, "-f", "json").out)
    assert timing["hardware"] == "a-chip" and timing["times_faster"] == 5.25
    assert max(map(len, said.out.splitlines())) <= 100
    for text in (
        "",
        "a,b\n1,2\n",
        f"{columns},extra_mib,launches,waits,idle_percent,commit\n{line.replace('0.5', 'fast')},7,,,,abc\n",
        "\xff\xfe",
    ):
        (tmp_path / "kernels" / "a-chip.csv").write_text(text, encoding="latin-1")
        said = command("table", "kernels", "--results", tmp_path)
        assert said.code == 2 and "a-chip.csv holds no timings" in said.sentence


def test_rows_that_cannot_be_told_from_the_best_are_marked(command, tmp_path):
    runs = [made("cca:tuned", BASE, **SCENES), made("cfa:tuned", BASE - 12, **SCENES)]
    results = stored(tmp_path, [*runs, made("kcca:tuned", BASE + 0.1, **SCENES)])
    said = command("table", "--results", results)
    assert "≈" in next(line for line in said.out.splitlines() if line.startswith("cca"))
    assert "≈" not in next(line for line in said.out.splitlines() if line.startswith("cfa"))
    assert "≈ may be the best: its interval reaches zero" in said.out
    body = [line for line in command("table", "--results", results, "-f", "latex").out.splitlines() if "%" not in line]
    assert any(line.startswith(" cca:tuned") and r"$\approx$" in line for line in body)
    assert not any("≈" in line for line in body)


def test_it_says_when_there_is_one_seed(command, tmp_path):
    said = command("compare", "--results", stored(tmp_path, as_printed()))
    assert "cran:paper[width=full]: one seed, so its intervals cover the choice of images only." in said.out


def test_a_table_that_is_not_for_comparison_has_no_verdicts():
    quick = {**SCENES, "data": "scenes:quick", "quick": True}
    runs = [made("cca:paper", BASE, **quick), made("cfa:paper", BASE - 12, **quick), made("kcca:paper", BASE, **quick)]
    (table,) = tabled(runs, [])
    for style in ("terminal", "csv"):
        text = render([table], style)
        assert "cfa:paper" in text and not any(word in text for word in ("behind", "best", "≈"))
    assert "quick: not for comparison" in render([table], "terminal")
    assert verdicts(runs, "scenes:quick") == []
    paper = {"data": "flickr30k:quick[split=entities]", "quick": True}
    assert verdicts([made("cca:paper", BASE, **paper), made("cfa:paper", BASE - 12, **paper)]) == []


def test_the_note_says_where_the_variance_of_one_seed_is_from():
    once, again = made("cca:tuned", BASE + 1, **SCENES), made("kcca:tuned", BASE - 12, **SCENES)
    (table,) = tabled([*reference_runs(spread=3.0), once, again], [])
    assert any("rows with one seed get the mean variance over seeds" in note for note in table.notes)
    assert table.behind_best()["ccl:tuned"].high >= 0
    (alone,) = tabled([once, again], [])
    assert not any("mean variance over seeds" in note for note in alone.notes)


def test_without_methods_significance_compares_with_the_best_of_all(command, tmp_path):
    """The same verdicts as the column behind best; a row is not worse because the best was lucky."""
    runs = [made(f"{name}:tuned", BASE - move, **SCENES) for name, move in (("cca", 0), ("cfa", 12), ("kcca", 0.1))]
    (table,) = tabled(runs, [])
    frame = pd.read_csv(io.StringIO(command("significance", "--results", stored(tmp_path, runs), "-f", "csv").out))
    for _, line in frame.iterrows():
        gap = table.behind_best()[line["against"]]
        assert line["95 % interval"] == f"[{-gap.high:+z.1f}, {-gap.low:+z.1f}]"
        assert line["verdict"] == ("better" if gap.high < 0 else "not separable")
