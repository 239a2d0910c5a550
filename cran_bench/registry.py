"""Finding methods and datasets by name: those of the suite, those of installed packages, and one file named by path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast, get_args

from cran_bench.contract import Method
from cran_bench.dataset import Dataset
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.storage import is_file
from cran_bench.protocols import Unit
from cran_bench.specs import build, by_flat_name, flat_fields, format_options, parse_spec

T = TypeVar("T")
C = TypeVar("C", bound=type)

DEFAULT_PRESET = "tuned"


@dataclass(frozen=True)
class Plugin(Generic[T]):
    """A registered class: its name, its presets (field values by preset name) and the paper's row it reproduces."""

    name: str
    cls: type[T]
    presets: Mapping[str, Mapping[str, Any]]
    paper_row: str | None = None

    def preset(self, name: str) -> Mapping[str, Any]:
        """Field values of a preset; a bare name means `tuned`, or the class's own defaults where it has no presets.

        Raises:
            BadInput: there is no such preset.
        """
        if not name:
            return self.presets.get(DEFAULT_PRESET, {})
        if name not in self.presets:
            raise BadInput(f"{self.name} has no preset '{name}'{did_you_mean(name, self.presets)}")
        return self.presets[name]


@dataclass(frozen=True)
class Configured(Generic[T]):
    """A plugin with its fields set: what one row of a table, or one dataset, is made of.

    Attributes:
        label: name, preset and what differs from it; what changes the model changes the label.
        preset: the preset's name, '' where the plugin has none.
        unit: for methods, what to train on: 'captions', 'documents', or '' for the protocol's own.
    """

    plugin: Plugin[T]
    preset: str
    label: str
    options: Mapping[str, Any]
    unit: str = ""

    def build(self) -> T:
        """A fresh, unfitted instance."""
        return build(self.plugin.cls, self.options, self.plugin.name)


