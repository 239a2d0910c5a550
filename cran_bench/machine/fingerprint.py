"""Fingerprints of code by meaning: sha256 of the definitions that can change a result, and of nothing else.

`code` starts from classes and functions and follows every name to its definition, in this project or in a plugin's own
modules, however it is imported.  A definition is hashed in a normal form: its syntax tree without docstrings, comments,
annotations and layout, and without the messages of errors, warnings and progress; what is named only there is not
followed.  A method counts if its name is mentioned anywhere in the code (rapid type analysis).  Where modules lie and
in which order they define things does not matter.  Other packages are not followed: record their versions.
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
PART = {"fit", "state", "load"}  # methods of every part, see `cran_bench.contract`
MESSAGES = f"{PROJECT}:say", "warnings.warn", "builtins.print"  # calls that are left out where they are statements
TRACK = f"{PROJECT}:track"  # yields the items of its first argument
LABELS = f"{PROJECT}:register", f"{PROJECT}:register_dataset", "typing.override", "typing.final"  # decorators left out
PASSIVE = "builtins", "typing", "typing_extensions", "abc", "enum"  # their base classes call no methods of ours
IGNORED = "ctx", "kind", "type_comment", "type_params", "returns", "annotation"  # fields of syntax trees
TYPE_CHECKING = "TYPE_CHECKING", "typing.TYPE_CHECKING"
ANY = "*"

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Root: TypeAlias = Callable[..., Any]
"""A class, a function, or a method of a class."""
Read: TypeAlias = Callable[[str, str], tuple[str, bool] | None]
Scope: TypeAlias = "dict[str, Function | tuple[str, str] | None]"
"""What local names stand for: a function, an import (module and name), or None for any other value."""


class Place(NamedTuple):
    """Where a definition is.

    Attributes:
        module: dotted name.
        home: for plugins given by path and the files beside them, their folder; else ''.
        name: `function`, `Class`, `Class.method` or `CONSTANT`; '' for the module, and for its statements that run on
            import and are not definitions.
    """

    module: str
    home: str
    name: str = ""

    @property
    def package(self) -> str:
        """Top-level package of the module."""
        return self.module.partition(".")[0]


class Code(NamedTuple):
    """All definitions that some code consists of.

    Attributes:
        sha: sha256 of their normal forms.
        names: all attributes that they mention.
        places: where they are.
    """

    sha: str
    names: frozenset[str]
    places: frozenset[Place]


class Definition(NamedTuple):
    """A definition's normal form, the definitions that it names, in order, and the attributes that it mentions."""

    form: str
    refers: tuple[Place, ...]
    names: frozenset[str]


def code(*roots: Root, asked: Iterable[str] = ()) -> Code:
    """The code of classes and functions, with all that it uses; sources are read once in the life of a process.

    Args:
        roots: the classes and functions.
        asked: names of methods that are called from outside this code.

    Raises:
        BadInput: the source of a root cannot be read.
    """
    return SOURCES.code(roots, frozenset(asked))


def code_sha(*roots: Root, asked: Iterable[str] = ()) -> str:
    """sha256 of `code`."""
    return code(*roots, asked=asked).sha


def read(module: str, home: str) -> tuple[str, bool] | None:
    """The source of a module (see Place), and whether it is a package; None if there is no Python source."""
    path = _file_of(module) if not home or module in sys.modules else None
    if home and (path is None or path.parent != Path(home)):
        stem = Path(home, *module.split("."))
        path = stem / "__init__.py"
        if not path.is_file() or home.endswith("-packages"):  # where other people's packages are installed
            path = stem.with_suffix(".py")
    if path is None or path.suffix != ".py" or not path.is_file():
        return None
    with tokenize.open(path) as file:
        return file.read(), path.name == "__init__.py"


def _file_of(module: str) -> Path | None:
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
        return Path(file) if file else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


