import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.registry import DATASETS, METHODS, Registry, quick_dataset, quick_method, registry_of
from cran_bench.specs import Spec, build, flat_fields, flat_values, format_value, parse_spec

BODY = """
    similarity = COSINE
    def fit(self, train, val, run): pass
    def embed_images(self, split): pass
    def embed_texts(self, split): pass
    def state(self): return {}
    def load(self, state): pass
"""
HEAD = "from dataclasses import dataclass\nfrom cran_bench import COSINE, register\n"


pytestmark = pytest.mark.usefixtures("plugins_of_its_own")


@pytest.fixture
def write(tmp_path):
    def written(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(HEAD + text)
        return path

    return written


# grammar ----------------------------------------------------------------------------------------------------------

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_./", min_size=1, max_size=12)
values = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_./|+: ", min_size=1, max_size=12).map(str.strip).filter(bool)


@given(names, st.one_of(st.just(""), names), st.dictionaries(names, values, max_size=4))
def test_a_spec_comes_back_from_its_text(name, argument, options):
    spec = Spec(name, argument, options)
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("cca", Spec("cca")),
        (" cca : paper ", Spec("cca", "paper")),
        ("cran:paper[margin=0.2,top=5]", Spec("cran", "paper", {"margin": "0.2", "top": "5"})),
        ("pixels[ dim = 256 ]", Spec("pixels", "", {"dim": "256"})),
        ("cca[]", Spec("cca")),
        ("cca[dim=1,]", Spec("cca", "", {"dim": "1"})),
        ("onnx:a/model.onnx[tensor=pool]", Spec("onnx", "a/model.onnx", {"tensor": "pool"})),
        ("mine.py:Mine:paper", Spec("mine.py", "Mine:paper")),
        ("x[a=b=c]", Spec("x", "", {"a": "b=c"})),
    ],
)
def test_the_grammar(text, spec):
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not of the form"),
        ("cca[dim=1", "is not of the form"),
        ("cca]", "is not of the form"),
        ("cca[dim=1]x", "is not of the form"),
        ("cca[a=[1]]", "is not of the form"),
        ("cca[dim]", "'dim' is not of the form field=value"),
        ("cca[dim=]", "'dim=' is not of the form field=value"),
        ("cca[=3]", "'=3' is not of the form field=value"),
        ("cca[dim=1,dim=2]", "the field 'dim' is given twice"),
        (":paper", "has no name before ':'"),
    ],
)
def test_what_the_grammar_refuses(text, message):
    with pytest.raises(BadInput) as refusal:
        parse_spec(text)
    assert message in str(refusal.value)


@dataclass
class Fields:
    whole: int = 1
    number: float = 0.5
    name: str = "a"
    flag: bool = False
    maybe: int | None = None
    several: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if self.whole < 0:
            raise ValueError("whole is not negative")


@given(
    st.builds(
        Fields,
        st.integers(0),
        st.floats(allow_nan=False),
        values,
        st.booleans(),
        st.none() | st.integers(),
        st.lists(st.floats(allow_nan=False), min_size=1, max_size=3).map(tuple),
    )
)
def test_fields_come_back_from_their_text(fields):
    assert build(Fields, {key: format_value(value) for key, value in vars(fields).items()}, "it") == fields


@dataclass(frozen=True)
class Loss:
    margin: float = 0.2
    top: int = 3

    def __post_init__(self):
        if self.top < 1:
            raise ValueError("top is at least 1")


@dataclass(frozen=True)
class Step:
    rate: float
    loss: Loss = Loss(top=5)
    seed: int = 1


@dataclass
class Grouped:
    step: Step
    loss: Loss = field(default_factory=Loss)
    width: int = 8
    seed: int = 0


def test_fields_of_groups_have_their_own_names_where_these_are_unique():
    names = ["rate", "step.loss.margin", "step.loss.top", "step.seed", "loss.margin", "loss.top", "width", "seed"]
    assert list(flat_fields(Grouped)) == names
    made = build(Grouped, {"rate": "0.5", "width": "9"}, "it")
    assert made == Grouped(Step(0.5), width=9)
    assert flat_values(made) == dict(zip(names, (0.5, 0.2, 5, 1, 0.2, 3, 9, 0), strict=True))


