"""Find methods and datasets by name, in the suite and in installed packages, or by the path of a Python file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args

from cran_bench.errors import BadInput, did_you_mean, file_of, one_sentence, place, python_error
from cran_bench.machine.declarations import (
    DECORATORS,
    Declaration,
    Unreadable,
    declarations,
    find_module,
    first_line,
    modules_of,
)
from cran_bench.machine.storage import is_file, sha256_file
from cran_bench.protocols import Metric, Unit
from cran_bench.specs import Spec, build, by_flat_name, flat_fields, format_options, parse_spec

if TYPE_CHECKING:
    from cran_bench.contract import Method
    from cran_bench.dataset import Dataset

T = TypeVar("T")
C = TypeVar("C", bound=type)

DEFAULT_PRESET = "tuned"


@dataclass(frozen=True)
class Plugin(Generic[T]):
    """A registered class with its presets (field values by preset name) and the row of the paper it reproduces.

    A spec ``name:TEXT`` sets the field called `argument`, if that is not '', in place of a preset.  `search` has the
    values that tuning may try, by field.  What makes a row a `reference` is described in `register`.
    """

    name: str
    cls: type[T]
    presets: Mapping[str, Mapping[str, Any]]
    paper_row: str | None = None
    argument: str = ""
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    reference: str = ""

    def preset(self, name: str) -> Mapping[str, Any]:
        """Field values of a preset; '' means `tuned`, or the class's own defaults if it has no presets.

        Raises:
            BadInput: there is no such preset.
        """
        if not name:
            return self.presets.get(DEFAULT_PRESET, {})
        if name not in self.presets:
            known = did_you_mean(name, self.presets) if self.presets else "; it has none"
            raise BadInput(f"{self.name} has no preset '{name}'{known}")
        return self.presets[name]


@dataclass(frozen=True)
class Configured(Generic[T]):
    """A plugin with its fields set, as for one row of a table or one dataset.

    Attributes:
        label: name, preset and fields that differ from it; every change of the model changes the label.
        preset: the preset's name, '' if the plugin has none.
        unit: for methods, the texts to train on: 'captions', 'documents', or '' for those of the protocol.
        metric: for methods, the figure to choose by on validation: 'rsum', 'map', or '' for that of the dataset.
        tune: for methods, the number of trials of which validation chooses one; 0 for none, the fields as they are.
        space: the values that trials may take, by field; fields that the spec gives are fixed.
    """

    plugin: Plugin[T]
    preset: str
    label: str
    options: Mapping[str, Any]
    unit: str = ""
    metric: str = ""
    tune: int = 0
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def build(self) -> T:
        """Make a new, unfitted instance."""
        return build(self.plugin.cls, self.options, self.plugin.name)


@dataclass
class Registry(Generic[T]):
    """Plugins of one kind.  Their names are read from source; `get` imports only the module that it needs.

    Attributes:
        failures: why a plugin cannot be used, by name, or by module or entry point if the names are unknown.
    """

    kind: str
    package: str
    required: tuple[str, ...]
    takes_unit: bool = False
    plugins: dict[str, Plugin[T]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _declared: dict[str, tuple[Declaration, Callable[[], object]]] | None = None

    def register(
        self,
        name: str,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        paper_row: str | None = None,
        argument: str = "",
        search: Mapping[str, Sequence[Any]] | None = None,
        reference: str = "",
    ) -> Callable[[C], C]:
        """Class decorator that registers a dataclass as `name`.

        Raises:
            BadInput: the name is taken, or the class is not a dataclass.
        """

        def add(cls: C) -> C:
            if not is_dataclass(cls):
                what = f"{place(cls)}: {self.kind} '{name}'"
                raise BadInput(f"{what}: put @dataclass under @{DECORATORS[self.kind]}, its fields are the options")
            self._require_free(name, cls.__module__, cls.__qualname__, cls)
            about = presets or {}, paper_row, argument, search or {}, reference
            self.plugins[name] = Plugin(name, cast("type[T]", cls), *about)
            return cls

        return add

    def names(self) -> list[str]:
        """Every name that needs no argument, sorted; modules are imported only if their source does not show it."""
        return sorted({*self._read(), *self.plugins} - set(self.with_argument()))

    def with_argument(self) -> list[str]:
        """Names of plugins that need an argument, such as ``scores`` in ``scores:FILE``, sorted."""
        names = {name for name, (declaration, _) in self._read().items() if declaration.argument}
        return sorted(names | {name for name, plugin in self.plugins.items() if plugin.argument})

    def references(self) -> list[str]:
        """Names of those that are no methods but references for others, sorted."""
        return [name for name in self.names() if self.describe(name).reference]

    def describe(self, name: str) -> Declaration:
        """Describe a known plugin, from its source if possible."""
        if name in self._read():
            return self._read()[name][0]
        plugin = self.plugins[name]
        cls, module = plugin.cls, plugin.cls.__module__
        is_alone = sum(other.cls.__module__ == module for other in self.plugins.values()) == 1
        summary = first_line((is_alone and sys.modules[module].__doc__) or cls.__doc__)
        about = tuple(plugin.presets), plugin.paper_row, plugin.argument, plugin.reference
        return Declaration(name, module, cls.__qualname__, summary, *about)

    def usable(self) -> list[str]:
        """Names that can be imported and configured; `failures` says why the others cannot."""
        for name in self.names():
            try:
                self.configure(name)
            except BadInput as error:
                self.failures.setdefault(name, str(error))
        return [name for name in self.names() if name not in self.failures]

    def get(self, name: str) -> Plugin[T]:
        """Import and return the plugin called `name`.

        Raises:
            BadInput: there is none; the message suggests the most similar name, or says why its import failed.
        """
        if name in self._read() and name not in {*self.plugins, *self.failures}:
            declaration, load = self._read()[name]
            if self._try(name, load, declaration.module) and name not in self.plugins:
                self.failures[name] = f"{declaration.module} does not register it"
        if name in self.plugins:
            return self.plugins[name]
        if reason := self.failure(name):
            raise BadInput(f"{self.kind} '{name}' could not be imported: {reason}")
        known = [*self.names(), *self.with_argument()]
        raise BadInput(f"there is no {self.kind} '{name}'{did_you_mean(name, known)}")

    def failure(self, name: str) -> str | None:
        """Why the plugin or module of that name cannot be used, or None."""
        tails = {where.rsplit(".", 1)[-1].replace("_", "-"): reason for where, reason in self.failures.items()}
        return self.failures.get(name) or tails.get(name)

    def configure(self, text: str) -> Configured[T]:
        """Configure a plugin from ``name:preset[field=value]``, ``scores:FILE`` or ``path/to/file.py:Name[field=x]``.

        Raises:
            BadInput: unknown name, preset or field, a value that the class refuses, or a class with a missing member.
        """
        spec = parse_spec(text)
        if spec.name.endswith(".py"):
            class_name, _, preset = spec.argument.partition(":")
            plugin = self._from_file(Path(spec.name), class_name)
            what = f"{Path(spec.name).name}:{plugin.cls.__name__}"
        else:
            plugin, preset = self.get(spec.name), spec.argument
            what = plugin.name
        argument = ""
        if plugin.argument:
            argument, preset = preset, ""
            if not argument or plugin.argument in spec.options:
                raise BadInput(f"{what} needs one {plugin.argument}: write {what}:{plugin.argument.upper()}")
        if ":" in preset:
            raise BadInput(
                f"'{text}' has too many colons: write one preset, as {plugin.name}:{preset.partition(':')[0]}"
            )
        self._require_members(plugin)
        return self._configured(plugin, preset, argument, spec.options, what)

    def varied(self, method: Configured[T], options: Mapping[str, Any]) -> Configured[T]:
        """A configured plugin with other values of some fields, and without `tune`.

        Raises:
            BadInput: as `configure`, or a value that a spec cannot express.
        """
        plugin = method.plugin
        given = parse_spec(method.label).options, parse_spec(plugin.name + format_options(options)).options
        texts = {key: text for some in given for key, text in some.items() if key != "tune"}
        argument = method.options.get(plugin.argument, "")
        return self._configured(plugin, method.preset, argument, texts, plugin.name)

    def _configured(
        self, plugin: Plugin[T], preset: str, argument: str, options: Mapping[str, str], what: str
    ) -> Configured[T]:
        given = dict(options)
        base = {**plugin.preset(preset), **({plugin.argument: argument} if argument else {})}
        unit = given.pop("unit", "") if self.takes_unit else ""
        if unit and unit not in get_args(Unit):
            raise BadInput(f"{plugin.name}: unit is '{unit}'{did_you_mean(unit, get_args(Unit))}")
        metric = given.pop("metric", "") if self.takes_unit else ""
        if metric and metric not in get_args(Metric):
            raise BadInput(f"{plugin.name}: metric is '{metric}'{did_you_mean(metric, get_args(Metric))}")
        tune = number_of_trials(given.pop("tune")) if self.takes_unit and "tune" in given else 0
        if tune and plugin.argument:
            raise BadInput(f"{what} has nothing to tune: leave tune={tune} out")
        base, given = (by_flat_name(plugin.cls, some, what) for some in (base, given))
        space = search_space(plugin) if tune else {}
        with one_sentence(f"{what} cannot be made", file_of(plugin.cls)):
            reference = build(plugin.cls, base, what)
            changed = build(plugin.cls, {**base, **given}, what)
            similarity = getattr(changed, "similarity", None)
        if "similarity" in self.required:
            from cran_bench.similarity import Similarity

            if not isinstance(similarity, Similarity):
                what = f"{place(plugin.cls)}: {plugin.cls.__name__} is not a {self.kind}"
                raise BadInput(
                    f"{what}: its similarity is {similarity!r}; give COSINE, DOT, MultiLevel(...) or Pairwise(...)"
                )
        fields = flat_fields(plugin.cls)
        differs = {k for k in given if fields[k].of(changed) != fields[k].of(reference)}
        changes = {k: fields[k].of(changed) for k in given if k in differs or k in space}
        always = {k: f.of(changed) for k, f in fields.items() if f.field.metadata.get("label") == "always"}
        universal = {"unit": unit, "metric": metric, "tune": tune}
        shown = {**always, **changes, **{name: value for name, value in universal.items() if value}}
        preset = preset or (DEFAULT_PRESET if DEFAULT_PRESET in plugin.presets else "")
        named = Spec(plugin.name, argument or preset, shown)
        label = str(named.without_folders() if argument else named)
        free = {name: values for name, values in space.items() if name not in given}
        return Configured(plugin, preset, label, {**base, **changes}, unit, metric, tune, free)

    def lacking(self, cls: type) -> list[str]:
        """Required members that a class lacks: methods, and a `similarity`, which may be an attribute or a field."""
        fields_of = getattr(cls, "__dataclass_fields__", {})
        exists = {name: callable(getattr(cls, name, None)) for name in self.required}
        exists["similarity"] = hasattr(cls, "similarity") or "similarity" in fields_of
        return [name for name in self.required if not exists[name]]

    def in_file(self, path: Path) -> tuple[ModuleType, dict[str, Plugin[T]]]:
        """Import a file; return its module, and the plugins it registers by class name.

        Raises:
            BadInput: there is no such file, or it cannot be imported.
        """
        if not is_file(path):
            raise BadInput(f"there is no file {path}; write the path of a Python file and the class, {path}:Name")
        self._read()  # so that a name that is already taken is refused
        module = _import_file(path)
        return module, {p.cls.__name__: p for p in self.plugins.values() if p.cls.__module__ == module.__name__}

    def of_file(self, spec: Spec) -> tuple[str, str, tuple[str, ...]]:
        """Return ``file.py:Class``, the preset and the presets of a class for the spec of a file.

        Raises:
            BadInput: as `configure`.
        """
        class_name, _, preset = spec.argument.partition(":")
        plugin = self._from_file(Path(spec.name), class_name)
        self._require_members(plugin)
        return f"{spec.name}:{plugin.cls.__name__}", preset, tuple(plugin.presets)

    def _from_file(self, path: Path, class_name: str) -> Plugin[T]:
        module, here = self.in_file(path)
        if not class_name:
            if len(here) != 1:
                raise BadInput(f"{path} registers {len(here)} {self.kind}s; say which: {path}:Name")
            return next(iter(here.values()))
        if class_name in here:
            return here[class_name]
        cls = getattr(module, class_name, None)
        if not isinstance(cls, type):
            classes = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
            raise BadInput(f"{path} has no class '{class_name}'{did_you_mean(class_name, classes)}")
        if not is_dataclass(cls):
            what = f"{place(cls)}: {class_name} is not a dataclass"
            raise BadInput(f"{what}; put @dataclass above it, its fields are the options")
        presets, search = getattr(cls, "presets", {}), getattr(cls, "search", {})
        return Plugin(f"{path.name}:{class_name}", cast("type[T]", cls), presets, search=search)

    def _require_members(self, plugin: Plugin[T]) -> None:
        cls, presets = plugin.cls, plugin.presets
        if absent := self.lacking(cls):
            what = f"it lacks {', '.join(absent)}; a {self.kind} has {', '.join(self.required)}"
            raise BadInput(f"{place(cls)}: {cls.__name__} is not a {self.kind}: {what}")
        if not all(isinstance(v, Mapping) for v in (presets.values() if isinstance(presets, Mapping) else [presets])):
            raise BadInput(f"{place(cls)}: the presets of {cls.__name__} are {presets!r}; give field values by name")

    def _require_free(self, name: str, module: str, class_name: str, cls: type | None = None) -> None:
        plugin, read = self.plugins.get(name), (self._declared or {}).get(name)
        owner = read and (read[0].module, read[0].class_name)
        owner = (plugin.cls.__module__, plugin.cls.__qualname__) if plugin else owner
        if owner not in (None, (module, class_name)):
            here = place(cls) if cls else module
            raise BadInput(f"{self.kind} '{name}' is registered by {owner[0]} and by {here}; rename one")

    def _read(self) -> dict[str, tuple[Declaration, Callable[[], object]]]:
        """The declarations of the package and of entry points by name, each with the function that imports it."""
        if self._declared is None:
            self._declared = {}
            for module in modules_of(self.package):
                self._declare(module, module, self.package, partial(importlib.import_module, module))
            for entry in entry_points(group=self.package):
                top = entry.module.partition(".")[0]
                self._declare(entry.name, entry.module, top, partial(self._take, entry), entry.name, entry.attr)
        return self._declared

    def _declare(self, where: str, module: str, within: str, load: Callable[[], object], *entry: str) -> None:
        try:
            for declaration in declarations(module, self.kind, within, *entry):
                self._require_free(declaration.name, declaration.module, declaration.class_name)
                self._read().setdefault(declaration.name, (declaration, load))
        except Unreadable:
            self._try(where, load, module)
        except (BadInput, SyntaxError, ValueError, OSError) as error:
            self.failures[where] = str(error) if isinstance(error, BadInput) else python_error(error, None)

    def _take(self, entry: EntryPoint) -> None:
        """Import an entry point; register its class unless importing it has done so."""
        loaded, known = entry.load(), {plugin.cls for plugin in self.plugins.values()}
        if isinstance(loaded, type) and loaded not in known:
            presets, search = getattr(loaded, "presets", {}), getattr(loaded, "search", {})
            self.register(entry.name, presets, search=search)(loaded)

    def _try(self, where: str, load: Callable[[], object], module: str) -> bool:
        spec = find_module(module)
        try:
            load()
        except BadInput as error:
            self.failures[where] = str(error)
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; the others stay usable
            self.failures[where] = python_error(error, spec.origin if spec else None)
        return where not in self.failures


_IMPORTED: dict[str, str] = {}  # the sha256 of the source of each imported file, by the module's name


def _import_file(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name, source = f"cran_bench_file_{path.stem}_{digest}", sha256_file(path)
    if name in sys.modules:
        if source != _IMPORTED.get(name, source):
            raise BadInput(f"{path} was changed after it was imported: start Python again, which has its old code")
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with one_sentence(f"{path} could not be imported", str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _IMPORTED[name] = source
    return module


METHODS: Registry[Method] = Registry(
    "method", "cran_bench.methods", ("similarity", "fit", "embed_images", "embed_texts", "state", "load"), True
)
DATASETS: Registry[Dataset] = Registry("dataset", "cran_bench.datasets", ("load", "defaults"))


def register(
    name: str,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    paper_row: str | None = None,
    argument: str = "",
    search: Mapping[str, Sequence[Any]] | None = None,
    reference: str = "",
) -> Callable[[C], C]:
    """Class decorator that registers a dataclass as a method.

    Args:
        name: the method's name on the command line and in tables.
        presets: values of its fields by the name of a preset; `tuned` is used where none is named, `quick` by --quick.
        paper_row: the row of the CRAN paper's tables that it reproduces.
        argument: the field that the text after the colon sets, as the file in ``scores:FILE``, for a method that cannot
            do without a file; it has no presets, and its label names files without their folders.
        search: values of fields that ``run --tune`` may try, as in ``{"lr": (1e-3, 2e-3), "dropout": (0.0, 0.2)}``.
        reference: for what learns nothing and is no method, but what others are read beside: a clause on what it scores
            and what that cannot say.  Its rows are recorded with it, marked in tables, and not ranked.

    Raises:
        BadInput: the name is taken, or the class is not a dataclass.
    """
    return METHODS.register(name, presets, paper_row, argument, search, reference)


def register_dataset(name: str, presets: Mapping[str, Mapping[str, Any]] | None = None) -> Callable[[C], C]:
    """Class decorator that registers a dataclass as a dataset.

    Args:
        name: the dataset's name on the command line and in tables.
        presets: values of its fields by the name of a preset; `tuned` is used where none is named, `quick` by --quick.

    Raises:
        BadInput: the name is taken, or the class is not a dataclass.
    """
    return DATASETS.register(name, presets)


def each(methods: Sequence[str]) -> list[str]:
    """Split texts into single specs, at commas outside brackets."""
    return [part.strip() for text in methods for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


MOST_TRIALS = 10_000


def number_of_trials(text: object) -> int:
    """The number of trials of a tuned row.

    Raises:
        BadInput: it is no whole number from 1 to `MOST_TRIALS`.
    """
    if not (str(text).isdecimal() and 1 <= int(str(text)) <= MOST_TRIALS):
        raise BadInput(f"tune is the number of trials of a row, a whole number from 1 to {MOST_TRIALS:,}, not '{text}'")
    return int(str(text))


def search_space(plugin: Plugin[Any]) -> dict[str, Sequence[Any]]:
    """The values that tuning may try, by the names of `flat_fields`.

    Raises:
        BadInput: a field is unknown, or its values are no list.
    """
    what, search = f"{place(plugin.cls)}: the search space of {plugin.cls.__name__}", plugin.search
    if not isinstance(search, Mapping) or any(not isinstance(v, list | tuple) or not v for v in search.values()):
        raise BadInput(f"{what} is {search!r}; give a list of values for each field")
    return by_flat_name(plugin.cls, search, what)


def tuned_method(method: str, trials: int) -> str:
    """The spec of a method with a number of trials, unless it has one, or fits nothing: ``scores:FILE``, references."""
    spec = parse_spec(method)
    if spec.name in (*METHODS.with_argument(), *METHODS.references()):
        return method
    return str(replace(spec, options={"tune": str(trials), **spec.options}))


def quick_method(method: str) -> str:
    """The spec with the preset `quick`, if the method has one and the spec names no preset."""
    spec = parse_spec(method)
    name, preset = spec.name, spec.argument
    presets: tuple[str, ...] = ()
    if name.endswith(".py"):
        name, preset, presets = METHODS.of_file(spec)
    elif name in METHODS.names():
        presets = METHODS.describe(name).presets
    return method if preset or "quick" not in presets else f"{name}:quick{format_options(spec.options)}"


def quick_dataset(dataset: str) -> str:
    """The spec with the preset `quick`.

    Raises:
        BadInput: the spec names another preset.
    """
    spec = parse_spec(dataset)
    name, preset = spec.name, spec.argument
    if name.endswith(".py"):
        name, preset, _ = DATASETS.of_file(spec)
    if preset not in ("", "quick"):
        raise BadInput(f"--quick means the preset quick; leave it out, or write {name} instead of {dataset}")
    return f"{name}:quick{format_options(spec.options)}"


def registry_of(text: str) -> Registry[Any]:
    """Return the registry to which a spec belongs, `METHODS` or `DATASETS`.

    Raises:
        BadInput: the spec names neither a method nor a dataset, or could name either.
    """
    spec, both = parse_spec(text), (METHODS, DATASETS)
    path, class_name = Path(spec.name), spec.argument.partition(":")[0]
    known: list[Registry[Any]]
    if spec.name.endswith(".py"):
        cls = getattr(METHODS.in_file(path)[0], class_name, None)
        known = [r for r in both if class_name in (here := r.in_file(path)[1]) or (here and not class_name)]
        if isinstance(cls, type) and not known:
            some = [r for r in both if {*r.required} - {*r.lacking(cls), "load"}]
            known = [r for r in some if not r.lacking(cls)] or some
            if not known:
                kinds = " nor ".join(f"a {r.kind}, which has {', '.join(r.required)}" for r in both)
                raise BadInput(f"{place(cls)}: {class_name} is neither {kinds}")
    else:
        known = [r for r in both if spec.name in (*r.names(), *r.with_argument()) or r.failure(spec.name)]
        if not known:
            names = sorted(name for r in both for name in (*r.names(), *r.with_argument()))
            raise BadInput(f"there is no method or dataset '{spec.name}'{did_you_mean(spec.name, names)}")
    if len(known) > 1:
        kinds = "registers methods and datasets" if text.endswith(".py") else "may be a method or a dataset"
        raise BadInput(f"{text} {kinds}: write the file and one class, path/to/file.py:Name")
    return known[0] if known else METHODS