class Module:
    """A parsed module.

    Attributes:
        defined: by name, the statements that define it.
        imported: by name, the module that it comes from and its name there; '' for a module as a whole.
        stars: modules from which all names are imported.
        runs: statements that are neither definitions nor imports.
        needs: modules (or names in modules) that are imported with this one.
    """

    def __init__(self, name: str, source: str, is_package: bool) -> None:
        self.is_package, self._package = is_package, name if is_package else name.rpartition(".")[0]
        self.defined: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.stars: list[str] = []
        self.runs: list[ast.stmt] = []
        self.needs: list[str] = []
        self._take(ast.parse(source).body, is_run=True)

    def imports(self, statement: ast.Import | ast.ImportFrom) -> tuple[dict[str, tuple[str, str]], list[str]]:
        """What a statement adds to `imported` and to `needs`."""
        if isinstance(statement, ast.Import):
            pairs = [(a.asname, a.name) if a.asname else 2 * (a.name.partition(".")[0],) for a in statement.names]
            return {name: (module, "") for name, module in pairs}, [a.name for a in statement.names]
        above = self._package.split(".")
        above = above[: len(above) - statement.level + 1] if statement.level else []
        origin = ".".join([*above, *([statement.module] if statement.module else [])])
        names = {a.asname or a.name: (origin, a.name) for a in statement.names}
        return names, [origin, *(f"{origin}.{a.name}" for a in statement.names)]

    def _take(self, body: list[ast.stmt], is_run: bool) -> None:
        for statement in body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._import(statement, is_run)
            elif isinstance(statement, Function | ast.ClassDef):
                self.defined.setdefault(statement.name, []).append(statement)
            elif isinstance(statement, ast.Assign | ast.AnnAssign) and (assigned := _assigned(statement)):
                for name, own in assigned:
                    self.defined.setdefault(name, []).append(own)
            elif isinstance(statement, ast.If) and ast.unparse(statement.test) in TYPE_CHECKING:
                self._take(statement.body, is_run=False)
                self._take(statement.orelse, is_run)
            elif not _is_idle(statement):
                self.runs.append(statement)
                for node in ast.walk(statement):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        self._import(node, is_run)
                    elif isinstance(node, Function | ast.ClassDef):
                        self.defined.setdefault(node.name, []).append(statement)
                    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        self.defined.setdefault(node.id, []).append(statement)

    def _import(self, statement: ast.Import | ast.ImportFrom, is_run: bool) -> None:
        bound, needs = self.imports(statement)
        self.needs += needs if is_run else []
        self.stars += [bound.pop("*")[0]] if "*" in bound else []
        self.imported |= bound


def _is_idle(statement: ast.stmt) -> bool:
    """Whether a statement does nothing on import: a docstring, a bare annotation, or what only a script runs."""
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
            return True
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return True
    return False