def test_a_field_of_a_group_is_set_by_either_name_and_the_others_keep_the_groups_default():
    made = build(Grouped, {"step.rate": "0.5", "step.loss.margin": "1", "loss.top": 2, "seed": "4"}, "it")
    assert made == Grouped(Step(0.5, Loss(1.0, 5)), Loss(top=2), seed=4)
    assert build(Step, {"rate": 1.0, "top": "2", "loss.margin": "0"}, "it") == Step(1.0, Loss(0.0, 2))
    assert build(Grouped, {"step": Step(1.0, Loss(3.0)), "width": 1}, "it") == Grouped(Step(1.0, Loss(3.0)), width=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "it needs rate: write it[rate=...]"),
        ({"rate": "x"}, "it: field 'rate' takes a number, not 'x'"),
        ({"rate": "1", "step.rate": "1"}, "it: the field 'rate' is given twice; keep one"),
        ({"rate": "1", "step": Step(1.0)}, "it: the field 'rate' is given twice; keep one"),
        ({"rate": "1", "margin": "1"}, "it has no field 'margin'"),
        ({"rate": "1", "loss.margn": "1"}, "it has no field 'loss.margn'; did you mean 'loss.margin'?"),
        ({"rate": "1", "loss": "1"}, "it: 'loss' is a group of fields; set one, as it[loss.margin=...]"),
        ({"rate": "1", "step.loss": 1}, "it: 'step.loss' is a group of fields; set one, as it[step.loss.margin=...]"),
        ({"rate": "1", "step.loss.top": "0"}, "it: top is at least 1"),
    ],
)
def test_mistakes_in_groups(options, message):
    with pytest.raises(BadInput) as refusal:
        build(Grouped, options, "it")
    assert str(refusal.value).startswith(message)


def test_groups_of_a_strangers_method(write):
    head = HEAD.replace("dataclass\n", "dataclass, field\n", 1) + "from typing import ClassVar\n"
    loss = "@dataclass(frozen=True)\nclass Loss:\n    margin: float = 0.2\n"
    loss += "    top: int = field(default=3, metadata={'label': 'always'})\n"
    mine = "@dataclass\nclass Mine:\n    loss: Loss = Loss()\n    presets: ClassVar = {'wide': {'loss.margin': 1.0}}\n"
    path = write("", "empty.py").with_name("mine.py")
    path.write_text(head + loss + mine + BODY)
    assert METHODS.configure(f"{path}:Mine[loss.margin=0.5]").label == "mine.py:Mine[margin=0.5,top=3]"
    assert METHODS.configure(f"{path}:Mine:wide[margin=1.0]").label == "mine.py:Mine:wide[top=3]"
    configured = METHODS.configure(f"{path}:Mine:wide[loss.top=5]")
    assert (configured.label, configured.build().loss.margin) == ("mine.py:Mine:wide[top=5]", 1.0)


@pytest.mark.parametrize("registry", [METHODS, DATASETS], ids=lambda registry: registry.kind)
def test_every_field_can_be_set_by_its_own_name(registry):
    for name in registry.names():
        assert [field for field in flat_fields(registry.get(name).cls) if "." in field] == [], name


def test_numbers_are_written_short():
    assert [format_value(x) for x in (0.1, 1e-8, 4096.0, 1234567.0, 0.1 + 0.2, None, True, (1, 0.5))] == [
        *("0.1", "1e-08", "4096", "1234567.0", "0.30000000000000004", "none", "true", "1|0.5")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whole": "1.5"}, "it: field 'whole' takes a whole number, not '1.5'"),
        ({"number": "x"}, "it: field 'number' takes a number, not 'x'"),
        ({"flag": "maybe"}, "it: field 'flag' takes true or false, not 'maybe'"),
        ({"maybe": "x"}, "it: field 'maybe' takes a whole number or none, not 'x'"),
        ({"several": "1|x"}, "it: field 'several' takes a number, not 'x'"),
        ({"hwole": "1"}, "it has no field 'hwole'; did you mean 'whole'?"),
        ({"whole": "-1"}, "it: whole is not negative"),
    ],
)
def test_fields_of_the_wrong_kind_are_refused(options, message):
    with pytest.raises(BadInput) as refusal:
        build(Fields, options, "it")
    assert str(refusal.value) == message


def test_a_field_without_a_default_is_asked_for():
    @dataclass
    class Needs:
        path: str

    with pytest.raises(BadInput, match=r"it needs path: write it\[path=...\]"):
        build(Needs, {}, "it")


def test_did_you_mean():
    assert did_you_mean("CCAA", ["cfa", "cca"]) == "; did you mean 'cca'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("zzz", []) == "; none is known"


# labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cca", "cca:tuned"),
        ("cca:tuned", "cca:tuned"),
        ("cca:paper", "cca:paper"),
        ("cca:paper[power=0]", "cca:paper"),
        ("cca:paper[ridge_text=1e-8,dim=4096]", "cca:paper"),
        ("cca:paper[dim=64,ridge_text=0.00000001]", "cca:paper[dim=64]"),
        ("cca[vocabulary=3000]", "cca:tuned"),
        ("cca[ridge_text=0.10|1e-2]", "cca:tuned[ridge_text=0.1|0.01]"),
        ("cca[unit=documents]", "cca:tuned[unit=documents]"),
        ("cca:paper[unit=captions,dim=8]", "cca:paper[dim=8,unit=captions]"),
    ],
)
def test_the_label_is_the_shortest_spec(text, label):
    configured = METHODS.configure(text)
    assert configured.label == label
    assert configured.build() == METHODS.configure(label).build()
    assert configured.preset == label.partition("[")[0].partition(":")[2]


numbers = st.lists(st.floats(0, 1e3), min_size=1, max_size=3)


@settings(deadline=None)
@given(
    st.sampled_from(["cca", "cca:paper", "cca:tuned"]),
    numbers,
    st.lists(st.integers(1, 10**7), min_size=1, max_size=3),
    st.sampled_from(["tfidf", "bow", "vectors"]),
    st.sampled_from(["", ",unit=documents", ",unit=captions"]),
)
def test_a_label_builds_the_same_method(head, ridge, dim, text, unit):
    given_ridge, given_dim = "|".join(map(repr, ridge)), "|".join(map(str, dim))
    configured = METHODS.configure(f"{head}[ridge_text={given_ridge},dim={given_dim},text={text}{unit}]")
    again = METHODS.configure(configured.label)
    assert again.label == configured.label
    assert again.build() == configured.build()
    assert again.unit == configured.unit == unit.partition("=")[2]
    assert configured.build().ridge_text == tuple(ridge)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ccaa", "there is no method 'ccaa'; did you mean 'cca'?"),
        ("cca:papre", "cca has no preset 'papre'; did you mean 'paper'?"),
        ("cca:zzz", "cca has no preset 'zzz'; known: cm, paper, tuned"),
        ("cca[vocabluary=5]", "cca has no field 'vocabluary'; did you mean 'vocabulary'?"),
        ("cca[text=vector]", "cca: field 'text' is 'vector'; did you mean 'vectors'?"),
        ("cca[unit=document]", "cca: unit is 'document'; did you mean 'documents'?"),
    ],
)
def test_unknown_words_name_the_nearest(text, message):
    with pytest.raises(BadInput) as refusal:
        METHODS.configure(text)
    assert str(refusal.value) == message


def test_datasets_have_no_unit():
    with pytest.raises(BadInput, match="scenes has no field 'unit'"):
        DATASETS.configure("scenes[unit=documents]")
    with pytest.raises(BadInput, match="there is no dataset 'scense'; did you mean 'scenes'"):
        DATASETS.configure("scense")


# files ------------------------------------------------------------------------------------------------------------


def test_a_class_of_a_file(write):
    path = write("@dataclass\nclass Mine:\n    width: int = 3\n" + BODY)
    configured = METHODS.configure(f"{path}:Mine[width=4]")
    assert configured.build().width == 4
    assert (configured.label, configured.preset, configured.plugin.paper_row) == (
        f"{path.name}:Mine[width=4]",
        "",
        None,
    )
    assert "Mine" not in METHODS.plugins


def test_the_presets_of_a_class_of_a_file(write):
    head = "from typing import ClassVar\n@dataclass\nclass Mine:\n    width: int = 3\n"
    path = write(head + "    presets: ClassVar = {'wide': {'width': 9}}\n" + BODY)
    assert METHODS.configure(f"{path}:Mine:wide").build().width == 9
    assert METHODS.configure(f"{path}:Mine").build().width == 3
    with pytest.raises(BadInput, match="Mine has no preset 'wdie'; did you mean 'wide'"):
        METHODS.configure(f"{path}:Mine:wdie")


