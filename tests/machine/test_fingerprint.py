"""Keys by meaning: what changes a fit's numbers changes its key, and nothing else; sources are edited in memory."""

import ast
import functools
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from cran_bench.errors import BadInput
from cran_bench.machine import fingerprint
from cran_bench.machine.fingerprint import Module, Sources, code, read
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.fits import FitStore, code_of
from cran_bench.running.fits.store import ASKED, LENT
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner
from cran_bench.similarity import COSINE

CPU = torch.device("cpu")
LINEAR = {"cca", "cfa", "kcca", "macc", "dcca"}
STACKS = {"bimodal-ae", "multimodal-dbn", "corr-ae", "ccl", "cmdn"}
PLUS = {"cran-plus", "cran-plus-baseline", "cran-plus-local", "cran-plus-relation", "cran-plus-ensemble"}
CRANS = {"cran", "cran-baseline", "cran-local", "cran-relation", "cran-ensemble"} | PLUS
HINGES = {"scan", "vsepp", "vse-infinity"}
HEADS = {"linear-head", "pcmepp"}
SEMANTIC = {"sm", "scm"}
VOTING = {"jrl", "s2upg"}
LABELLED = SEMANTIC | VOTING | {"cca3v", "ml-cca"}
GIVEN = {"aligned", "truth"}  # which fit nothing
ALL = LINEAR | STACKS | CRANS | HINGES | HEADS | LABELLED | GIVEN | {"dual-path", "gmm-hglmm", "region-phrase"}
OTHERS = {"cca[text=word_cnn]", "kcca[text=word_cnn]", "cran:paper"}
SPECS = sorted(ALL | OTHERS)


def store(data=None, unit="captions", device=CPU):
    return FitStore(Path("nowhere"), data or {}, SimpleNamespace(unit=unit), None, device)


@pytest.fixture
def keys(monkeypatch):
    """``keys(change)``: the key of every method where ``change(module, text)`` gives the source of each module."""

    def found(change, specs=SPECS, sources=Sources):
        monkeypatch.setattr(fingerprint, "SOURCES", edited(change, sources))
        return {spec: store().fingerprint(METHODS.configure(spec).build(), 0) for spec in specs}

    monkeypatch.setattr(fingerprint, "Module", parsed)
    return found


parsed, read_once = functools.cache(Module), functools.cache(read)


def edited(change: Callable[[str, str], str], sources: Callable[..., Sources] = Sources) -> Sources:
    def changed(module, home):
        found = read_once(module, home)
        return found and (change(module, found[0]), found[1])

    return sources(changed)


class EditedInside(Sources):
    """Sources with an edit that leaves all global names and imports: definitions elsewhere are read once for all."""

    unedited = Sources(read_once)

    def _definition(self, symbol):
        own, other = (sources.module(symbol.module, symbol.home) for sources in (self, EditedInside.unedited))
        if own is not other or symbol.home:
            assert {name: imports(own, name) for name in own.names} == {n: imports(other, n) for n in other.names}
            return super()._definition(symbol)
        return EditedInside.unedited.definition(symbol)


def imports(module, name):
    """The imports among what a global name means; None for each statement."""
    return [meaning if isinstance(meaning, tuple) else None for meaning in module.names[name]]


@pytest.fixture(scope="module")
def before():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "Module", parsed)
        patch.setattr(fingerprint, "SOURCES", Sources())
        return {spec: store().fingerprint(METHODS.configure(spec).build(), 0) for spec in SPECS}


def test_every_registered_method_is_looked_at(before):
    assert set(METHODS.names()) == ALL
    assert len(set(before.values())) == len(before)


# what does not count --------------------------------------------------------------------------------------------------


class Rewriting(ast.NodeTransformer):
    """Changes texts wherever `is_there` of a node within which they are."""

    def __init__(self, is_there):
        self.is_there, self.inside = is_there, 0

    def visit(self, node):
        within = self.is_there(node)
        self.inside += within
        node = super().visit(node)
        self.inside -= within
        return node

    def visit_Constant(self, node):
        return ast.Constant(node.value + " (in other words)") if self.inside and isinstance(node.value, str) else node

    def visit_FormattedValue(self, node):
        return node


def rewriting(is_there):
    return lambda tree: Rewriting(is_there).visit(tree)


def called(node, *names):
    return isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in names


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def with_other_labels(tree):
    for node in ast.walk(tree):
        if called(node, "progress") and len(node.args) > 1:
            node.args[1] = ast.Constant("slowly, slowly")
        if called(node, "checkpoint"):
            node.keywords = [ast.keyword("at", ast.Constant("there"))]
    return tree