def _assigned(statement: ast.Assign | ast.AnnAssign) -> list[tuple[str, ast.stmt]]:
    """The names that an assignment defines, `A, B = 1, 2` one by one; none if it sets items or attributes."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    found: list[tuple[str, ast.stmt]] = []
    for target in targets:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = statement.value.elts if isinstance(statement.value, ast.Tuple) else []
        if not all(isinstance(name, ast.Name) for name in names) or any(isinstance(v, ast.Starred) for v in values):
            return []
        each = len(names) == len(values) and isinstance(target, ast.Tuple)
        for place, name in enumerate(names):
            own = ast.Assign([name], values[place]) if each else statement
            found.append((name.id, own))  # type: ignore[attr-defined]
    return found


class Sources:
    """All modules of the project and of plugins, each read and parsed once.

    Args:
        read: reads the source of a module, as the function `read`.
    """

    def __init__(self, read: Read = read) -> None:
        self._read = functools.cache(read)
        self.module = functools.cache(self._module)
        self.members = functools.cache(self._members)
        self.code = functools.cache(self._code)
        self.definition = functools.cache(self._definition)
        self._run_with = functools.cache(self._all_run_with)
        self.heard: dict[int, frozenset[str]] = {}

    def _module(self, name: str, home: str) -> Module | None:
        found = self._read(name, home)
        return found and Module(name, *found)

    # names -----------------------------------------------------------------------------------------------------------

    def lookup(self, here: Place, name: str, seen: frozenset[Place] = frozenset()) -> Place | str | None:
        """The meaning of a module's global name: a definition, a module, or a dotted name of another package."""
        module, place = self.module(here.module, here.home), Place(here.module, here.home, name)
        if module is None or place in seen:
            return None
        seen |= {place}
        if name in module.imported:
            return self.imported(here, *module.imported[name], seen)
        if name in module.defined:
            return place
        for star in module.stars:
            found = self.imported(here, star, name, seen) if self._own(here, star) else None
            if isinstance(found, Place):
                return found
        return None

    def imported(self, here: Place, origin: str, name: str, seen: frozenset[Place] = frozenset()) -> Place | str | None:
        """The meaning of `from origin import name` in a module; of `import origin` if the name is ''."""
        module = self._own(here, origin)
        if module is None or not name:
            return module or ".".join(filter(None, (origin, name)))
        found = self.lookup(module, name, seen)
        if found is not None:
            return found
        opened = self.module(module.module, module.home)
        if opened is None or opened.is_package:
            inner = module._replace(module=f"{module.module}.{name}")
            if self.module(inner.module, inner.home):
                return inner
        if opened is not None and "__getattr__" in opened.defined:
            return module._replace(name="__getattr__")
        return f"{origin}.{name}"

    def _own(self, here: Place, origin: str) -> Place | None:
        """The module of that name, if it belongs to the project or to the same plugin as `here`."""
        package = origin.partition(".")[0]
        if package == PROJECT:
            return Place(origin, "")
        if here.home:
            return Place(origin, here.home) if self._read(package, here.home) else None
        return Place(origin, "") if package == here.package else None

    # classes ---------------------------------------------------------------------------------------------------------

    def class_of(self, place: Place) -> ast.ClassDef | None:
        """The class that is defined there; None if it is no class, or one that is defined in several ways."""
        module = self.module(place.module, place.home)
        found = module.defined.get(place.name, []) if module else []
        return found[0] if len(found) == 1 and isinstance(found[0], ast.ClassDef) else None

    def _members(self, place: Place) -> dict[str, list[Function]]:
        """Methods by name."""
        cls, found = self.class_of(place), dict[str, list[Function]]()
        for statement in cls.body if cls else []:
            if isinstance(statement, Function):
                found.setdefault(statement.name, []).append(statement)
        return found

    def _bases(self, place: Place) -> list[Place | str | Function | None]:
        cls, reader = self.class_of(place), Reader(self, place)
        return [reader.target(_without_types(base))[0] for base in cls.bases] if cls else []

    def _family(self, place: Place) -> set[Place]:
        """A class and its base classes, without those of other packages."""
        own = (self._family(base) for base in self._bases(place) if isinstance(base, Place) and base != place)
        return {place}.union(*own)

    def _is_whole(self, place: Place) -> bool:
        """Whether any method may be called from elsewhere: the class or a base of it is not this project's."""
        return place.package != PROJECT or any(
            (self.class_of(base) is None or self._is_whole(base))
            if isinstance(base, Place)
            else not isinstance(base, str) or base.partition(".")[0] not in PASSIVE
            for base in self._bases(place)
        )

    def _is_part(self, place: Place) -> bool:
        return {name for cls in self._family(place) for name in self.members(cls)} >= PART

    # closures --------------------------------------------------------------------------------------------------------

    def _code(self, roots: tuple[Root, ...], asked: frozenset[str]) -> Code:
        begin = [place for root in roots for place in self._places(root)]
        left_out = {part for place in begin for part in self._parts_of(place)}
        reached, names = self._reached(begin, asked, left_out.__contains__)
        alone = {
            place: sha256_bytes(f"{place.name}\n{definition.form}".encode())
            for place, definition in reached.items()
            if place.name or definition.form != "[]"
        }
        # two modules may define one name: which of them is meant is part of the meaning
        texts = (sha + "".join(alone.get(r, "") for r in reached[place].refers) for place, sha in alone.items())
        shas = sorted(sha256_bytes(text.encode()) for text in texts)
        return Code(sha256_bytes("\n".join(shas).encode()), names, frozenset(alone))

    def _places(self, root: Root) -> list[Place]:
        module, home = root.__module__, ""
        file = _file_of(module)
        if "." not in module and module != PROJECT and file is not None and file.name != "__init__.py":
            home = str(file.parent)
        opened = self.module(module, home)
        if opened is None:
            raise BadInput(f"the source of {root.__qualname__} cannot be read: define it in a file, not {module}")
        name, *inner = root.__qualname__.partition(".<locals>")[0].split(".")
        place = Place(module, home, name)
        if name not in opened.defined:  # no class statement defines it: the whole module counts
            return [place._replace(name=name) for name in opened.defined]
        if inner and inner[0] in self.members(place):
            return [place._replace(name=f"{name}.{inner[0]}")]
        return [place]

    def _parts_of(self, place: Place) -> set[Place]:
        """Classes of the parts that a class declares, which are those that its method `parts` names."""
        family, found = self._family(place), set[Place]()
        if not any(not parts.decorator_list for cls in family for parts in self.members(cls).get("parts", ())):
            return found

        def is_left_out(other: Place) -> bool:
            if other in family or not self._is_part(other):
                return False
            found.add(other)
            return True

        self._reached([place], {"parts"}, is_left_out, by_name_only=True)
        return found

    def _reached(
        self, begin: list[Place], asked: Set[str], is_left_out: Callable[[Place], bool], by_name_only: bool = False
    ) -> tuple[dict[Place, Definition], frozenset[str]]:
        """All that some definitions use, and the attributes that are mentioned there."""
        reached: dict[Place, Definition] = {}
        names: set[str] = set(asked)
        idle: dict[str, list[Place]] = {}  # methods that were not mentioned so far, by name
        waiting = [*begin]
        while waiting:
            place = waiting.pop()
            if place in reached or is_left_out(place):
                continue
            definition = reached[place] = self.definition(place)
            waiting += (*definition.refers, *self._run_with(place._replace(name="")))
            takes_all = ANY in names or (not by_name_only and self._is_whole(place))
            for name in self.members(place):
                is_called = takes_all or name in names or name.startswith("__")
                member = place._replace(name=f"{place.name}.{name}")
                (waiting if is_called else idle.setdefault(name, [])).append(member)
            if new := definition.names - names:
                names |= new
                waiting += (place for name in (idle if ANY in new else new) for place in idle.get(name, ()))
        return reached, frozenset(names)

    def _all_run_with(self, module: Place) -> frozenset[Place]:
        """The modules with statements that run when a module is imported."""
        found, seen, waiting = set[Place](), set[Place](), [module]
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            if "." in place.module:
                waiting.append(place._replace(module=place.module.rpartition(".")[0]))
            opened = self.module(place.module, place.home)
            if opened is None:
                continue
            found.update({place} if opened.runs else ())
            for need in opened.needs:
                own = self._own(place, need)
                above = own and self.module(own.module.rpartition(".")[0], own.home)
                if own and (above is None or above.is_package or own.module == need.partition(".")[0]):
                    waiting.append(own)
        return frozenset(found)

    def _definition(self, place: Place) -> Definition:
        module, reader = self.module(place.module, place.home), Reader(self, place)
        assert module is not None
        name, _, member = place.name.partition(".")
        cls = self.class_of(place)
        if cls is not None:
            form = reader.header(cls)
        elif member:
            form = reader.form(self.members(place._replace(name=name))[member])
        else:
            form = reader.form(module.defined[name] if name else module.runs)
        return Definition(form, tuple(reader.refers), frozenset(reader.names))