@dataclass
class Registry(Generic[T]):
    """Plugins of one kind.  Modules are imported on first look-up; an import that fails is remembered and shown."""

    kind: str
    package: str
    required: tuple[str, ...]
    takes_unit: bool = False
    plugins: dict[str, Plugin[T]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _loaded: bool = False

    def register(
        self, name: str, presets: Mapping[str, Mapping[str, Any]] | None = None, paper_row: str | None = None
    ) -> Callable[[C], C]:
        """Class decorator that makes a dataclass known as `name`.

        Raises:
            BadInput: the name is taken, or the class is no dataclass.
        """

        def add(cls: C) -> C:
            if not is_dataclass(cls):
                raise BadInput(f"{self.kind} '{name}': put @dataclass under @register, fields are its options")
            taken = self.plugins.get(name)
            if taken is not None and (taken.cls.__module__, taken.cls.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise BadInput(
                    f"{self.kind} '{name}' is registered by {taken.cls.__module__} and by {cls.__module__}; rename one"
                )
            self.plugins[name] = Plugin(name, cast("type[T]", cls), presets or {}, paper_row)
            return cls

        return add

    def names(self) -> list[str]:
        """Every known name, in order."""
        self._load()
        return sorted(self.plugins)

    def get(self, name: str) -> Plugin[T]:
        """The plugin called `name`.

        Raises:
            BadInput: there is none; the message names the nearest, or why its import failed.
        """
        self._load()
        if name in self.plugins:
            return self.plugins[name]
        for module, reason in self.failures.items():
            if module.rsplit(".", 1)[-1].replace("_", "-") == name:
                raise BadInput(f"{self.kind} '{name}' could not be imported: {reason}")
        raise BadInput(f"there is no {self.kind} '{name}'{did_you_mean(name, self.plugins)}")

    def configure(self, text: str) -> Configured[T]:
        """From ``name:preset[field=value]`` or ``path/to/file.py:Name[field=value]`` to a configured plugin.

        Raises:
            BadInput: unknown name, preset or field, or a value the class refuses.
        """
        spec = parse_spec(text)
        if spec.name.endswith(".py"):
            class_name, _, preset = spec.argument.partition(":")
            plugin = self._from_file(Path(spec.name), class_name)
        else:
            plugin, preset = self.get(spec.name), spec.argument
        base, given = dict(plugin.preset(preset)), dict(spec.options)
        unit = given.pop("unit", "") if self.takes_unit else ""
        if unit and unit not in get_args(Unit):
            raise BadInput(f"{plugin.name}: unit is '{unit}'{did_you_mean(unit, get_args(Unit))}")
        base, given = (by_flat_name(plugin.cls, some, plugin.name) for some in (base, given))
        reference = build(plugin.cls, base, plugin.name)
        changed = build(plugin.cls, {**base, **given}, plugin.name)
        fields = flat_fields(plugin.cls)
        options = {k: fields[k].of(changed) for k in given if fields[k].of(changed) != fields[k].of(reference)}
        always = {k: f.of(changed) for k, f in fields.items() if f.field.metadata.get("label") == "always"}
        shown = {**always, **options, **({"unit": unit} if unit else {})}
        preset = preset or (DEFAULT_PRESET if DEFAULT_PRESET in plugin.presets else "")
        head = f"{plugin.name}:{preset}" if preset else plugin.name
        label = head + format_options(shown)
        return Configured(plugin, preset, label, {**base, **options}, unit)

    def _from_file(self, path: Path, class_name: str) -> Plugin[T]:
        if not is_file(path):
            raise BadInput(f"there is no file {path}; write the path of a Python file and the class, {path}:Name")
        self._load()  # so that a name which the suite has is refused
        module = _import_file(path)
        here = {p.cls.__name__: p for p in self.plugins.values() if p.cls.__module__ == module.__name__}
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
            raise BadInput(f"{path}:{class_name} is not a dataclass; put @dataclass above it, fields are its options")
        absent = [name for name in self.required if not hasattr(cls, name)]
        if absent:
            raise BadInput(f"{path}:{class_name} is not a {self.kind}: it lacks {', '.join(absent)}")
        return Plugin(f"{path.name}:{class_name}", cast("type[T]", cls), getattr(cls, "presets", {}))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, self.package + "."):
            self._try(module.name, lambda name=module.name: importlib.import_module(name))  # type: ignore[misc]
        for entry in entry_points(group=self.package):
            self._try(entry.name, lambda entry=entry: self._take(entry.name, entry.load()))  # type: ignore[misc]

    def _take(self, name: str, loaded: object) -> None:
        """What an entry point names: a module or class that registered itself, else a class to register."""
        known = {plugin.cls for plugin in self.plugins.values()}
        if isinstance(loaded, type) and loaded not in known:
            self.register(name, getattr(loaded, "presets", {}))(loaded)

    def _try(self, name: str, load: Callable[[], object]) -> None:
        try:
            load()
        except Exception as error:  # a stranger's plugin may fail in any way; the others go on
            self.failures[name] = f"{type(error).__name__}: {error}"


def _import_file(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"cran_bench_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BadInput:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"{path} could not be imported: {type(error).__name__}: {error}") from error
    return module


METHODS: Registry[Method] = Registry(
    "method", "cran_bench.methods", ("similarity", "fit", "embed_images", "embed_texts", "state", "load"), True
)
DATASETS: Registry[Dataset] = Registry("dataset", "cran_bench.datasets", ("load", "defaults"))

register = METHODS.register
register_dataset = DATASETS.register


def each(methods: Sequence[str]) -> list[str]:
    """The single specs of texts that may hold several, separated by commas outside brackets."""
    return [part.strip() for text in methods for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def quick_method(method: str) -> str:
    """The method with its preset `quick`, where it has one and the user names no other."""
    spec = parse_spec(method)
    has_one = spec.name in METHODS.names() and "quick" in METHODS.get(spec.name).presets
    return f"{spec.name}:quick{format_options(spec.options)}" if has_one and not spec.argument else method


def quick_dataset(dataset: str) -> str:
    """The dataset with its preset `quick`.

    Raises:
        BadInput: the user names another preset.
    """
    spec = parse_spec(dataset)
    if spec.argument and spec.argument != "quick":
        raise BadInput(f"--quick means the preset quick; leave it out, or write {spec.name} instead of {dataset}")
    return f"{spec.name}:quick{format_options(spec.options)}"
