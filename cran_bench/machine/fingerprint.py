"""Fingerprints of code by meaning: a sha256 of the definitions that can change a result, and of nothing else.

`code` starts from classes and functions and follows every name to its definition, in this project or in a plugin's
modules, however it is imported.  Each definition is hashed in a normal form: its syntax tree without layout, comments,
docstrings, annotations and the texts of errors, warnings and progress; names used only in those are not followed.  A
method counts if its name is mentioned anywhere in the code (rapid type analysis).  The place of a module and the order
of its definitions do not matter.  Other packages are not followed: their versions are recorded instead.

Where a name could mean several things, all of them count: a key may change needlessly, but must not fail to change.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from cran_bench.errors import BadInput
from cran_bench.machine.storage import sha256_bytes

PROJECT = "cran_bench"
PLUGINS = f"{PROJECT}.methods."
WHOLE = "*"  # in place of a name: all definitions of a module; among attributes: all methods
PART = {"fit", "state", "load"}  # the methods of every part, see `cran_bench.contract`
MESSAGES = f"{PROJECT}:say", "warnings.warn", "builtins.print"  # calls that are left out where they are statements
LABELS = {"progress": "label", "checkpoint": "at"}  # methods of `run`, and their argument that is only shown
REGISTER = f"{PROJECT}:register", f"{PROJECT}:register_dataset"
PASSIVE = "builtins", "typing", "abc", "enum"  # packages whose base classes call no methods of subclasses
IGNORED = "ctx", "kind", "type_comment", "type_params", "returns", "annotation"  # fields of syntax trees

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Root: TypeAlias = Callable[..., Any]  # a class, a function, or a method of a class
Origin: TypeAlias = tuple[str, str]  # an import: a module and a name in it, or '*' for the module or for all names


class Symbol(NamedTuple):
    """Where a definition is.

    Attributes:
        module: dotted name.
        home: the folder that contains a plugin's module or top-level package; '' for this project.
        name: `function`, `Class`, `Class.method`, `CONSTANT`, '*' for the whole module, or '' for what runs on import.
    """

    module: str
    home: str
    name: str

    def named(self, name: str) -> Symbol:
        """Another name in this module."""
        return Symbol(self.module, self.home, name)


class Definition(NamedTuple):
    """The normal form of a definition, the definitions it refers to, in order, and the attributes it mentions."""

    form: str
    refers: tuple[Symbol, ...]
    names: frozenset[str]


class Code(NamedTuple):
    """The sha256 of definitions and of all they use, the attributes mentioned in them, and where they are."""

    sha: str
    names: frozenset[str]
    symbols: frozenset[Symbol]


def code(*roots: Root, asked: Iterable[str] = ()) -> Code:
    """Return the code of classes and functions with all that it uses; a process reads each source file once.

    Args:
        roots: the classes and functions.
        asked: names of the methods that are called from outside this code.

    Raises:
        BadInput: the source of a root cannot be read.
    """
    return SOURCES.code(roots, frozenset(asked))


def read(module: str, home: str) -> tuple[str, bool] | None:
    """Return the source of a module (see `Symbol`) and whether it is a package; None if there is no Python source."""
    if home:
        stem = Path(home, *module.split("."))
        path = next((p for p in (stem / "__init__.py", stem.with_suffix(".py")) if p.is_file()), Path())
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        path = Path(spec.origin) if spec is not None and spec.origin else Path()
    if path.suffix != ".py":
        return None
    with tokenize.open(path) as file:
        return file.read(), path.name == "__init__.py"


class Module:
    """A parsed module.

    Attributes:
        names: the meanings of each global name: statements and imports, also those within functions.
        runs: the statements that run on import and do more than define names.
        needs: the modules, and names in modules, that are imported with this one.
    """

    def __init__(self, name: str, source: str, is_package: bool) -> None:
        self.is_package, self._path = is_package, name.split(".")
        self.names: dict[str, list[ast.stmt | Origin]] = {}
        self.runs: list[ast.stmt] = []
        self.needs: list[str] = []
        tree = ast.parse(source)
        for bound, origin, _ in self._imports(tree):
            if origin not in self.names.setdefault(bound, []):
                self.names[bound].append(origin)
        for statement in tree.body:
            match statement:
                case ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
                    continue
                case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Compare(left=ast.Name(id="__name__")), orelse=[]):
                    continue  # for type checkers, or only in a script
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    defined = {statement.name}
                case _:
                    nodes = list(ast.walk(statement))
                    defined = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
                    defined |= {n.name for n in nodes if isinstance(n, Function | ast.ClassDef)}
                    only_names = (ast.Assign, ast.AnnAssign) if defined else (ast.Import, ast.ImportFrom)
                    self.runs += [] if isinstance(statement, only_names) else [statement]
                    self.needs += (need for _, _, need in self._imports(statement))
            for each in defined:
                self.names.setdefault(each, []).append(statement)

    def _imports(self, tree: ast.AST) -> Iterator[tuple[str, Origin, str]]:
        """The names that import statements bind, where each comes from, and the module or name that is imported."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    yield alias.asname or top, (alias.name if alias.asname else top, WHOLE), alias.name
            elif isinstance(node, ast.ImportFrom):
                above = self._path[: len(self._path) - node.level + self.is_package] if node.level else []
                module = ".".join([*above, *filter(None, [node.module])])
                for alias in node.names:
                    yield alias.asname or alias.name, (module, alias.name), f"{module}.{alias.name}"