def with_other_annotations(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            kept = re.search("ClassVar|TypeAlias", ast.unparse(node.annotation))
            node.annotation = node.annotation if kept else ast.Constant("something else")
        if isinstance(node, ast.FunctionDef):
            node.returns = ast.Name("Any")
    return tree


def in_another_order(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            defined = [s for s in node.body if isinstance(s, ast.FunctionDef | ast.ClassDef)]
            if not any(s.decorator_list and ast.unparse(s.decorator_list[0]).endswith(".setter") for s in defined):
                node.body = [s for s in node.body if s not in defined] + defined[::-1]
    return tree


def with_more(tree):
    more = "import statistics\nfrom cran_bench.tables.paper import PaperRow\nNEW: int = 7\nT2 = TypeVar('T2')\n"
    more += "def quite_new(x):\n    return statistics.mean(x)\nclass New(Exception): pass\n"
    if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
        tree.body += ast.parse(more).body
        for node in [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.bases]:
            node.body += ast.parse("def quite_new(self):\n    return NEW\n").body
    return tree


def with_other_presets(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                if called(decorator, "register"):
                    decorator.keywords = [ast.keyword("presets", ast.parse("{'new': {'dim': (7,)}}").body[0].value)]
    return tree


def with_other_estimates(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("memory", "covariance_bytes", "explain"):
            node.body = ast.parse("return 7 * train.image_dim").body
    return tree


METHOD, LINALG, SPLIT = "cran_bench.methods.kcca", "cran_bench.toolbox.linalg", "cran_bench.split"
RANKING, PROBLEM = "cran_bench.ranking.backends", "cran_bench.ranking.problem"
EVERYWHERE = {METHOD, LINALG, SPLIT, RANKING, PROBLEM}

# How sources are changed, all of them at once, and some in which that finds something to change.
SAME_MEANING = {
    "layout and comments": (lambda tree: tree, EVERYWHERE),
    "docstrings": (rewriting(is_docstring), EVERYWHERE),
    "annotations": (with_other_annotations, EVERYWHERE),
    "errors": (rewriting(lambda node: isinstance(node, ast.Raise)), EVERYWHERE),
    "what is said": (
        rewriting(lambda node: called(node, "say", "warn")),
        {METHOD, "cran_bench.frontend.text.words", "cran_bench.ranking.filtering", "cran_bench.methods.cran.alignment"},
    ),
    "labels of progress": (with_other_labels, {METHOD, "cran_bench.methods.macc", "cran_bench.toolbox.training"}),
    "messages of assertions": (
        lambda tree: rewriting(lambda node: node in messages)(tree) if (messages := asserted(tree)) else tree,
        {SPLIT, LINALG},
    ),
    "help": (rewriting(lambda node: isinstance(node, ast.keyword) and node.arg == "help"), {"cran_bench.methods.cca"}),
    "order": (in_another_order, EVERYWHERE),
    "what nobody asks for": (with_more, EVERYWHERE),
    "presets": (with_other_presets, {METHOD, "cran_bench.methods.cran", "cran_bench.methods.cca"}),
    "estimates of memory, and explanations": (with_other_estimates, {METHOD, LINALG, "cran_bench.methods.cran"}),
}

# Sentences to be reworded where there is none so far.
ADDED = {
    SPLIT: ("name, self.unit = name, unit\n", 'name, self.unit = name, unit\n        assert name, "no name"\n'),
    LINALG: ("    n = len(covariance)\n", '    n = len(covariance)\n    assert n, f"no {n}" "rows"\n'),
    "cran_bench.methods.cca": (
        "        self.begin(run)\n",
        '        self.begin(run)\n        add(help="a word")\n',
    ),
}


def asserted(tree):
    return [node.msg for node in ast.walk(tree) if isinstance(node, ast.Assert) and node.msg]


@functools.cache
def unparsed(text):
    return ast.unparse(ast.parse(text))


def with_additions(module, text):
    old, new = ADDED.get(module, ("", ""))
    assert old in text
    return text.replace(old, new) if old else text


@pytest.fixture(scope="module")
def added():
    """The keys of all methods with the additions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "Module", parsed)
        patch.setattr(fingerprint, "SOURCES", edited(with_additions))
        return {spec: store().fingerprint(METHODS.configure(spec).build(), 0) for spec in SPECS}


def test_empty_fields_that_a_newer_python_adds_change_no_key():
    class Newer(ast.Break):
        _fields = ("type_params", "default_value", "level")
        type_params: ClassVar[list[ast.AST]] = []
        default_value, level = None, 0

    reader = fingerprint.Reader(Sources(), fingerprint.Symbol("cran_bench.errors", "", ""))
    form = reader.form(Newer())
    assert form == "Newer(level=0)"


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", SAME_MEANING)
def test_what_means_the_same_changes_no_key(keys, added, kind):
    change, expected = SAME_MEANING[kind]
    changed = set()

    def rewritten(module, text):
        text = with_additions(module, text)
        new = ast.unparse(ast.fix_missing_locations(change(ast.parse(text))))
        if new != (text if kind.startswith("layout") else unparsed(text)):
            changed.add(module)
        return new

    assert keys(rewritten) == added
    assert expected <= changed


MOVED = {
    "cran_bench.toolbox.linalg": "cran_bench.toolbox.algebra",
    "cran_bench.toolbox.kernels": "cran_bench.kernels",
    "cran_bench.toolbox.rbm": "cran_bench.frontend.rbm",
    "cran_bench.toolbox.training": "cran_bench.machine.training",
    "cran_bench.similarity": "cran_bench.declared",
    "cran_bench.ranking.problem": "cran_bench.ranking.posed.problem",
    "cran_bench.frontend.text.vectors": "cran_bench.words",
    "cran_bench.methods._linear": "cran_bench.methods._two_views",
    "cran_bench.methods.cran.model": "cran_bench.methods.cran.network",
}
PACKAGES = {"cran_bench.ranking.posed"}


@pytest.mark.no_cover
def test_where_a_module_lies_changes_no_key(before, monkeypatch):
    places = {new: old for old, new in MOVED.items()}
    relative = {f"from .{old.rpartition('.')[2]} ": f"from {new} " for old, new in MOVED.items()}

    def moved(module, home):
        if module in PACKAGES:
            return '"""A new package."""\n', True
        found = None if module in MOVED else read(places.get(module, module), home)
        if found is None:
            return None
        text, is_package = found
        if module in places:  # its own relative imports
            text = re.sub(r"from \.(\w)", rf"from {places[module].rpartition('.')[0]}.\1", text)
        for old, new in {**relative, **MOVED}.items():
            text = text.replace(old + " " if old in MOVED else old, new + " " if old in MOVED else new)
        return text, is_package

    monkeypatch.setattr(fingerprint, "Module", parsed)
    monkeypatch.setattr(fingerprint, "SOURCES", Sources(moved))
    assert {spec: store().fingerprint(METHODS.configure(spec).build(), 0) for spec in SPECS} == before
    symbols_of_kcca = code(METHODS.get("kcca").cls, *LENT, asked=ASKED).symbols
    assert {"cran_bench.toolbox.algebra", "cran_bench.methods._two_views"} <= {p.module for p in symbols_of_kcca}


FACTORS = "from cran_bench.toolbox.linalg import cross_factors"

# A module, how it imports something, how else it might, and how it then names it.
SAME_NAMES = [
    ("methods.cfa", FACTORS, "import cran_bench.toolbox.linalg as la", "cross_factors(", "la.cross_factors("),
    ("methods.cfa", FACTORS, "import cran_bench.toolbox.linalg", "cross_f", "cran_bench.toolbox.linalg.cross_f"),
    ("methods.cfa", FACTORS, "from cran_bench.toolbox import linalg", "cross_factors(", "linalg.cross_factors("),
    ("methods.cfa", FACTORS, f"{FACTORS} as factors", "cross_factors(", "factors("),
    ("methods.cfa", FACTORS, "", "self.begin(run)\n", f"self.begin(run)\n        {FACTORS}\n"),
    ("toolbox.linalg", "import numpy as np", "import numpy", "np.", "numpy."),
    ("toolbox.linalg", "import scipy.linalg\n", "import scipy.linalg as dense\n", "scipy.linalg.", "dense."),
]


@pytest.mark.no_cover
@pytest.mark.parametrize("edit", SAME_NAMES)
def test_how_a_definition_is_imported_changes_no_key(keys, before, edit):
    module, *changes = edit

    def change(name, text):
        if name == f"cran_bench.{module}":
            for old, new, most in ((*changes[:2], 1), (*changes[2:], -1)):
                assert old in text
                text = text.replace(old, new, most)
        return text

    assert keys(change, ["cfa", "cca"]) == {spec: before[spec] for spec in ("cfa", "cca")}


# what counts ----------------------------------------------------------------------------------------------------------

CORRELATED = {
    *("cca", "kcca", "macc", "dcca", "gmm-hglmm", "region-phrase", "scm", "ml-cca"),
    *OTHERS - {"cran:paper"},
    *CRANS,
}
WITH_WORDS = {"cca[text=word_cnn]", "kcca[text=word_cnn]"}
TRAINED = STACKS | CRANS | HEADS | HINGES | WITH_WORDS | {"cran:paper", "dcca", "dual-path"}
RANKED = CRANS | HINGES | WITH_WORDS | {"cran:paper", "dual-path"}
EVERY = ALL | OTHERS

# A module, what is written there, what in its place, and the methods whose keys change.
OTHER_MEANING = [
    ("toolbox.linalg", '("x", C.xx, C.xy, rx)', '("x", C.xx, C.xy, ry)', CORRELATED | {"cran:paper"}),
    ("toolbox.linalg", "s > 1e-7 * s[0]", "s > 1e-8 * s[0]", CORRELATED | {"cfa", "cran:paper"}),
    ("toolbox.linalg", "TEXT_BLOCK = 8192", "TEXT_BLOCK = 4096", CORRELATED | LABELLED | {"cfa", "cran:paper"}),
    ("toolbox.linalg", "import numpy as np", "import numpy_of_ours as np",
     EVERY - STACKS - HEADS - HINGES - GIVEN - {"dual-path"}),
    ("toolbox.losses", "margin - positive", "margin + positive", RANKED),
    ("toolbox.losses", '== "hardest"', '== "harder"', RANKED),
    ("toolbox.training", "0.9 - 0.4 * math.exp", "0.9 - 0.5 * math.exp", STACKS),
    ("toolbox.training", "CHECK_EVERY = 50", "CHECK_EVERY = 51", TRAINED),
    ("toolbox.training", "_best_epoch = -math.inf, 0", "_best_epoch = -1.0, 0", TRAINED),
    ("machine.processes", "return function()", "return function() or 0", TRAINED | {"region-phrase"}),
    ("toolbox.kernels", "norms.to(y)[:, None] +", "norms.to(y)[:, None] -", {"kcca", "macc", "kcca[text=word_cnn]"}),
    ("toolbox.kernels", 'if name == "rbf":', 'if name == "gauss":', {"kcca", "macc", "kcca[text=word_cnn]"}),
    ("toolbox.mixtures", "math.log(2 * math.pi)", "math.log(3 * math.pi)", {"gmm-hglmm"}),
    ("toolbox.rbm", "0.01 * torch.randn", "0.02 * torch.randn", STACKS),
    ("toolbox.states", 'f"{part}.{key}": value for', 'f"{part}/{key}": value for', EVERY - GIVEN),
    ("similarity", "self.top, scores.shape[1])", "self.top, scores.shape[0])", EVERY),
    ("frontend.feature_rows", "BLOCK = 4096", "BLOCK = 2048", EVERY),
    ("split", "def chars(self, length: int = 201", "def chars(self, length: int = 202", CRANS | {"cran:paper"}),
    ("split", "size: int = 3000, sublinear: bool = False", "size: int = 3000, sublinear: bool = True",
     EVERY - HINGES - GIVEN - {"dual-path", "gmm-hglmm"}),
    ("split", "return self._text.vector_sample", "return -self._text.vector_sample", {"gmm-hglmm"}),
    ("split", "position[self._rows] = np", "position[self._rows] = 1 + np", EVERY),  # twins of validation
    ("split", "return self.region_rows[:]", "return self.region_rows[1:]",
     CRANS | {"cran:paper", "scan", "vse-infinity", "region-phrase"} | STACKS | LABELLED),  # they mention "regions"
    ("split", "noun_chunks(text) or [text]", "[text]", {"region-phrase"}),
    ("frontend.text.tagging", 'found in ("noun", "adjective")', 'found in ("noun",)', {"region-phrase"}),
    ("frontend.text.characters", "ALPHABET = ", "ALPHABET = 'ab' + ", CRANS | {"cran:paper"}),
    ("frontend.text.words", "_WORD.findall(text.lower())", "_WORD.findall(text)", EVERY),
    ("frontend.text.words", 'kind="stable"', 'kind="quicksort"', EVERY),
    ("frontend.text.words", "FIRST_WORD = 2", "FIRST_WORD = 3", EVERY),
    ("frontend.text.words", "PADDING, UNKNOWN = 0, 1", "PADDING, UNKNOWN = 1, 1",
     HINGES | WITH_WORDS | PLUS | {"dual-path"}),
    ("dataset", '[" ".join(captions[a:b])', '["  ".join(captions[a:b])', EVERY),
    ("ranking.problem", "best[image_of] - reach.of_pairs", "best[image_of] + reach.of_pairs", EVERY),
    ("ranking.metrics", "self.better + self.tied /", "self.better - self.tied /", EVERY),
    ("ranking.metrics", "return self.i2t_r1 + self", "return 2 * self.i2t_r1 + self", EVERY),
    ("ranking.filtering", "SIGMAS = 6", "SIGMAS = 7", EVERY),
    ("ranking.triton", "WARPS = 8, 128, 8", "WARPS = 8, 128, 4", EVERY),
    ("ranking.backends", "problem.flop < SMALL", "problem.flop <= SMALL", EVERY),
    ("running.fits.run", "torch.manual_seed(seed)", "torch.manual_seed(seed + 1)", EVERY),
    ("running.fits.run", "make_problem(images, texts, val", "make_problem(texts, images, val", EVERY),
    ("ranking.rank", "wins = float((gap > tolerance)", "wins = float((gap >= tolerance)", EVERY),
    ("running.fits.run", 'self.owner, "similarity", None', 'self.owner, "alike", None', EVERY),
    ("running.memory", "LIBRARIES = ", "LIBRARIES = 2 * ", set()),
    ("machine.progress", "_LINE_EVERY = 30.0", "_LINE_EVERY = 3.0", set()),
    ("running.preparation", "import", "import sys; import", set()),
    ("methods._word_cnn", "filters: int = 100", "filters: int = 200", WITH_WORDS),
    ("methods._word_cnn", "WIDTHS = (3, 4, 5)", "WIDTHS = (3, 4)", WITH_WORDS),
    ("methods._linear", 'if self.text == "tfidf":', 'if self.text == "tf-idf":',
     LINEAR | LABELLED | WITH_WORDS | PLUS | {"region-phrase"}),
    ("methods._linear", "spectrum / spectrum[0]", "spectrum / spectrum[-1]",
     LINEAR | WITH_WORDS | PLUS | {"gmm-hglmm", "region-phrase", "cca3v", "ml-cca"}),
    ("methods._linear", '"Wx", "Wy", "spectrum")', '"Wx", "Wy")',
     LINEAR | LABELLED | WITH_WORDS | PLUS | {"gmm-hglmm", "region-phrase"}),
    ("methods._linear", "rows.sign() * rows.abs().sqrt()", "rows.abs().sqrt()",
     LINEAR | LABELLED | WITH_WORDS | PLUS | HINGES | STACKS | HEADS
     | {"dual-path", "gmm-hglmm", "region-phrase", "scan"}),
    ("methods._linear", "WORDS_BYTES = 400", "WORDS_BYTES = 4000", set()),
    ("methods.cca", "1e-2, 2e-2, 5e-2)", "1e-2, 2e-2)",
     PLUS | {"cca", "cca[text=word_cnn]", "region-phrase"}),
    ("methods.cca", "self.ridge_image, self.ridge_text)\n", "(0,), self.ridge_text)\n",
     PLUS | {"cca", "cca[text=word_cnn]", "region-phrase"}),
    ("toolbox.linalg", "1e-3 * deviation", "1e-2 * deviation", {"cfa"}),
    ("toolbox.kernels", "PIVOTS_AMONG = 50_000", "PIVOTS_AMONG = 5_000", {"kcca", "macc", "kcca[text=word_cnn]"}),
    ("methods.macc", "weight * (x - codebook[codeword])", "weight * (x + codebook[codeword])", {"macc"}),
    ("methods.dcca", "1 / (len(H1) - 1)", "1 / len(H1)", {"dcca"}),
    ("methods.gmm_hglmm", "np.random.default_rng(0)", "np.random.default_rng(1)", {"gmm-hglmm"}),
    ("methods.gmm_hglmm", '"gmm": 1.0, ', '"gmm": 2.0, ', {"gmm-hglmm"}),  # in FisherVectors
    ("methods.region_phrase", "(Wx * rho, Wy * rho, rho)", "(Wx, Wy, rho)", {"region-phrase"}),
    ("methods._stacks", "SEGMENT = 5", "SEGMENT = 6", STACKS),
    ("methods._stacks", "return self.image.codes(split)", "return -self.image.codes(split)", STACKS),
    ("methods._codes", "MEASURED = ", "MEASURED = 1 + ", STACKS),
    ("methods._heads", "drawn.long()", "drawn.int().long()", HEADS),
    ("methods.dual_path", "/ len(i)", "/ half", {"dual-path"}),
    ("methods.linear_head", "LARGEST_SCALE = 100", "LARGEST_SCALE = 10", {"linear-head"}),
    ("methods.pcmepp", "(texts + images) / 2", "texts + images", {"pcmepp"}),
    ("methods._labelled", "1e-12 * mean**2", "1e-10 * mean**2", LABELLED),
    ("methods._graphs", "SHORTEST = 1e-12", "SHORTEST = 1e-10", VOTING),
    ("methods._graphs", "np.log(factor) - np.logaddexp", "np.log(factor) + np.logaddexp", VOTING),
    ("methods.jrl", "LEAST_FALL = 0.02", "LEAST_FALL = 0.01", {"jrl"}),
    ("methods.s2upg", "OTHER_KIND = 0.85", "OTHER_KIND = 0.8", {"s2upg"}),
    ("methods.cca3v", "values > 1 + 1e-9", "values > 1 + 1e-3", {"cca3v"}),
    ("methods.ml_cca", "few - 1 - nearer", "few - nearer", {"ml-cca"}),
    ("methods.cmdn", "BATCH = 115", "BATCH = 116", {"cmdn"}),
    ("methods.sm", "STOP = 0.01", "STOP = 0.001", SEMANTIC),
    ("methods.scm", "A * rho**power", "A / rho**power", {"scm"}),
    ("methods.aligned", "return split.images", "return -split.images", {"aligned"}),
    ("methods.truth", "split.truths[0].float()", "-split.truths[0].float()", {"truth"}),
    ("split", "np.logical_and.reduceat", "np.logical_or.reduceat", {"truth"}),
    ("methods.bimodal_ae", "square().sum(dim=2)", "abs().sum(dim=2)", {"bimodal-ae", "cmdn"}),
    ("methods.corr_ae", "0.5 * ((1 - self.alpha)", "0.6 * ((1 - self.alpha)", {"corr-ae", "ccl"}),
    ("methods.multimodal_dbn", "range(self.mean_field_steps)", "range(1 + self.mean_field_steps)",
     {"multimodal-dbn", "cmdn"}),
    ("methods.ccl", "(2 * len(images))", "len(images)", {"ccl"}),
    ("methods.ccl", '"weight_decay": 1e-4}', '"weight_decay": 1e-3}', {"ccl"}),
    ("methods.ccl", "self.rbm.hidden, self._given(rows)", "self.rbm.hidden, rows + self._given(rows)", {"ccl"}),
    ("methods.cran", "best = criterion", "best = criterion + 1", CRANS | {"cran:paper"}),
    ("methods.cran.alignment", "NEGATIVES = 1 << 40", "NEGATIVES = 1 << 41", CRANS | {"cran:paper"}),
    ("methods.cran.recipe", "margin: float = 0.2", "margin: float = 0.3", CRANS | {"cran:paper"}),
    ("methods.cran.pretraining", "QUARTERS = 4", "QUARTERS = 5", PLUS),
    ("methods.cran.correlation", "Wy * rho", "Wy / rho", PLUS),
    ("methods.cran.model", "table.shape[1]\n", "table.shape[0]\n", CRANS | {"cran:paper"}),
    ("methods.cran.explanation", "return", "return 1 or", set()),
    ("methods.cran.benchmark", "IMAGES = 2000", "IMAGES = 3000", set()),
]  # fmt: skip


@pytest.mark.no_cover
@pytest.mark.parametrize("edit", OTHER_MEANING, ids=lambda edit: f"{edit[0]}: {edit[2]}")
def test_another_meaning_changes_the_keys_of_those_that_use_it(keys, before, edit):
    """Of those that use it and of the others, five each, drawn anew for every edit."""
    module, old, new, expected = edit
    met = []

    def change(name, text):
        if name == f"cran_bench.{module}":
            assert old in text
            met.append(name)
            return text.replace(old, new, 1)
        return text

    draw = random.Random(f"{module} {old}")
    looked_at = [
        spec for some in (expected, {*SPECS} - expected) for spec in draw.sample(sorted(some), min(5, len(some)))
    ]
    after = keys(change, looked_at, Sources if "import" in new else EditedInside)
    assert {spec for spec in looked_at if after[spec] != before[spec]} == expected & {*looked_at}
    assert met or not expected


@pytest.mark.no_cover
def test_other_data_and_another_unit_seed_device_and_field_give_another_key(before):
    for spec in SPECS:
        part = METHODS.configure(spec).build()
        others = [
            store({"split": "other"}).fingerprint(part, 0),
            store(unit="documents").fingerprint(part, 0),
            store(device=torch.device("cuda")).fingerprint(part, 0),
            store().fingerprint(part, 1),
        ]
        assert len({before[spec], *others}) == 5
    keys = {store().fingerprint(METHODS.configure(f"cca[power={power}]").build(), 0) for power in ("1", "2")}
    assert len(keys) == 2


def test_the_same_field_values_of_another_class_give_another_key():
    assert len({store().fingerprint(METHODS.get(name).cls(), 0) for name in ("cran", "cran-local")}) == 2

    @dataclass
    class One(Inner):
        pass

    @dataclass
    class Another(Inner):
        pass

    assert len({store().fingerprint(part, 0) for part in (One(), Another())}) == 2


@pytest.mark.no_cover
def test_every_name_of_the_engine_is_found():
    for name in ALL:
        for place in code(METHODS.get(name).cls, *LENT, asked=ASKED).symbols:
            module = fingerprint.SOURCES.module(place.module, place.home)
            assert module and (not place.name or place.name.partition(".")[0] in module.names), place
            assert "<cran_bench" not in fingerprint.SOURCES.definition(place).form


def modules(spec):
    found = code(METHODS.get(spec).cls, *LENT, asked=ASKED)
    return {place.module.removeprefix("cran_bench.") for place in found.symbols}


def test_what_a_method_depends_on():
    assert modules("cca") == {
        *("cran_bench", "dataset", "errors", "frontend.feature_rows", "frontend.text.encoding"),
        *("frontend.text.spelling", "frontend.text.vectors", "frontend.text.words"),
        *("machine.storage", "methods._linear", "methods.cca", "ranking.metrics", "running.fits.run", "similarity"),
        *("specs", "split", "toolbox.linalg", "toolbox.states"),
    }
    others = {"toolbox.training", "machine.processes", "toolbox.losses", "methods._word_cnn"}
    assert not others & (modules("cfa") | modules("gmm-hglmm"))
    for spec in ALL:
        others = {"running.runner", "records.store", "registry", "machine.environment", "machine.progress"}
        assert not others & modules(spec)


# every number and every comparison ------------------------------------------------------------------------------------

FILES = ("methods.cca", "methods._linear", "toolbox.linalg")
OPPOSITE = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
OPPOSITE |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}


def spoken(tree):
    """The nodes that only speak."""
    for node in ast.walk(tree):
        is_label = called(node, "progress")
        if isinstance(node, ast.Raise) or called(node, "say", "register") or is_docstring(node):
            yield from ast.walk(node)
        elif is_label:
            yield node.args[1]
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield from ast.walk(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield from ast.walk(node.returns)


def reached(tree, names):
    """The nodes of the definitions of these names."""
    for node in tree.body:
        name = getattr(node, "name", None) or ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node)
        if isinstance(node, ast.ClassDef) and name in names:
            for inner in node.body:
                is_method = isinstance(inner, ast.FunctionDef)
                if not is_method or f"{name}.{inner.name}" in names:
                    yield from ast.walk(inner)
        elif name in names:
            yield from ast.walk(node)


def mutants():
    places = code(METHODS.get("cca").cls, *LENT, asked=ASKED).symbols
    for file in FILES:
        module = f"cran_bench.{file}"
        text = read(module, "")[0]
        tree = ast.parse(text)
        silent = set(spoken(tree))
        for node in reached(tree, {place.name for place in places if place.module == module}):
            if node in silent:
                continue
            if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                old, node.value = node.value, 2 * node.value + 1
                yield module, ast.unparse(tree), f"{file}:{node.lineno}: {old}"
                node.value = old
            elif isinstance(node, ast.Compare):
                old, node.ops[0] = node.ops[0], OPPOSITE[type(node.ops[0])]()
                yield module, ast.unparse(tree), f"{file}:{node.lineno}: {type(old).__name__}"
                node.ops[0] = old


@pytest.mark.no_cover
def test_every_number_and_comparison_counts(keys, before):
    survived, count = [], 0
    for mutated, text, what in mutants():
        count += 1
        change = lambda module, old, m=mutated, t=text: t if module == m else old  # noqa: E731
        (key,) = keys(change, ["cca"], EditedInside).values()
        if key == before["cca"]:
            survived.append(what)
    assert not survived
    assert count > 80


# small programs -------------------------------------------------------------------------------------------------------

ROOT = type("root", (), {"__module__": "cran_bench.made"})
OUTSIDE = {"__init__": "", "progress": "def say(text): print(text)\ndef track(items, *_): return items\n"}


def sha_of(text, asked=(), root=ROOT, **modules):
    """The code of `root` in a module of this text, with others beside it."""
    texts = {**OUTSIDE, "made": text, **modules}
    named = {("cran_bench" if name == "__init__" else f"cran_bench.{name}"): text for name, text in texts.items()}

    def read_made(module, _):
        return (named[module], module == "cran_bench") if module in named else None

    return Sources(read_made).code((root,), frozenset(asked)).sha


# Programs in pairs that mean the same to `root`.
SAME = {
    "a method that nobody names": (
        "class C:\n  def a(self): return 1\ndef root(): C()",
        "class C:\n  def a(self): return 2\ndef root(): C()",
    ),
    "what only a script does": ("def root(): return 1", "def root(): return 1\nif __name__ == '__main__': root()"),
    "what type checkers read": (
        "def root(): return 1",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from cran_bench.x import y\ndef root(): return 1",
    ),
    "cast": ("from typing import cast\ndef root(x): return cast('int', x)", "def root(x): return x"),
    "annotated": ("def root():\n  x: int = 1\n  y: str\n  return x", "def root():\n  x = 1\n  return x"),
    "an aliased type": ("T = int\ndef root(x: T): x", "T = str\ndef root(x: T): x"),
    "type parameters": (
        "from typing import Generic\nclass C(Generic[int]): a = 1\ndef root(): C()",
        "from typing import Generic\nclass C(Generic[str]): a = 1\ndef root(): C()",
    ),
    "words kept for an error": (
        "def root(x):\n  what = f'no {x}'\n  if x: raise ValueError(what + '!')",
        "def root(x):\n  what = f'another {x}'\n  if x: raise ValueError(what + '?')",
    ),
    "words kept for an error, in two steps": (
        "def root(x):\n  a = 'a'\n  b = f'no {a}'\n  if x: raise ValueError(b)",
        "def root(x):\n  a = 'c'\n  b = f'not {a}'\n  if x: raise ValueError(b)",
    ),
    "a label": (
        "def root(run): return run.progress([], 'slow', total=2)",
        "def root(run): return run.progress([], total=2, label='fast')",
    ),
    "a cause": ("def root(e): raise ValueError() from e", "def root(e): raise ValueError()"),
}


@pytest.mark.parametrize("kind", SAME)
def test_programs_that_mean_the_same(kind):
    one, other = SAME[kind]
    assert sha_of(one) == sha_of(other)


# Programs in pairs that do not.
DIFFERENT = {
    "a function beside a comprehension": (
        "def f(): return 1\ndef root(): [f for f in []], f()",
        "def f(): return 2\ndef root(): [f for f in []], f()",
    ),
    "the source of a comprehension": (
        "def f(): return 1\ndef root(): [f for f in f()]",
        "def f(): return 2\ndef root(): [f for f in f()]",
    ),
    "a global name": ("N = 1\ndef root():\n  global N\n  N += 1", "N = 2\ndef root():\n  global N\n  N += 1"),
    "a method that is named": (
        "class C:\n  def a(self): return 1\ndef root(): C().a()",
        "class C:\n  def a(self): return 2\ndef root(): C().a()",
    ),
    "a method that is named as a text": (
        "class C:\n  def a(self): return 1\ndef root(): getattr(C(), 'a')()",
        "class C:\n  def a(self): return 2\ndef root(): getattr(C(), 'a')()",
    ),
    "a method that is named by pieces": (
        "class C:\n  def see_a(self): return 1\ndef root(x): getattr(C(), f'see_{x}')()",
        "class C:\n  def see_a(self): return 2\ndef root(x): getattr(C(), f'see_{x}')()",
    ),
    "a method that is named before its class": (
        "def root(x): x.a(), f()\ndef f(): C()\nclass C:\n  def a(self): return 1",
        "def root(x): x.a(), f()\ndef f(): C()\nclass C:\n  def a(self): return 2",
    ),
    "a method of a base": (
        "class B:\n  def a(self): return 1\nclass C(B): ...\ndef root(): C().a()",
        "class B:\n  def a(self): return 2\nclass C(B): ...\ndef root(): C().a()",
    ),
    "a method with two underscores": (
        "class C:\n  def __call__(self): return 1\ndef root(): C()",
        "class C:\n  def __call__(self): return 2\ndef root(): C()",
    ),
    "a method that another package calls": (
        "import torch\nclass B(torch.nn.Module): ...\nclass C(B):\n  def forward(self): return 1\ndef root(): C()",
        "import torch\nclass B(torch.nn.Module): ...\nclass C(B):\n  def forward(self): return 2\ndef root(): C()",
    ),
    "a pattern": (
        "class C:\n  def a(self): return 1\ndef root(x):\n  match x:\n    case C(a=1): 0",
        "class C:\n  def a(self): return 2\ndef root(x):\n  match x:\n    case C(a=1): 0",
    ),
    "a field": ("class C:\n  a: int = 1\ndef root(): C()", "class C:\n  a = 1\ndef root(): C()"),
    "a class variable": (
        "class C:\n  a: int = 1\ndef root(): C()",
        "class C:\n  a: 'ClassVar[int]' = 1\ndef root(): C()",
    ),
    "the order of fields": (
        "class C:\n  a: int\n  b: int\ndef root(): C(1, 2)",
        "class C:\n  b: int\n  a: int\ndef root(): C(1, 2)",
    ),
    "a default": ("def root(x='a'): return x", "def root(x='b'): return x"),
    "another package": ("from a import f\ndef root(): f()", "from b import f\ndef root(): f()"),
    "a walrus in what is said": (
        "from cran_bench.progress import say\ndef root():\n  say(x := 'a')\n  return x",
        "from cran_bench.progress import say\ndef root():\n  say(x := 'b')\n  return x",
    ),
    "another function of that name": ("def root(say): say('a')", "def root(say): say('b')"),
    "words that are looked up": (
        "def f(x, what='a'): return x[what]\ndef root(x): f(x, 'one')",
        "def f(x, what='a'): return x[what]\ndef root(x): f(x, 'two')",
    ),
    "words that are kept for more than an error": (
        "def root(x):\n  what = 'a'\n  if x: raise ValueError(what)\n  return what",
        "def root(x):\n  what = 'b'\n  if x: raise ValueError(what)\n  return what",
    ),
    "words kept in a class": (
        "def root():\n  class C:\n    what = 'a'\n  return C",
        "def root():\n  class C:\n    what = 'b'\n  return C",
    ),
    "words kept for all": (
        "N = ''\ndef root():\n  global N\n  N = 'a'",
        "N = ''\ndef root():\n  global N\n  N = 'b'",
    ),
    "a label of something else": ("def root(x): x.progress(x, 'a', 2)", "def root(x): x.progress(x, 'b', 2)"),
    "a method of what has the name of an import": (
        "from a import b\nclass C:\n  def a(self): return 1\ndef root(b=C()): b.a()",
        "from a import b\nclass C:\n  def a(self): return 2\ndef root(b=C()): b.a()",
    ),
    "what an error carries": ("def root(x): raise StopIteration(x)", "def root(x): raise StopIteration(-x)"),
    "the kind of an error": ("def root(): raise ValueError('a')", "def root(): raise KeyError('a')"),
    "two definitions": (
        "try:\n  from a import f\nexcept ImportError:\n  def f(): return 1\ndef root(): f()",
        "try:\n  from a import f\nexcept ImportError:\n  def f(): return 2\ndef root(): f()",
    ),
    "what happens on import": ("def root(): return 1", "import torch\ntorch.set_num_threads(1)\ndef root(): return 1"),
    "an item": ("T = {}\nT['a'] = 1\ndef root(): T", "T = {}\nT['a'] = 2\ndef root(): T"),
    "added": ("N = 1\nN += 1\ndef root(): N", "N = 1\nN += 2\ndef root(): N"),
    "decorators": ("def d(f): return 1\n@d\ndef root(): return 1", "def d(f): return 2\n@d\ndef root(): return 1"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_programs_that_mean_different_things(kind):
    one, other = DIFFERENT[kind]
    assert sha_of(one) != sha_of(other)


@pytest.mark.parametrize(
    "text",
    [
        "from cran_bench.other import f\ndef root(): f()",
        "from .other import f as g\ndef root(): g()",
        "from . import other\ndef root(): other.f()",
        "import cran_bench.other\ndef root(): cran_bench.other.f()",
        "import cran_bench.other as o\ndef root(): o.f()",
        "from cran_bench import f\ndef root(): f()",
        "from cran_bench.other import *\ndef root(): f()",
        "def root():\n  from .other import f\n  f()",
        "from cran_bench import other\ndef root(name): vars(other)[name]()",
        "from cran_bench import late\ndef root(): late()",
        "import cran_bench.runs\ndef root(): return 1",
        "from cran_bench import circular\ndef root(): circular.g()",
    ],
)
def test_however_it_is_imported(text):
    def sha(value):
        package = "from .other import f\nfrom .made import root\nfrom . import circular\n"
        package += f"def __getattr__(name): return {value}\n"
        other = f"from cran_bench import f as again\ndef f(): return {value}\n"
        circular = "from .other import f\nfrom . import circular as own\ndef g(): return own.f()\n"
        runs = f"import torch\ntorch.set_num_threads({value})\n"
        return sha_of(text, other=other, circular=circular, runs=runs, __init__=package)

    assert sha(1) != sha(2)


def test_which_of_two_functions_of_one_name_is_called():
    text = "from cran_bench.{} import f\nfrom cran_bench.{} import f as g\ndef root(): f() - g()"
    modules = {"one": "def f(): return 1", "two": "def f(): return 2"}
    assert sha_of(text.format("one", "two"), **modules) != sha_of(text.format("two", "one"), **modules)


DECLARING = """
class Base:
    def state(self): return 1
    def load(self): return 1
class Part(Base):
    def fit(self): return PART
class Hidden(Base):
    def fit(self): return HIDDEN
class root(Base):
    def fit(self, run): run.part(Part()), Hidden().fit()
    def parts(self): return [self.inner()]
    def inner(self): return Part()
"""


def test_declared_parts_are_left_out_and_others_followed():
    def sha(part, hidden, text=DECLARING):
        parts = property(list) if "@property" in text else list
        root = type("root", (), {"__module__": "cran_bench.made", **({"parts": parts} if "def parts" in text else {})})
        return sha_of(text.replace("PART", part).replace("HIDDEN", hidden), ("fit", "state", "load"), root)

    assert sha("1", "1") == sha("2", "1") != sha("1", "2")
    for undeclared in (
        DECLARING.replace("def parts", "def pieces"),
        DECLARING.replace("    def parts", "    @property\n    def parts"),
    ):
        assert sha("1", "1", undeclared) != sha("2", "1", undeclared)


# parts ----------------------------------------------------------------------------------------------------------------


@dataclass
class Inner:
    width: int = 1

    def fit(self, train, val, run):
        pass

    def state(self):
        return {}

    def load(self, state):
        pass


@dataclass
class Other(Inner):
    pass


@dataclass
class Owner(Inner):
    asks: list = field(default_factory=list)

    def parts(self):
        return [Inner()]

    def fit(self, train, val, run):
        for name in self.asks:
            run.part({"inner": Inner(), "another": Inner(2), "other": Other(), "itself": Owner(width=2)}[name])


def test_a_part_that_is_not_declared_is_refused(tiny, tmp_path):
    fits = FitStore(tmp_path, {}, tiny.train, tiny.val, CPU)
    assert len(fits.fitted(Owner(asks=["inner", "another", "itself"]), 0, "owner").costs) == 4
    with pytest.raises(BadInput, match=r"^owner requests the part Other, which Owner.parts does not return: add it"):
        fits.fitted(Owner(asks=["other"]), 0, "owner")


@dataclass
class Outer(Inner):
    has: str = "inner"

    def parts(self):
        return [Owner()] if self.has == "owner" else [Inner()]

    def fit(self, train, val, run):
        run.part(Owner())


def test_neither_is_one_whose_own_parts_are_not(tiny, tmp_path):
    fits = FitStore(tmp_path, {}, tiny.train, tiny.val, CPU)
    fits.fitted(Outer(has="owner"), 0, "outer")
    with pytest.raises(BadInput, match="outer requests the part Owner"):
        fits.fitted(Outer(), 0, "outer")


CRAN_OPTIONS = "cran[fusion.joint=true]", "cran[text_init=word-positions,ridge=0.1]", "cran-plus[residual=none]"


@pytest.mark.parametrize("spec", [*SPECS, *CRAN_OPTIONS])
def test_methods_declare_what_their_keys_need(spec):
    part = METHODS.configure(spec).build()
    assert store().fingerprint(part, 0) == store().fingerprint(METHODS.configure(spec).build(), 0)
    assert code_of(part)[0] == code(type(part), *LENT, asked=ASKED).sha


# plugins --------------------------------------------------------------------------------------------------------------

PLUGIN = """
from dataclasses import dataclass
from cran_bench import COSINE
from cran_bench.toolbox.linalg import moments
from cran_bench.methods.cca import CCA

def half(x):
    return x / 2

@dataclass
class Mine:
    width: int = 1
    similarity = COSINE
    def fit(self, train, val, run): moments(train, train, train)
    def embed_images(self, split): return half(split)
    def embed_texts(self, split): pass
    def state(self): return {}
    def load(self, state): pass
"""


@pytest.fixture
def plugin(tmp_path):
    def key(folder, text=PLUGIN, name="mine.py", **beside):
        (tmp_path / folder).mkdir(exist_ok=True)
        for file, content in {name: text, **{f"{file}.py": content for file, content in beside.items()}}.items():
            path = tmp_path / folder / file.replace("__", "/", 1) if "__" in file else tmp_path / folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        known = set(sys.modules)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            part = METHODS.configure(f"{tmp_path / folder / name}:Mine").build()
            for module in {module.partition("__")[0] for module in beside} & (set(sys.modules) - known):
                del sys.modules[module]
        return store().fingerprint(part, 0)

    return key


def test_a_plugin_is_known_by_its_content(plugin):
    assert plugin("one") == plugin("two") == plugin("three", name="other.py")
    assert plugin("four", PLUGIN + "# A remark\n") == plugin("one")
    assert plugin("five", PLUGIN.replace("x / 2", "x / 3")) != plugin("one")
    assert plugin("six", PLUGIN.replace("return {}", "return {'a': 1}")) != plugin("one")


def test_a_plugin_stands_on_the_engine(plugin, monkeypatch):
    before = plugin("one")
    monkeypatch.setattr(fingerprint, "SOURCES", edited(lambda _, text: text.replace("total - 1", "total")))
    assert plugin("one") != before


@pytest.mark.parametrize(
    ("origin", "name", "used"),
    [("helper", "twice", "twice"), ("helper", "twice as double", "double"), ("package.inner", "twice", "twice")],
)
def test_a_file_beside_a_plugin_counts(plugin, origin, name, used):
    text = PLUGIN.replace("def half", f"from {origin} import {name}\n\ndef half").replace("x / 2", f"{used}(x)")
    twice = "from {}other import FACTOR\ndef twice(x):\n    return FACTOR * x\ndef unused(x):\n    return {}\n"
    dot = "." if "." in origin else ""
    place = "other" if not dot else "package__other"
    beside = {origin.replace(".", "__"): twice.format(dot, 1), place: "FACTOR = 2\n"}
    if dot:
        beside["package____init__"] = ""
    before = plugin("one", text, **beside)
    assert plugin("two", text, **beside) == before
    assert plugin("three", text, **beside | {origin.replace(".", "__"): twice.format(dot, 2)}) == before
    assert plugin("four", text, **beside | {place: "FACTOR = 3\n"}) != before
    assert plugin("five", text, **beside | {place: "FACTOR = 2\nimport torch\ntorch.set_num_threads(1)\n"}) != before


def test_a_class_without_a_source_is_refused():
    space = {"__name__": "nowhere_at_all"}
    exec("class Made: pass", space)
    with pytest.raises(BadInput, match="the source of Made cannot be read: define it in a file, not nowhere_at_all"):
        code(space["Made"])


# records --------------------------------------------------------------------------------------------------------------


@pytest.mark.no_cover
def test_a_record_depends_on_how_figures_are_made_but_its_fit_does_not(prepared_scenes, tmp_path, monkeypatch):
    prepared = find_prepared(DATASETS.configure(prepared_scenes.spec), prepared_scenes.data, prepared_scenes.cache)
    runner, cca = Runner(prepared, tmp_path, tmp_path, CPU), METHODS.configure("cca")
    monkeypatch.setattr(fingerprint, "Module", parsed)

    def found(old="", new=""):
        monkeypatch.setattr(fingerprint, "SOURCES", edited(lambda _, text: text.replace(old, new) if old else text))
        return runner.fits("captions").fingerprint(cca.build(), 0), runner.fingerprints(cca, ["captions"], 0)

    fit, rows = found()
    for old, new in [("np.mean([getattr(m", "np.max([getattr(m"), ('== "mean"', '== "means"')]:
        same_fit, other_rows = found(old, new)
        assert same_fit == fit and other_rows != rows
    for old, new in [("1e-7 * s[0]", "1e-8 * s[0]"), ("100.0 * wins", "99.0 * wins"), ("(twins >= 0)", "(twins > 0)")]:
        assert found(old, new)[0] != fit
    assert COSINE.cosine