def test_quick_is_the_preset_of_that_name(write, monkeypatch):
    assert quick_dataset("scenes[train=9]") == "scenes:quick[train=9]"
    assert quick_method("cran[top=5]") == "cran:quick[top=5]"
    assert quick_method("cran:paper") == "cran:paper"
    head = "from typing import ClassVar\n@dataclass\nclass {}:\n    width: int = 3\n    presets: ClassVar = {}\n"
    path = write(head.format("Fast", "{'quick': {'width': 1}}") + BODY + head.format("Plain", "{}") + BODY)
    assert quick_method(f"{path}:Fast[width=2]") == f"{path}:Fast:quick[width=2]"
    assert quick_method(f"{path}:Plain") == f"{path}:Plain"
    monkeypatch.setattr(DATASETS, "required", ())
    assert quick_dataset(f"{path}:Fast") == quick_dataset(f"{path}:Fast:quick") == f"{path}:Fast:quick"
    with pytest.raises(BadInput, match=r"leave it out, or write .*mine.py:Fast instead of .*mine.py:Fast:wide"):
        quick_dataset(f"{path}:Fast:wide")
    with pytest.raises(BadInput, match="registers 0 datasets; say which"):
        quick_dataset(str(path))


def test_a_registered_class_of_a_file(write):
    path = write(
        "@register('mine-too', presets={'tuned': {'width': 5}})\n@dataclass\nclass Mine:\n    width: int = 3\n" + BODY
    )
    for text in (str(path), f"{path}:Mine", f"{path}:Mine:tuned"):
        configured = METHODS.configure(text)
        assert configured.label == "mine-too:tuned"
        assert configured.build().width == 5
    assert METHODS.configure("mine-too").build().width == 5