class Sources:
    """All modules of the project and of plugins, each read by a function like `read` and parsed once."""

    def __init__(self, read: Callable[[str, str], tuple[str, bool] | None] = read) -> None:
        self._read = read
        self.module = functools.cache(self._module)
        self.members = functools.cache(self._members)
        self.code = functools.cache(self._code)
        self.definition = functools.cache(self._definition)
        self.bases = functools.cache(self._bases)
        self.is_open = functools.cache(self._is_open)
        self.is_part = functools.cache(self._is_part)

    def _module(self, name: str, home: str) -> Module | None:
        package = name.rpartition(".")[0]
        if package and (above := self.module(package, home)) and not above.is_package:
            return None
        source = self._read(name, home)
        return source and Module(name, *source)

    def _meanings(self, symbol: Symbol) -> list[ast.stmt | Origin]:
        module = self.module(symbol.module, symbol.home)
        return module.names.get(symbol.name, []) if module else []

    def lookup(self, here: Symbol, name: str, passed: tuple[Symbol, ...] = ()) -> Symbol | str | None:
        """The meaning of a module's global name: a definition, a module, or a dotted name of another package."""
        symbol = here.named(name)
        match self._meanings(symbol):
            case [(origin, inner)]:
                return None if symbol in passed else self.imported(here, origin, inner, (*passed, symbol))
            case []:
                return None
        return symbol

    def imported(self, here: Symbol, origin: str, name: str, passed: tuple[Symbol, ...] = ()) -> Symbol | str:
        """The meaning of `from origin import name` in a module, or of `import origin` if the name is '*'."""
        whole = self._own(here, origin)
        if whole is None or name == WHOLE:
            return whole or (origin if name == WHOLE else f"{origin}.{name}")
        inner = whole._replace(module=f"{origin}.{name}")
        is_module = self.module(inner.module, inner.home) is not None
        return self.lookup(whole, name, passed) or (inner if is_module else whole.named(name))

    def _own(self, here: Symbol, origin: str) -> Symbol | None:
        """A module, if it belongs to the project or to the package of `here`, or lies beside that, not installed."""
        package = origin.partition(".")[0]
        if package == PROJECT:
            return Symbol(origin, "", WHOLE)
        is_near = package == here.module.partition(".")[0] or (
            here.home and not here.home.endswith("-packages") and self.module(package, here.home)
        )
        return Symbol(origin, here.home, WHOLE) if is_near else None

    def class_of(self, symbol: Symbol) -> ast.ClassDef | None:
        """The class defined there; None if it is no class or is defined in several ways."""
        meanings = self._meanings(symbol)
        return meanings[0] if len(meanings) == 1 and isinstance(meanings[0], ast.ClassDef) else None

    def _members(self, symbol: Symbol) -> dict[str, list[Function]]:
        """The methods of a class by name; a property with a setter has two."""
        cls = self.class_of(symbol)
        methods = [statement for statement in cls.body if isinstance(statement, Function)] if cls else []
        return {method.name: [m for m in methods if m.name == method.name] for method in methods}

    def _bases(self, symbol: Symbol) -> list[Symbol | str | None]:
        cls, reader = self.class_of(symbol), Reader(self, symbol)
        return [reader.target(base)[0] for base in cls.bases] if cls else []

    def _family(self, symbol: Symbol) -> set[Symbol]:
        """A class and its base classes, except those of other packages."""
        return {symbol}.union(*(self._family(base) for base in self.bases(symbol) if isinstance(base, Symbol)))

    def _is_open(self, symbol: Symbol) -> bool:
        """Whether any method may be called from elsewhere: by another package, or by the engine for a plugin."""

        def calls(base: Symbol | str | None) -> bool:
            if isinstance(base, Symbol):
                of_engine = symbol.module.startswith(PLUGINS) and not base.module.startswith(PLUGINS)
                return of_engine or self.class_of(base) is None or self.is_open(base)
            return base is None or base.partition(".")[0] not in PASSIVE

        return bool(symbol.home) or any(map(calls, self.bases(symbol)))

    def _is_part(self, symbol: Symbol) -> bool:
        return {name for cls in self._family(symbol) for name in self.members(cls)} >= PART

    def _code(self, roots: tuple[Root, ...], asked: frozenset[str]) -> Code:
        begin = [self._symbol(root) for root in roots]
        left_out = set[Symbol]().union(*map(self._declared_parts, roots, begin))
        definitions, names = self._closure(begin, asked, left_out.__contains__)
        alone = {
            symbol: sha256_bytes(f"{symbol.name}\n{definition.form}".encode())
            for symbol, definition in definitions.items()
            if symbol.name or definition.form != "[]"
        }
        # Two modules may define the same name: which of the two is meant is part of the meaning.
        texts = (sha + "".join(alone.get(r, "") for r in definitions[symbol].refers) for symbol, sha in alone.items())
        shas = sorted(sha256_bytes(text.encode()) for text in texts)
        return Code(sha256_bytes("\n".join(shas).encode()), names, frozenset(alone))

    def _symbol(self, root: Root) -> Symbol:
        module, home = root.__module__, ""
        file = getattr(sys.modules.get(module), "__file__", None)
        if file and module.partition(".")[0] != PROJECT:
            is_package = Path(file).name == "__init__.py"
            home = str(Path(file).parents[module.count(".") + is_package])
            module = module if is_package or "." in module else Path(file).stem  # a file may have any module name
        if self.module(module, home) is None:
            raise BadInput(f"the source of {root.__qualname__} cannot be read: define it in a file, not {module}")
        name, *inner = root.__qualname__.partition(".<locals>")[0].split(".")
        symbol = Symbol(module, home, name)
        return symbol.named(f"{name}.{inner[0]}") if inner and inner[0] in self.members(symbol) else symbol

    def _declared_parts(self, root: Root, symbol: Symbol) -> set[Symbol]:
        """The classes of the parts that a class declares: those its method `parts` names."""
        if not callable(getattr(root, "parts", None)):
            return set()
        family = self._family(symbol)

        def is_other_part(other: Symbol) -> bool:
            return other not in family and self.is_part(other)

        definitions, _ = self._closure([symbol], {"parts"}, is_other_part, by_name_only=True)
        return {other for definition in definitions.values() for other in definition.refers if is_other_part(other)}

    def _closure(
        self, begin: list[Symbol], asked: Set[str], is_left_out: Callable[[Symbol], bool], by_name_only: bool = False
    ) -> tuple[dict[Symbol, Definition], frozenset[str]]:
        """All definitions that some definitions use, and the attributes mentioned in them."""
        definitions: dict[Symbol, Definition] = {}
        names: set[str] = set(asked)
        idle: dict[str, list[Symbol]] = {}  # methods not mentioned so far, by name
        waiting = [*begin]
        while waiting:
            symbol = waiting.pop()
            if symbol in definitions or is_left_out(symbol):
                continue
            definition = definitions[symbol] = self.definition(symbol)
            waiting += (*definition.refers, symbol.named(""))
            takes_all = WHOLE in names or (not by_name_only and self.is_open(symbol))
            for name in self.members(symbol):
                is_called = takes_all or name in names or name.startswith("__")
                methods = waiting if is_called else idle.setdefault(name, [])
                methods.append(symbol.named(f"{symbol.name}.{name}"))
            new = definition.names - names
            names |= new
            waiting += (symbol for name in (idle if WHOLE in new else new) for symbol in idle.get(name, ()))
        return definitions, frozenset(names)

    def _definition(self, symbol: Symbol) -> Definition:
        module, reader, form = self.module(symbol.module, symbol.home), Reader(self, symbol), "[]"
        name, _, member = symbol.name.partition(".")
        if not name:
            needs = [symbol.module.rpartition(".")[0], *(module.needs if module else [])]
            form = reader.form([*module.runs, *module.names.get(WHOLE, [])]) if module else form
            reader.refers += (own.named("") for need in needs if need and (own := self._own(symbol, need)))
        elif module is None or name == WHOLE or name not in module.names:  # any of its names may be meant
            reader.refers += (symbol.named(each) for each in (module.names if module else ()) if each != WHOLE)
        elif cls := self.class_of(symbol):
            form = reader.header(cls)
        else:
            nodes = self.members(symbol.named(name))[member] if member else module.names[name]
            form = reader.form(nodes)
            for local, assignment in reversed(reader.texts.items()):
                if form.count(f"<builtins.{local}>") == 1:  # the assignment; it is used in messages only
                    form = form.replace(assignment, "")
        return Definition(form, tuple(reader.refers), frozenset(reader.names))