class Reader:
    """Writes the normal form of a definition and collects what it refers to.

    Args:
        sources: where names are looked up.
        here: the definition.
        scopes: of the functions around it, the innermost last.
        is_draft: keep messages that are arguments of functions or local variables.
    """

    def __init__(self, sources: Sources, here: Place, scopes: Iterable[Scope] = (), is_draft: bool = False) -> None:
        self.sources, self.here, self.scopes, self.is_draft = sources, here, list(scopes), is_draft
        self.refers: list[Place] = []
        self.names: set[str] = set()
        self.local: set[str] = set()  # local names whose values are used
        self._function: Function | None = None  # the outermost one

    def form(self, node: Any) -> str:
        """The normal form of a node, a list of nodes or a value; '' for a statement that is left out."""
        if isinstance(node, list):
            return "[" + ",".join(filter(None, map(self.form, node))) + "]"
        if not isinstance(node, ast.AST):
            return repr(node)
        special = getattr(self, f"_{type(node).__name__.lower()}", None)
        return special(node) if special else self._plain(node)

    def _plain(self, node: ast.AST) -> str:
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in IGNORED)
        some = (f"{name}={self.form(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(some)})"

    # names -----------------------------------------------------------------------------------------------------------

    def _meaning(self, name: str) -> Place | str | Function | None:
        """As `Sources.lookup`, also a dotted name of `builtins`, a local function, or None for another local value."""
        for scope in reversed(self.scopes):
            if name in scope:
                found = scope[name]
                return self.sources.imported(self.here, *found) if isinstance(found, tuple) else found
        return self.sources.lookup(self.here, name) or f"builtins.{name}"

    def target(self, node: ast.expr) -> tuple[Place | str | Function | None, list[str]]:
        """The meaning of a dotted name, see `_meaning`, and what attributes are left; None for other expressions."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        found = self._meaning(node.id) if isinstance(node, ast.Name) else None
        while names and isinstance(found, Place) and not found.name:
            found = self.sources.imported(found, found.module, names.pop(0))
        return (".".join([found, *names]), []) if isinstance(found, str) else (found, names)

    def _called(self, node: ast.expr) -> str:
        """`package:name` of a definition that is called, or the dotted name; '' if it is not known."""
        found, names = self.target(node.func if isinstance(node, ast.Call) else node)
        if isinstance(found, Place):
            return f"{found.package}:{found.name}" if not names else ""
        return found if isinstance(found, str) else ""

    def _refer(self, place: Place) -> str:
        if place.name:
            self.refers.append(place)
            return f"<{place.name}>"
        module = self.sources.module(place.module, place.home)  # as a value, of which any attribute may be taken
        self.refers += [place._replace(name=name) for name in module.defined] if module else []
        return "<module>"

    def _name(self, node: ast.Name) -> str:
        found = self._meaning(node.id) if self.scopes or isinstance(node.ctx, ast.Load) else None
        if isinstance(found, Place):
            return self._refer(found)
        if isinstance(found, str):
            return f"<{found}>"
        if isinstance(node.ctx, ast.Load):
            self.local.add(node.id)
        return node.id

    def _attribute(self, node: ast.Attribute) -> str:
        found, names = self.target(node)
        if isinstance(found, str):
            return f"<{found}>"
        if not isinstance(found, Place):
            self.names.add(node.attr)
            return f"{self.form(node.value)}.{node.attr}"
        self.names.update(names)
        return ".".join([self._refer(found), *names])

    def _constant(self, node: ast.Constant) -> str:
        if isinstance(node.value, str):  # which getattr may be given
            self.names.update(name for name in node.value.split(".") if name.isidentifier())
        return repr(node.value)

    def _matchclass(self, node: ast.MatchClass) -> str:
        self.names.update(node.kwd_attrs)
        return self._plain(node)

    # statements ------------------------------------------------------------------------------------------------------

    def _expr(self, node: ast.Expr) -> str:
        if isinstance(node.value, ast.Constant):
            return ""
        is_said = isinstance(node.value, ast.Call) and self._called(node.value) in MESSAGES
        does_more = any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node))
        return "" if is_said and not does_more else self._plain(node)

    def _raise(self, node: ast.Raise) -> str:
        raised = node.exc
        if not isinstance(raised, ast.Call):
            return f"Raise({ast.unparse(raised).rpartition('.')[2] if raised else ''})"
        values = [*raised.args, *(keyword.value for keyword in raised.keywords)]
        kept = [value for value in values if not _is_text(value)]
        return f"Raise({ast.unparse(raised.func).rpartition('.')[2]},{self.form(kept)})"

    def _assert(self, node: ast.Assert) -> str:
        return f"Assert({self.form(node.test)})"

    def _nothing(self, _: ast.AST) -> str:
        return ""

    _pass = _import = _importfrom = _nothing

    def _assign(self, node: ast.Assign) -> str:
        match node.targets:
            case [ast.Name(id=name)] if self._function and name in self.scopes[-1] and _is_text(node.value):
                if self._is_unheard(name, self._function, self.here, []):
                    return ""  # part of a message
        return self._plain(node)

    def _annassign(self, node: ast.AnnAssign) -> str:
        return self.form(ast.Assign([node.target], node.value)) if node.value else ""

    # functions -------------------------------------------------------------------------------------------------------

    def _functiondef(self, node: Function) -> str:
        outermost, self._function = self._function, self._function or node
        decorators = self._decorators(node)
        signature = self._signature(node.args, node)
        self.scopes.append(self._locals(node))
        body = self.form(node.body)
        self.scopes.pop()
        self._function = outermost
        return f"{type(node).__name__}({node.name},{decorators},{signature},{body})"

    _asyncfunctiondef = _functiondef

    def _decorators(self, node: Function | ast.ClassDef) -> str:
        return self.form([d for d in node.decorator_list if self._called(d) not in LABELS])

    def _lambda(self, node: ast.Lambda) -> str:
        signature = self._signature(node.args)
        self.scopes.append(dict.fromkeys(_arguments(node.args)))
        body = self.form(node.body)
        self.scopes.pop()
        return f"Lambda({signature},{body})"

    def _signature(self, args: ast.arguments, function: Function | None = None) -> str:
        plain, around = [*args.posonlyargs, *args.args], (self.here, self.scopes)
        values = dict(zip(reversed(plain), reversed(args.defaults), strict=False))
        values |= {arg: value for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True) if value}

        def written(arg: ast.arg) -> str:
            value = values.get(arg)
            if value is None or (function and _is_text(value) and self._is_unheard(arg.arg, function, *around)):
                return arg.arg
            return f"{arg.arg}={self.form(value)}"

        kinds = args.posonlyargs, args.args, [args.vararg], args.kwonlyargs, [args.kwarg]
        return "|".join(",".join(written(arg) for arg in kind if arg) for kind in kinds)

    def _locals(self, function: Function) -> Scope:
        """The names that are bound in a function."""
        found: Scope = dict.fromkeys(_arguments(function.args))
        not_here: set[str] = set()
        module = self.sources.module(self.here.module, self.here.home)
        for node in _own_nodes(function.body):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                found.setdefault(node.id, None)
            elif isinstance(node, Function):
                found[node.name] = node
            elif isinstance(node, ast.Import | ast.ImportFrom) and module:
                found |= module.imports(node)[0]
            elif isinstance(node, ast.Global):
                not_here.update(node.names)
            elif isinstance(node, ast.ExceptHandler | ast.ClassDef | ast.MatchAs | ast.MatchStar | ast.MatchMapping):
                found[getattr(node, "name", None) or getattr(node, "rest", None) or ""] = None
        return {name: value for name, value in found.items() if name not in not_here}

    def _listed(self, node: Comprehension) -> str:
        first = self.form(node.generators[0].iter)
        targets = [n for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)]
        self.scopes.append({name.id: None for name in targets})
        form = f"{first},{self._plain(node)}"
        self.scopes.pop()
        return form

    _listcomp = _setcomp = _dictcomp = _generatorexp = _listed

    # classes ---------------------------------------------------------------------------------------------------------

    def header(self, node: ast.ClassDef, with_methods: bool = False) -> str:
        """The normal form of a class without its methods: bases, decorators and fields."""
        bases = self.form([_without_types(base) for base in node.bases])
        body: list[str] = []
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):  # being annotated makes a field, unless it is a ClassVar
                kinds = [k for k in ("ClassVar", "InitVar", "KW_ONLY") if k in ast.unparse(statement.annotation)]
                body.append(f"{self.form(statement.target)}:{kinds}={self.form(statement.value)}")
            elif with_methods or not isinstance(statement, Function):
                body.append(self.form(statement))
        written = ",".join(filter(None, body))
        return f"Class({node.name},{bases},{self.form(node.keywords)},{self._decorators(node)},[{written}])"

    def _classdef(self, node: ast.ClassDef) -> str:
        return self.header(node, with_methods=True)

    # calls -----------------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> str:
        called = self._called(node)
        match node.args:
            case [_, value] if called == "typing.cast":
                return self.form(value)
            case [items, *_] if called == TRACK:
                return self.form(items)
            case [_, ast.JoinedStr() | ast.BinOp(), *_] if called == "builtins.getattr":
                self.names.add(ANY)
        args, keywords = self._unsaid(node)
        return f"Call({self.form(node.func)},{self.form(args)},{self.form(keywords)})"

    def _unsaid(self, node: ast.Call) -> tuple[list[ast.expr], list[ast.keyword]]:
        """The arguments of a call without messages: labels, help, and what the function itself puts into messages."""
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        is_labelled = method == "progress" and len(node.args) + len(node.keywords) > 2  # items, label, total
        known = {"help", *(["label"] if is_labelled else ["at"] if method == "checkpoint" else [])}
        names = ["", "label"] if is_labelled else []
        function = self._function_called(node.func)
        if function is not None:
            names = [arg.arg for arg in (*function[0].args.posonlyargs, *function[0].args.args)]

        def is_said(name: str | None, value: ast.expr) -> bool:
            if name in known:
                return _is_text(value) or (name == "label" and isinstance(value, ast.Name))
            if function is None or name not in _arguments(function[0].args) or not _is_text(value):
                return False
            return self._is_unheard(name, *function)

        args, stars = list(node.args), [isinstance(arg, ast.Starred) for arg in node.args]
        for place, (name, arg) in enumerate(zip(names, node.args, strict=False)):
            if is_said(name, arg) and not any(stars[:place]):
                args[place] = ast.Constant(None)
        return args, [keyword for keyword in node.keywords if not is_said(keyword.arg, keyword.value)]

    def _function_called(self, node: ast.expr) -> tuple[Function, Place, list[Scope]] | None:
        """The function that a name stands for, its place and the scopes around it."""
        found, names = self.target(node)
        if isinstance(found, Place) and not names:
            module = self.sources.module(found.module, found.home)
            match module.defined.get(found.name) if module else None:
                case [ast.FunctionDef() | ast.AsyncFunctionDef() as function]:
                    return function, found, []
        if isinstance(found, Function) and isinstance(node, ast.Name):
            depth = max(k for k, scope in enumerate(self.scopes) if node.id in scope)
            return found, self.here, self.scopes[: depth + 1]
        return None

    def _is_unheard(self, name: str, function: Function, here: Place, scopes: list[Scope]) -> bool:
        """Whether a function uses an argument, or a local variable, in messages only."""
        if self.is_draft:
            return False
        if id(function) not in self.sources.heard:
            draft = Reader(self.sources, here, scopes, is_draft=True)
            draft.form(function)
            self.sources.heard[id(function)] = frozenset(draft.local)
        return name not in self.sources.heard[id(function)]


SOURCES = Sources()


def _without_types(base: ast.expr) -> ast.expr:
    """A base class without type parameters."""
    return base.value if isinstance(base, ast.Subscript) else base


def _arguments(args: ast.arguments) -> list[str]:
    every = *args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg
    return [arg.arg for arg in every if arg is not None]


def _own_nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions, classes and comprehensions inside."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Comprehension):
            waiting += (inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
            continue
        yield node
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is certainly a text."""
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            return _is_text(node.left) or _is_text(node.right)
        case ast.IfExp():
            return _is_text(node.body) or _is_text(node.orelse)
        case ast.Call(func=ast.Attribute(value=value, attr="join" | "format")):
            return _is_text(value)
    return False
