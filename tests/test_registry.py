from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.registry import DATASETS, METHODS, Registry
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


@pytest.fixture(autouse=True)
def registry_of_its_own(monkeypatch):
    """What these tests register does not outlive them."""
    METHODS.names()
    monkeypatch.setattr(METHODS, "plugins", dict(METHODS.plugins))


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
        ("cca:zzz", "cca has no preset 'zzz'; known: paper, tuned"),
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
        ("class Mine:\n" + BODY, "Mine is not a dataclass; put @dataclass above it"),
        ("@dataclass\nclass Mine:\n    width: int = 3\n", "is not a method: it lacks similarity, fit, embed_images"),
        ("@dataclass\nclass Other:\n" + BODY, "has no class 'Mine'; known: Other"),
        ("@dataclass\nclass Mien:\n" + BODY, "has no class 'Mine'; did you mean 'Mien'"),
        ("Mine = 3\n", "has no class 'Mine'; none is known"),
        ("import no_such_module\n", "could not be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (\n", "could not be imported: SyntaxError"),
        ("1 / 0\n", "could not be imported: ZeroDivisionError"),
        ("@register('mine')\nclass Mine:\n    pass\n", "put @dataclass under @register"),
        ("@register('cca')\n@dataclass\nclass Mine:\n" + BODY, "method 'cca' is registered by cran_bench.methods.cca"),
    ],
)
def test_files_that_are_no_method_are_refused(write, text, message):
    path = write(text)
    for _ in range(2):  # a file that failed is not half loaded the second time
        with pytest.raises(BadInput) as refusal:
            METHODS.configure(f"{path}:Mine")
        assert message in str(refusal.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(BadInput, match=r"there is no file .*none.py; write the path of a Python file and the class"):
        METHODS.configure(f"{tmp_path}/none.py:Mine")


def test_a_file_that_registers_nothing_is_asked_for_a_class(write):
    with pytest.raises(BadInput, match="registers 0 methods; say which"):
        METHODS.configure(str(write("@dataclass\nclass Mine:\n" + BODY)))


# installed plugins ------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    name: str
    load: object


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package(modules, entries)``: a registry of a package with these modules, and of installed entry points."""

    def made(modules, entries=()):
        name = f"plugins_of_{tmp_path.name}".replace("-", "_")
        folder = tmp_path / name
        folder.mkdir()
        for module, text in {"__init__": "", **modules}.items():
            (folder / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("cran_bench.registry.entry_points", lambda group: entries if group == name else [])
        return Registry("method", name, ("fit",))

    return made


def test_a_failed_import_is_remembered_and_the_others_go_on(package):
    entries = []
    registry = package({"broken_one": "import no_such_module\n", "fine": ""}, entries)

    def broken():
        raise RuntimeError("needs a licence")

    def working():
        registry.register("theirs")(dataclass(type("Theirs", (), {})))

    entries += [Entry("their-other", broken), Entry("theirs", working)]
    assert registry.names() == ["theirs"]
    assert set(registry.failures.values()) == {
        "ModuleNotFoundError: No module named 'no_such_module'",
        "RuntimeError: needs a licence",
    }
    with pytest.raises(BadInput, match="method 'broken-one' could not be imported: ModuleNotFoundError"):
        registry.get("broken-one")
    with pytest.raises(BadInput, match="method 'their-other' could not be imported: RuntimeError: needs a licence"):
        registry.get("their-other")
    with pytest.raises(BadInput, match="there is no method 'their'; did you mean 'theirs'"):
        registry.get("their")


def test_modules_are_imported_on_the_first_look_up_only(package):
    calls = []
    registry = package({}, [Entry("x", lambda: calls.append(1))])
    assert not calls
    registry.names()
    registry.names()
    assert calls == [1]


def test_the_suite_is_known_before_a_file_is_read(package, write):
    calls = []
    registry = package({}, [Entry("x", lambda: calls.append(1))])
    path = write("@dataclass\nclass Mine:\n" + BODY)
    registry.configure(f"{path}:Mine")
    assert calls == [1]


def test_one_name_for_two_classes_is_refused():
    registry = Registry("method", "nowhere", ())
    first, second = (dataclass(type(name, (), {})) for name in ("First", "Second"))
    registry.register("x")(first)
    registry.register("x")(first)  # the same class again, as after a reload
    with pytest.raises(BadInput, match=r"method 'x' is registered by .* and by .*; rename one"):
        registry.register("x")(second)


def test_only_dataclasses_are_registered():
    with pytest.raises(BadInput, match="method 'x': put @dataclass under @register"):
        Registry("method", "nowhere", ()).register("x")(type("Plain", (), {}))


def test_the_suite_has_no_failures():
    assert {"cca", "cfa"} <= set(METHODS.names())
    assert {"scenes", "flickr8k"} <= set(DATASETS.names())
    assert METHODS.failures == DATASETS.failures == {}


def test_an_entry_point_may_name_a_class_that_is_not_registered(package):
    @dataclass
    class Theirs:
        width: int = 3
        presets = {"wide": {"width": 9}}  # noqa: RUF012 - a method's own presets

    registry = package({}, entries := [Entry("their-method", lambda: Theirs)])

    def registered():
        return registry.register("by-itself")(dataclass(type("ByItself", (), {})))

    entries += [Entry("another-name", registered), Entry("plain", lambda: type("Plain", (), {}))]
    assert registry.names() == ["by-itself", "their-method"]
    assert registry.get("their-method").cls is Theirs
    assert registry.configure("their-method:wide").build().width == 9
    assert registry.configure("their-method[width=4]").label == "their-method[width=4]"
    assert list(registry.failures) == ["plain"] and "put @dataclass" in registry.failures["plain"]