def test_a_file_with_several_methods_is_asked_for_one(write):
    parts = [f"@register('of-two-{k}')\n@dataclass\nclass Mine{k}:\n    width: int = {k}\n{BODY}" for k in (1, 2)]
    path = write("".join(parts))
    assert METHODS.configure(f"{path}:Mine2").build().width == 2
    with pytest.raises(BadInput, match="registers 2 methods; say which"):
        METHODS.configure(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine:\n" + BODY, "line 3: Mine is not a dataclass; put @dataclass above it"),
        ("Mine = 3\n", "has no class 'Mine'; none is known"),
        ("@dataclass\nclass Other:\n" + BODY, "has no class 'Mine'; known: Other"),
        ("@dataclass\nclass Mien:\n" + BODY, "has no class 'Mine'; did you mean 'Mien'"),
        (
            "import no_such_module\n",
            "not be imported: ModuleNotFoundError: No module named 'no_such_module' (@3)",
        ),
        ("def (\n", "could not be imported: SyntaxError: invalid syntax (@3)"),
        ("x = 1\n1 / 0\n", "could not be imported: ZeroDivisionError: division by zero (@4)"),
        ("def f():\n    raise OSError('two\\nlines')\nf()\n", "could not be imported: OSError: two lines (@4)"),
        ("import json\njson.loads('{')\n", "property name enclosed in double quotes: line 1 column 2 (char 1) (@4)"),
        ("raise SystemExit(3)\n", "could not be imported: SystemExit: 3 (@3)"),
        ("@register('mine')\nclass Mine:\n    pass\n", "line 4: method 'mine': put @dataclass under @register"),
        (
            "@register('cca')\n@dataclass\nclass Mine:\n" + BODY,
            "method 'cca' is registered by cran_bench.methods.cca and by {path}, line 5; rename one",
        ),
        ("@dataclass\nclass Mine:\n    width: int\n" + BODY, "mine.py:Mine needs width: write mine.py:Mine[width=...]"),
        (
            "@register('needy')\n@dataclass\nclass Mine:\n    width: int\n" + BODY,
            "mine.py:Mine needs width: write mine.py:Mine[width=...]",
        ),
        (
            "@dataclass\nclass Mine:\n    width: int = 3\n" + BODY + "    def __post_init__(self):\n        {}['a']\n",
            "mine.py:Mine cannot be made: KeyError: 'a' (@14)",
        ),
        (
            "@dataclass\nclass Mine:\n    presets = {'wide': 3}\n" + BODY,
            "line 4: the presets of Mine are {'wide': 3}; give field values by name",
        ),
    ],
)
def test_files_that_are_no_method_are_refused(write, text, message):
    path = write(text)
    for _ in range(2):  # a file that failed is not half loaded the second time
        with pytest.raises(BadInput) as refusal:
            METHODS.configure(f"{path}:Mine")
        assert message.replace("(@", f"({path}, line ").replace("{path}", str(path)) in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_an_error_in_a_file_beside_it_is_placed_there(write, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    write("\n1 / 0\n", "its_helper.py")
    path = write("import its_helper\n")
    with pytest.raises(BadInput, match=r"mine.py could not be imported: .* by zero \(.*/its_helper.py, line 4\)$"):
        METHODS.configure(f"{path}:Mine")


LACKS = "is not a method: it lacks {}; a method has similarity, fit, embed_images, embed_texts, state, load"
GIVE = "give COSINE, DOT, MultiLevel(...) or Pairwise(...)"


@pytest.mark.parametrize("decorator", ["", "@register('lacking')\n"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    width: int = 3\n", LACKS.format("similarity, fit, embed_images, embed_texts, state, load")),
        *((BODY.replace(name, "_" + name), LACKS.format(name)) for name in ("similarity", "embed_texts", "load")),
        (BODY.replace("def state(self): return {}", "state: int = 3"), LACKS.format("state")),
        (BODY.replace("COSINE", "3"), "is not a method: its similarity is 3; " + GIVE),
        (BODY.replace("similarity = COSINE", "similarity: int = 4"), "is not a method: its similarity is 4; " + GIVE),
        (
            BODY.replace("similarity = COSINE", "similarity = property(lambda self: self.width)\n    width: int = 5"),
            "is not a method: its similarity is 5; " + GIVE,
        ),
        (
            BODY.replace(
                "similarity = COSINE", "similarity = property(lambda self: self.fitted[0])\n    fitted: int = 5"
            ),
            "cannot be made: TypeError: 'int' object is not subscriptable",
        ),
    ],
)
def test_what_a_method_lacks_is_said_when_it_is_configured(write, decorator, body, message):
    path = write(f"{decorator}@dataclass\nclass Mine:\n{body}")
    for text in [f"{path}:Mine", *(["lacking"] if decorator else [])]:
        with pytest.raises(BadInput) as refusal:
            METHODS.configure(text)
        assert message in str(refusal.value)
        if "is not a method" in message:
            assert str(refusal.value).startswith(f"{path}, line {4 + bool(decorator)}: Mine is not a method: it")


@pytest.mark.parametrize("similarity", ["property(lambda self: COSINE)", "None\n    similarity: object = COSINE"])
def test_a_similarity_may_be_a_property_or_a_field(write, similarity):
    path = write("@dataclass\nclass Mine:\n" + BODY.replace("= COSINE", f"= {similarity}"))
    assert METHODS.configure(f"{path}:Mine").label == "mine.py:Mine"


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(BadInput, match=r"there is no file .*none.py; write the path of a Python file and the class"):
        METHODS.configure(f"{tmp_path}/none.py:Mine")


def test_a_file_that_registers_nothing_is_asked_for_a_class(write):
    with pytest.raises(BadInput, match="registers 0 methods; say which"):
        METHODS.configure(str(write("@dataclass\nclass Mine:\n" + BODY)))


# a method or a dataset --------------------------------------------------------------------------------------------

DATA = """
    def load(self, data): pass
    def defaults(self): pass
"""


@pytest.mark.parametrize(
    ("text", "asked", "kind"),
    [
        ("@dataclass\nclass A:\n" + BODY, "A", METHODS),
        ("@dataclass\nclass A:\n" + DATA, "A[b=1]", DATASETS),
        ("@register('a')\n@dataclass\nclass A:\n" + BODY, "", METHODS),
        ("@register_dataset('a')\n@dataclass\nclass A:\n" + DATA, "", DATASETS),
        ("@register_dataset('a')\n@dataclass\nclass A:\n" + DATA, "A", DATASETS),
        ("@dataclass\nclass A:\n    def fit(self): pass\n", "A", METHODS),
        ("@dataclass\nclass A:\n    def defaults(self): pass\n", "A", DATASETS),
        (
            "@dataclass\nclass A:\n    def defaults(self): pass\n" + BODY.replace("load", "x"),
            "A",
            "A may be a method or a dataset: write the file",
        ),
        ("@dataclass\nclass A:\n    x: int = 3\n" + DATA + BODY, "A", "A may be a method or a dataset: write"),
        ("@dataclass\nclass A:\n    def fit(self): pass\n" + DATA, "A", DATASETS),
        ("@dataclass\nclass A:\n    defaults: int = 3\n" + BODY, "A", METHODS),
        ("@dataclass\nclass A:\n    x: int = 3\n", "A", "line 5: A is neither a method, which has similarity, fit, "),
        ("@dataclass\nclass A:\n    def load(self): pass\n", "A", "nor a dataset, which has load, defaults"),
        (
            "@register('a')\n@dataclass\nclass A:\n" + BODY + "@register_dataset('b')\n@dataclass\nclass B:\n" + DATA,
            "",
            "registers methods and datasets: write the file and one class",
        ),
    ],
)
def test_which_registry_a_class_of_a_file_belongs_to(write, text, asked, kind):
    path = write("from cran_bench import register_dataset\n" + text)
    asked = f"{path}:{asked}" if asked else str(path)
    if isinstance(kind, Registry):
        assert registry_of(asked) is kind
    else:
        with pytest.raises(BadInput) as refusal:
            registry_of(asked)
        assert kind in str(refusal.value)


def test_which_registry_a_name_belongs_to(monkeypatch):
    assert registry_of("cca:paper[dim=4]") is METHODS and registry_of("scenes[train=4]") is DATASETS
    with pytest.raises(BadInput, match=r"there is no method or dataset 'scense'; did you mean 'scenes'\?"):
        registry_of("scense")
    monkeypatch.setitem(METHODS.plugins, "scenes", METHODS.get("cca"))
    with pytest.raises(BadInput, match="scenes may be a method or a dataset: write the file"):
        registry_of("scenes")


# installed plugins ------------------------------------------------------------------------------------------------

REGISTERED = f'''"""Theirs: the module."""

{HEAD}
1 / 0  # who imports it, fails

WIDE = {{"width": 9}}
PRESETS = {{"wide": {{**WIDE}}, "tuned": {{}}}}

@register("theirs", presets=PRESETS, paper_row="CCA")
@dataclass
class Theirs:
    """Theirs: the class.

    More.
    """
    width: int = 3
{BODY}'''
WORKING = REGISTERED.replace("1 / 0", "1 / 1")
PLAIN = f'''"""Theirs."""

{HEAD}
1 / 0

@dataclass
class Theirs:
    width: int = 3
    presets = {{"wide": {{"width": 9}}}}
{BODY}'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """``installed(own, others, entries)``: METHODS, of a package with these modules and other files, and entry points.

    In texts and names, % is a prefix that is the test's own.
    """

    def made(own, others=(), entries=()):
        prefix = "".join(c if c.isalnum() else "_" for c in tmp_path.name)
        files = {f"%_own/{name}": text for name, text in {"__init__.py": "", **dict(own)}.items()} | dict(others)
        lines = [f"{name} = {value}" for name, value in dict(entries).items()]
        files["%-1.dist-info/entry_points.txt"] = "\n".join(["[%_own]", *lines, ""])
        for name, text in files.items():
            path = tmp_path / name.replace("%", prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("%", prefix))
        monkeypatch.syspath_prepend(tmp_path)
        for name, value in {"package": f"{prefix}_own", "plugins": {}, "failures": {}, "_declared": None}.items():
            monkeypatch.setattr(METHODS, name, value)
        return METHODS, lambda: sorted(name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix))

    return made


def test_names_presets_and_rows_are_read_from_source(installed):
    registry, imported = installed({"theirs.py": REGISTERED, "helper.py": "1 / 0\n"})
    assert registry.names() == ["theirs"]
    read = registry.describe("theirs")
    assert (read.summary, read.presets, read.paper_row) == ("Theirs: the module.", ("wide", "tuned"), "CCA")
    assert imported() == [] and registry.failures == {}


def test_the_class_speaks_for_itself_in_a_module_of_several(installed):
    second = "\n@register('second')\n@dataclass\nclass Second:\n    width: int = 3\n"
    registry, _ = installed({"theirs.py": REGISTERED + second})
    assert {name: registry.describe(name).summary for name in registry.names()} == {
        "second": "",
        "theirs": "Theirs: the class.",
    }


def test_only_the_module_of_a_name_is_imported(installed):
    other = WORKING.replace('"theirs"', '"other"').replace("1 / 1", "1 / 0")
    registry, imported = installed({"theirs.py": WORKING, "other.py": other})
    assert registry.configure("theirs:wide").build().width == 9
    assert imported() == ["_own", "_own.theirs"] and registry.names() == ["other", "theirs"]


def test_what_is_read_is_what_is_imported(monkeypatch):
    for registry in (METHODS, DATASETS):
        read = {name: registry.describe(name) for name in registry.names()}
        monkeypatch.setattr(registry, "_declared", {})
        assert {name: registry.describe(name) for name in registry.names()} == read
        assert all(plugin.summary for plugin in read.values())


UNTOLD = {
    "a name that is computed": ('"theirs"', '"the" + "irs"'),
    "presets that are computed": ("presets=PRESETS", "presets={**PRESETS}"),
    "presets that are assigned twice": ("PRESETS = ", "PRESETS = {}\nPRESETS = "),
    "a row that is computed": ('paper_row="CCA"', 'paper_row="CCA".upper()'),
    "arguments that are unpacked": ('paper_row="CCA"', '**{"paper_row": "CCA"}'),
    "two names": ("@dataclass\n", "@register('another')\n@dataclass\n"),
    "a decorator by another name": ("@register(", "from cran_bench import register as r\n@r("),
    "a decorator of a module": ("@register(", "import cran_bench\n@cran_bench.register("),
    "a decorator that was made before": ("@register(", "the = register\n@the("),
    "a decorator from elsewhere": ("import COSINE, register", "import *"),
    "a call in a function": ("@dataclass\n", "@dataclass\nclass A: ...\ndef f():\n  register('b')(A)\n\n@dataclass\n"),
}


@pytest.mark.parametrize("kind", UNTOLD)
def test_a_module_whose_source_does_not_tell_is_imported(installed, kind):
    registry, imported = installed(
        {"theirs.py": WORKING.replace(*UNTOLD[kind]), "other.py": REGISTERED.replace('"theirs"', '"other"')}
    )
    assert {"other", "theirs"} <= set(registry.names())
    assert registry.describe("theirs").summary in ("Theirs: the module.", "Theirs: the class.")
    assert imported() == ["_own", "_own.theirs"] and not registry.failures


ENTRIES = {
    "a module": ({"%_a.py": REGISTERED}, {"x": "%_a"}, ["theirs"]),
    "a class that is registered": ({"%_a.py": REGISTERED}, {"x": "%_a:Theirs"}, ["theirs"]),
    "a class that is not": (
        {"%_a.py": PLAIN},
        {"their-own": "%_a:Theirs"},
        ["their-own"],
    ),
    "a module in a package that cannot be imported": (
        {"%_a/__init__.py": "1 / 0\n", "%_a/b.py": REGISTERED},
        {"x": "%_a.b:Theirs"},
        ["theirs"],
    ),
    "a package that imports its modules": (
        {"%_a/__init__.py": "from . import b, c\n", "%_a/b.py": "import %_a.d\n", "%_a/d.py": REGISTERED},
        {"x": "%_a"},
        ["theirs"],
    ),
    "a module that imports another of its package, where it can": (
        {
            "%_a/__init__.py": "",
            "%_a/b.py": "try:\n    from .c import Theirs\nexcept ImportError:\n    import json\n",
            "%_a/c.py": REGISTERED,
        },
        {"x": "%_a.b"},
        ["theirs"],
    ),
    "two of one package": (
        {
            "%_a/__init__.py": "",
            "%_a/b.py": REGISTERED,
            "%_a/c.py": REGISTERED.replace('"theirs"', '"another"'),
            "%_a/d.py": REGISTERED.replace('"theirs"', '"not offered"'),
        },
        {"x": "%_a.b", "y": "%_a.c:Theirs"},
        ["another", "theirs"],
    ),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_entry_points_are_read_too(installed, kind):
    others, entries, names = ENTRIES[kind]
    registry, imported = installed({}, others, entries)
    assert registry.names() == names and imported() == [] and not registry.failures


@pytest.mark.parametrize("kind", [kind for kind in ENTRIES if "cannot" not in kind])
def test_what_is_read_of_entry_points_is_what_they_register(installed, kind):
    others, entries, names = ENTRIES[kind]
    others = {name: text.replace("1 / 0", "1 / 1") for name, text in {**others, "%_a/c.py": "", **others}.items()}
    registry, _ = installed({}, others, entries)
    assert [registry.get(name).name for name in names] == names


@pytest.mark.parametrize(
    "text",
    [
        "from dataclasses import dataclass\nclass Base:\n    presets = {'wide': {'width': 9}}\n"
        "@dataclass\nclass Theirs(Base):\n    width: int = 3\n" + BODY,
        "from %_b import Theirs\n",
        "from dataclasses import make_dataclass\nTheirs = make_dataclass('Theirs', [('width', int, 3)])\n"
        "Theirs.presets = {'wide': {'width': 9}}\n",
    ],
)
def test_an_entry_point_whose_source_does_not_tell_is_imported(installed, text):
    head = "from cran_bench import COSINE\n"
    there = f"from dataclasses import dataclass\n{head}@dataclass\nclass Theirs:\n    width: int = 3\n{BODY}"
    there += "Theirs.presets = {'wide': {'width': 9}}\n"
    registry, imported = installed({}, {"%_a.py": head + text, "%_b.py": there}, {"their-own": "%_a:Theirs"})
    assert registry.names() == ["their-own"] and "_a" in imported()
    assert registry.describe("their-own").presets == ("wide",)


def test_a_module_that_fails_is_listed_and_told_when_it_is_asked_for(installed):
    registry, _ = installed({"theirs.py": REGISTERED, "helper.py": ""})
    assert registry.names() == ["theirs"] and not registry.failures
    for _ in range(2):
        with pytest.raises(BadInput) as refusal:
            registry.get("theirs")
        assert "method 'theirs' could not be imported: ZeroDivisionError: division by zero (" in str(refusal.value)
        assert str(refusal.value).endswith("theirs.py, line 6)")
    assert list(registry.failures) == ["theirs"] and registry.usable() == []
    with pytest.raises(BadInput, match="there is no method 'their'; did you mean 'theirs'"):
        registry.get("their")


def test_a_failure_is_remembered_and_the_others_go_on(installed):
    fails = "1 / 0\nfrom cran_bench import register as r\n"
    registry, _ = installed(
        {"not_python.py": "register (\n", "fails_itself.py": fails, "theirs.py": WORKING},
        {"%_a.py": "raise RuntimeError('needs a licence')\n"},
        {"their-other": "%_a", "gone": "%_gone:Class"},
    )
    assert registry.usable() == registry.names() == ["theirs"]
    said = {name.rpartition(".")[2]: reason.partition(" (/")[0] for name, reason in registry.failures.items()}
    assert said.pop("gone").startswith("ModuleNotFoundError: No module named")
    assert said == {
        "not_python": "SyntaxError: '(' was never closed",
        "fails_itself": "ZeroDivisionError: division by zero",
        "their-other": "RuntimeError: needs a licence",
    }
    with pytest.raises(BadInput, match=r"'fails-itself' could not be imported: Zero.*fails_itself.py, line 1\)"):
        registry.get("fails-itself")


def test_a_name_of_two_modules_is_refused(installed):
    registry, imported = installed({"a.py": WORKING, "b.py": WORKING}, {"%_c.py": WORKING}, {"c": "%_c"})
    assert registry.names() == ["theirs"] and imported() == []
    assert {name.rpartition(".")[2] for name in registry.failures} == {"b", "c"}
    for reason in registry.failures.values():
        assert "method 'theirs' is registered by " in reason and "_own.a and by " in reason
    assert registry.get("theirs").cls.__module__.endswith("_own.a")


def test_a_class_that_is_only_declared_is_told(installed):
    text = WORKING.replace("@register", "if width := 0:\n  @register").replace("@dataclass\n", "  @dataclass\n")
    text = text.replace("class Theirs:", "  class Theirs:\n    pass\nclass Other:")
    registry, _ = installed({"theirs.py": text})
    assert registry.names() == ["theirs"]
    with pytest.raises(BadInput, match=r"method 'theirs' could not be imported: .*_own.theirs does not register it"):
        registry.get("theirs")


def test_a_plugin_that_cannot_be_configured_is_not_usable(installed):
    registry, _ = installed({"theirs.py": WORKING, "b.py": WORKING.replace("theirs", "b").replace("def fit", "def f")})
    assert registry.usable() == ["theirs"] and registry.names() == ["b", "theirs"]
    assert "b.py, line 13: Theirs is not a method: it lacks fit" in registry.failures["b"]


def test_the_suite_is_known_before_a_file_is_read(installed, write):
    registry, _ = installed({"theirs.py": REGISTERED})
    path = write("@register('theirs')\n@dataclass\nclass Mine:\n" + BODY)
    with pytest.raises(BadInput, match=r"method 'theirs' is registered by .*_own.theirs and by .*mine.py, line 5"):
        registry.configure(f"{path}:Mine")


def test_one_name_for_two_classes_is_refused():
    registry = Registry("method", "nowhere", ())
    first, second = (dataclass(type(name, (), {})) for name in ("First", "Second"))
    registry.register("x")(first)
    registry.register("x")(first)  # the same class again, as after a reload
    with pytest.raises(BadInput, match=r"method 'x' is registered by .* and by .*; rename one"):
        registry.register("x")(second)


@pytest.mark.parametrize(("kind", "decorator"), [("method", "@register"), ("dataset", "@register_dataset")])
def test_only_dataclasses_are_registered(kind, decorator):
    with pytest.raises(BadInput, match=f"{kind} 'x': put @dataclass under {decorator}, its"):
        Registry(kind, "nowhere", ()).register("x")(type("Plain", (), {}))


def test_the_suite_has_no_failures():
    assert {"cca", "cfa"} <= set(METHODS.usable())
    assert {"scenes", "flickr8k"} <= set(DATASETS.usable())
    assert METHODS.failures == DATASETS.failures == {}