class Reader:
    """Writes normal forms of what is defined at `here`, and collects what a `Definition` lists."""

    def __init__(self, sources: Sources, here: Symbol) -> None:
        self.sources, self.here = sources, here
        self.refers: list[Symbol] = []
        self.names: set[str] = set()
        self.texts: dict[str, str] = {}  # the normal forms of assignments of a text to a name, by that name

    def form(self, node: Any) -> str:
        """The normal form of a node, an import, a list of them, or a value; '' for a statement that is left out."""
        match node:
            case list():
                return "[" + ",".join(filter(None, map(self.form, node))) + "]"
            case (origin, name):
                return self._refer(self.sources.imported(self.here, origin, name))
            case ast.Name():
                return self._refer(self.target(node)[0] or node.id)
            case ast.Attribute():
                meaning, names = self.target(node)
                return ".".join([self._refer(meaning), *names]) if meaning else f"{self.form(node.value)}.{node.attr}"
            case ast.Constant(value=value):
                self.names.update(value.split(".") if isinstance(value, str) else ())  # for getattr
                return repr(value)
            case ast.Call():
                return self._call(node)
            case ast.Pass() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                return ""
            case ast.Expr(value=ast.Call() as call) if self._called(call) in MESSAGES:
                assigns = any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(call))
                return self._plain(node) if assigns else ""
            case ast.Raise(exc=ast.Call() as call):
                values = [*call.args, *(keyword.value for keyword in call.keywords)]
                return f"Raise({self.form([call.func, *(v for v in values if not self._is_text(v))])})"
            case ast.Raise(exc=expression) | ast.Assert(test=expression):
                return f"{type(node).__name__}({self.form(expression)})"
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if self._is_text(value):
                self.texts[name] = self._plain(node)
                return self.texts[name]
            case ast.AnnAssign(target=target, value=value):
                return self.form(ast.Assign([target], value)) if value else ""
            case ast.ClassDef():
                return self.header(node, with_methods=True)
        return self._plain(node) if isinstance(node, ast.AST) else repr(node)

    def _plain(self, node: ast.AST) -> str:
        self.names.update(getattr(node, "kwd_attrs", ()))  # of a pattern
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in IGNORED)
        some = (f"{name}={self.form(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(some)})"

    def _call(self, node: ast.Call) -> str:
        called, label = self._called(node), ""
        match node.func, node.args:
            case _, [_, value] if called == "typing.cast":
                return self.form(value)
            case _, [_, ast.JoinedStr() | ast.BinOp(), *_] if called == "builtins.getattr":
                self.names.add(WHOLE)
            case ast.Attribute(value=ast.Name(id="run"), attr=attr), _:
                label = LABELS.get(attr, "")
        args = [arg for k, arg in enumerate(node.args) if not (label and k == 1 and self._is_text(arg))]
        keywords = [k for k in node.keywords if not (k.arg in ("help", label) and self._is_text(k.value))]
        return "" if called in REGISTER else f"Call({self.form([node.func, args, keywords])})"

    def header(self, node: ast.ClassDef, with_methods: bool = False) -> str:
        """The normal form of a class without its methods: bases, decorators and fields."""
        body: list[str] = []
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):  # an annotation makes a field, unless it says ClassVar
                kinds = [k for k in ("ClassVar", "InitVar", "KW_ONLY") if k in ast.unparse(statement.annotation)]
                body.append(f"{self.form(statement.target)}:{kinds}={self.form(statement.value)}")
            elif with_methods or not isinstance(statement, Function):
                body.append(self._plain(statement) if isinstance(statement, ast.Assign) else self.form(statement))
        bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
        around = [bases, node.keywords, node.decorator_list]
        return f"Class({node.name},{self.form(around)},[{','.join(filter(None, body))}])"

    def target(self, node: ast.expr) -> tuple[Symbol | str | None, list[str]]:
        """The meaning of a dotted name, as in `Sources.lookup`, and the attributes that are left; None if unknown."""
        names: list[str] = []
        node = node.value if isinstance(node, ast.Subscript) else node
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        self.names.update(names)
        if not isinstance(node, ast.Name):
            return None, names
        meaning = self.sources.lookup(self.here, node.id) or (None if names else f"builtins.{node.id}")  # or local
        while names and isinstance(meaning, Symbol) and meaning.name == WHOLE:
            meaning = self.sources.imported(meaning, meaning.module, names.pop(0))
        return (".".join([meaning, *names]), []) if isinstance(meaning, str) else (meaning, names)

    def _is_text(self, node: ast.expr) -> bool:
        """Whether an expression is certainly a text."""
        match node:
            case ast.Name(id=name):
                return name in self.texts
            case ast.BinOp(left=one, right=other) | ast.IfExp(body=one, orelse=other):
                return self._is_text(one) or self._is_text(other)
            case ast.Call(func=ast.Attribute(value=value, attr="join" | "format")):
                return self._is_text(value)
        return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))

    def _called(self, call: ast.Call) -> str:
        """The dotted name of what is called, `cran_bench:name` in this project; '' if unknown."""
        meaning, names = self.target(call.func)
        if isinstance(meaning, Symbol):
            return "" if names or meaning.home else f"{PROJECT}:{meaning.name}"
        return meaning or ""

    def _refer(self, meaning: Symbol | str) -> str:
        self.refers += [meaning] if isinstance(meaning, Symbol) else []
        return f"<{meaning.name if isinstance(meaning, Symbol) else meaning}>"


SOURCES = Sources()
