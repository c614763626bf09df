"""What belongs to an operator, an attack, a bound and so on: every kind of thing one can add, and its pieces.

A piece is either a property of the thing itself (a function, class or module) or a text in a file of the project: its
row in a conformance table, its line in the documentation. :func:`missing` names the pieces that a thing lacks, and
where they belong; each piece also knows how to forget itself, so that a test can try.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import clinch as cl
import clinch.network.ops
from clinch.backends import BACKENDS
from clinch.checker.layers import KINDS as LAYER_KINDS
from clinch.cli import app
from clinch.geometry.norms.base import FAMILIES, PIECES
from clinch.network.ops.base import Operator
from clinch.papers.parts.reproduction import names as papers
from clinch.search.engines import ENGINES
from clinch.study.sources import _SETS as SOURCES

ROOT = Path(__file__).resolve().parents[2]


class House:
    """The texts of the project and the names in its tables, some of them changed."""

    def __init__(self, changed: dict[str, str] | None = None, tables: dict[str, frozenset[str]] | None = None) -> None:
        self.changed, self.tables = changed or {}, tables or {}

    def text(self, place: str) -> str:
        """The files of some patterns, one after the other."""
        paths = sorted(path for pattern in place.split() for path in ROOT.glob(pattern) if path.is_file())
        return "\n".join(self.changed.get(p.relative_to(ROOT).as_posix(), p.read_text()) for p in paths)

    def without(self, place: str, pattern: str) -> House:
        """The same where nothing in those files fits the pattern."""
        paths = [path for pattern in place.split() for path in ROOT.glob(pattern) if path.is_file()]
        names = [path.relative_to(ROOT).as_posix() for path in paths]
        cut = {name: re.sub(pattern, "", self.text(name), flags=re.MULTILINE) for name in names}
        return House(self.changed | cut, self.tables)


class Piece(Protocol):
    """A piece: what it is, whether it is there, and thing and project without it."""

    what: str

    def there(self, name: str, thing: Any, house: House) -> bool: ...

    def forgotten(self, name: str, thing: Any, house: House) -> tuple[Any, House]: ...


@dataclasses.dataclass(frozen=True)
class Text:
    """A text in a file; the pattern has ``{}`` where the name stands, and takes lines one by one."""

    what: str
    place: str
    pattern: str

    def _place(self, name: str) -> str:
        return self.place.replace("{name}", name)

    def _pattern(self, name: str) -> str:
        return self.pattern.replace("{}", re.escape(name)).replace("{-}", re.escape(name.replace("-", "_")))

    def there(self, name: str, thing: Any, house: House) -> bool:
        return re.search(self._pattern(name), house.text(self._place(name)), re.MULTILINE) is not None

    def forgotten(self, name: str, thing: Any, house: House) -> tuple[Any, House]:
        return thing, house.without(self._place(name), self._pattern(name))


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a conformance table that is made by a program."""

    what: str
    names: Callable[[], frozenset[str]]

    def there(self, name: str, thing: Any, house: House) -> bool:
        return name in house.tables.get(self.what, self.names())

    def forgotten(self, name: str, thing: Any, house: House) -> tuple[Any, House]:
        return thing, House(house.changed, {**house.tables, self.what: self.names() - {name}})


@dataclasses.dataclass(frozen=True)
class Own:
    """A property of the thing itself, and how a copy comes to lack it."""

    what: str
    holds: Callable[[Any], bool]
    cut: Callable[[Any], Any]

    def there(self, name: str, thing: Any, house: House) -> bool:
        return bool(self.holds(thing))

    def forgotten(self, name: str, thing: Any, house: House) -> tuple[Any, House]:
        return self.cut(thing), house


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of thing: all that there are, one without anything of its own, and the pieces of each."""

    things: Callable[[], dict[str, Any]]
    bare: Callable[[], Any]
    pieces: tuple[Piece, ...]


def missing(kind: str, name: str, thing: Any, house: House | None = None) -> list[str]:
    """The pieces that a thing lacks, each in a line that says what to write where."""
    house = house or House()
    return [
        f"the {kind} '{name}' lacks {piece.what}" for piece in KINDS[kind].pieces if not piece.there(name, thing, house)
    ]


# --- properties ---------------------------------------------------------------------------------------------------


def _copied(thing: Any, **changes: Any) -> Any:
    """A function, class or module like the given one but for some attributes."""
    if isinstance(thing, types.ModuleType | types.SimpleNamespace):
        found = types.SimpleNamespace(**{**vars(thing), **changes})
        return types.SimpleNamespace(**{name: value for name, value in vars(found).items() if value is not None})
    if isinstance(thing, type):
        return type(thing.__name__, (thing,), {"__module__": "scratch", "__doc__": thing.__doc__, **changes})

    @functools.wraps(thing)
    def copy(*given: Any, **named: Any) -> Any:
        return thing(*given, **named)

    for name, value in changes.items():
        setattr(copy, name, value)
    return copy


def _own_docstring(thing: Any) -> str | None:
    return thing.__doc__ if inspect.isfunction(thing) else vars(thing).get("__doc__")


def documented(*sections: str) -> Own:
    """A docstring, with these words in it."""
    words = f" with {', '.join(sections)}" if sections else ""
    return Own(
        f"a docstring{words}",
        lambda thing: bool(_own_docstring(thing)) and all(word in str(_own_docstring(thing)) for word in sections),
        lambda thing: _copied(thing, __doc__=None),
    )  # fmt: skip


def takes(*parameters: str) -> Own:
    """Arguments by name, all annotated."""

    def holds(function: Any) -> bool:
        known = inspect.signature(function).parameters
        return all(name in known for name in parameters) and all(
            p.annotation is not p.empty for p in known.values() if p.kind is not p.VAR_KEYWORD
        )

    return Own(
        f"the annotated arguments {', '.join(parameters)}",
        holds,
        lambda function: _copied(function, __signature__=inspect.Signature()),
    )


def overridden(method: str, base: type) -> Own:
    """A method of its own."""
    return Own(
        f"its {method}()",
        lambda thing: getattr(thing, method) is not getattr(base, method),
        lambda thing: _copied(thing, **{method: vars(base)[method]}),
    )


def _bare_function() -> Any:
    def scratch():
        pass

    return scratch


def _bare_class(base: type) -> Any:
    return type("Scratch", (base,), {"__module__": "scratch"})


def _bare_module() -> Any:
    return types.SimpleNamespace(__doc__=None)


# --- operators ----------------------------------------------------------------------------------------------------


def _below(kind: type) -> dict[str, Any]:
    children = [c for c in kind.__subclasses__() if c.__module__.startswith("clinch.")]
    return {kind.__name__: kind} if not children else {n: c for k in children for n, c in _below(k).items()}


def _operators() -> dict[str, Any]:
    return {name: found for name, found in _below(Operator).items() if name != "Input"}


@functools.cache
def _specimens() -> frozenset[str]:
    """Operators that the conformance tests of ``tests/network`` run through."""
    sys.path.append(str(ROOT))
    module = importlib.import_module("tests.network.operator_specimens")
    return frozenset(type(specimen.op).__name__ for specimen in module.specimens())


#: a relaxation needs limits of its inputs, and an interval rule is what gives them
RELAXED = Own(
    "its interval(), which a relaxation starts from",
    lambda op: op.supports("interval") or not op.supports("relax"),
    lambda op: _copied(op, interval=Operator.interval, relax=lambda self, inputs, shapes: None),
)


# --- papers and commands ------------------------------------------------------------------------------------------


def _returns(module: Any) -> bool:
    """Whether ``run`` ends every way with a value, and says that it is a Reproduction."""
    run = getattr(module, "run", None)
    if run is None or "Reproduction" not in str(inspect.signature(run).return_annotation):
        return False
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(run))).body
    ends = [node for node in ast.walk(tree) if isinstance(node, ast.Return)]
    return bool(ends) and all(node.value is not None and ast.unparse(node.value) != "None" for node in ends)


def _forgets_to_return(module: Any) -> Any:
    def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> cl.papers.Reproduction:  # type: ignore[return]
        note(f"{seed} {quick}")

    return _copied(module, run=run)


def _commands() -> dict[str, Any]:
    return {str(c.name): c.callback for c in app.registered_commands}


def _help(*words: str) -> Own:
    return Own(
        f"{' and '.join(words)} in its help",
        lambda f: all(word in (f.__doc__ or "") for word in words),
        lambda f: _copied(f, __doc__=functools.reduce(lambda text, word: text.replace(word, ""), words, f.__doc__)),
    )


def _modules(package: str, names: list[str]) -> dict[str, Any]:
    return {name: importlib.import_module(f"{package}.{name.replace('-', '_')}") for name in names}


def _functions(module: Any, names: Any) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names if inspect.isfunction(getattr(module, name))}


def _applications() -> dict[str, Any]:
    place = importlib.import_module("clinch.applications").__path__
    return _modules("clinch.applications", [found.name for found in pkgutil.iter_modules(place) if found.ispkg])


def _bounds() -> dict[str, Any]:
    """Those of linear forms: functions of a network, a region and c."""
    found = {n: f for n, f in vars(cl.bounds).items() if inspect.isfunction(f) and not n.startswith("_")}
    return {n: f for n, f in found.items() if {"region", "c"} <= set(inspect.signature(f).parameters)}


KINDS: dict[str, Kind] = {
    "operator": Kind(
        _operators, lambda: _bare_class(Operator),
        (
            documented(), overridden("forward", Operator), RELAXED,
            Text("its reader: @spelled, @from_aten or @from_onnx", "src/clinch/network/**/*.py",
                 r"(?<!class )(?<![`:.])\b{}\b(?=.)|@spelled\([^)]*\)\n(?=@dataclass[^\n]*\nclass {}\()"),
            Row("a specimen in tests/network/operator_specimens.py", _specimens),
        ),
    ),
    "attack": Kind(
        lambda: _functions(cl.attacks, cl.attacks.__all__), _bare_function,
        (
            documented(),
            Own("annotations", lambda f: bool(f.__annotations__), lambda f: _copied(f, __annotations__={})),
            Text("its name in src/clinch/attacks/__init__.py", "src/clinch/attacks/__init__.py", r'^    "{}"[,:]'),
            Text("its row in tests/attacks/methods.py, or a reason in OTHERS of tests/attacks/test_conformance.py",
                 "tests/attacks/methods.py tests/attacks/test_conformance.py",
                 r'^ +(?:Method\()?cl\.attacks\.{}\b|^    "{}",$'),
            Text("its line in docs/attacks.md", "docs/attacks.md", r"`(?:cl\.attacks\.)?{}\b"),
        ),
    ),
    "bound": Kind(
        _bounds, _bare_function,
        (
            documented("Args:", "Returns:", "Raises:"), takes("network", "region", "c"),
            Text("its name in src/clinch/bounds/__init__.py", "src/clinch/bounds/__init__.py", r"^from .* as {}$"),
            Text("its row in tests/bounds/bound_cases.py", "tests/bounds/bound_cases.py", r'^    "{}": '),
            Text("its row in docs/bounds.md", "docs/bounds.md", r"^\| `{}` \|"),
        ),
    ),
    "engine": Kind(
        lambda: dict(ENGINES), _bare_module,
        (
            Own("a summary of what it does", lambda e: bool(getattr(e, "summary", "")),
                lambda e: _Without(e, "summary")),
            Own("capability(query)", lambda e: callable(getattr(e, "capability", None)),
                lambda e: _Without(e, "capability")),
            Own("settings of its own class", lambda e: dataclasses.is_dataclass(getattr(e, "settings", None)),
                lambda e: _Without(e, "settings")),
            Text("its line in docs/concepts.md", "docs/concepts.md", r"`{}`"),
        ),
    ),
    "backend": Kind(
        lambda: _modules("clinch.backends", list(BACKENDS)), _bare_module,
        (
            documented(),
            Own("solve(program, *, time_limit, gap, start, threads, seed)",
                lambda m: {"program", "time_limit", "gap", "start", "threads", "seed"}
                <= set(inspect.signature(getattr(m, "solve", lambda: None)).parameters),
                lambda m: _copied(m, solve=None)),
            Text("its name in BACKENDS of src/clinch/backends/__init__.py", "src/clinch/backends/__init__.py", r'"{}"'),
            Text("its library in tests/backends/test_conformance.py", "tests/backends/test_conformance.py",
                 r'"{}": "\w+"'),
            Text("its package in pyproject.toml", "pyproject.toml", r'"\w*{}\w*>=[\d.]+"'),
        ),
    ),
    "norm": Kind(
        lambda: {family.__name__: family for family in FAMILIES}, lambda: type("Scratch", (), {}),
        (
            documented(),
            *(Own(f"its {piece}", lambda n, piece=piece: hasattr(n, piece) and n is not None
                  and not getattr(getattr(n, piece), "__isabstractmethod__", False),
                  lambda n, piece=piece: type("Scratch", (), {"__doc__": n.__doc__, **{p: getattr(n, p) for p in PIECES
                                                                                      if p != piece}}))
              for piece in PIECES),
            Text("its import in src/clinch/geometry/norms/__init__.py", "src/clinch/geometry/norms/__init__.py",
                 r"import {} as {}$"),
        ),
    ),
    "application": Kind(
        _applications, _bare_module,
        (
            documented(),
            Own("__all__", lambda m: bool(getattr(m, "__all__", ())), lambda m: _copied(m, __all__=None)),
            Text("its names in docs/api/applications.md", "docs/api/applications.md",
                 r"^!!! public clinch\.applications\.{}$"),
            Text("a guide docs/{name}.md", "docs/{name}.md", r"\A#[^\0]*"),
            Text("its line in docs/index.md", "docs/index.md", r"\({}\.md\)"),
            Text("tests in tests/applications", "tests/applications/*.py", r"clinch\.applications\.{}\b"),
        ),
    ),
    "command": Kind(
        _commands, _bare_function,
        (
            _help("Example: clinch "), _help("Exit code: 0"),
            Text("its line in README.md", "README.md", r"^clinch {} .*$"),
            Text("its row in tests/cli/test_commands.py", "tests/cli/test_commands.py", r'(?<=[\[ ])"{}"(?=[,\]])'),
            Text("its row in tests/cli/test_descriptors.py", "tests/cli/test_descriptors.py", r'^    "{}": \('),
        ),
    ),
    "data source": Kind(
        lambda: dict(SOURCES), _bare_function,
        (
            Own("a split, 'train' or 'test', as its argument", lambda f: len(inspect.signature(f).parameters) >= 1,
                lambda f: _copied(f, __signature__=inspect.Signature())),
            Text("its row in the docstring of open_source", "src/clinch/study/sources.py", r"^    ``{}`` .*$"),
            Text("its name in docs/studies.md", "docs/studies.md", r"`{}`"),
            Text("a test in tests/study/test_sources.py", "tests/study/test_*.py", r'"{}(?::train)?"'),
        ),
    ),
    "certificate kind": Kind(
        lambda: {kind: row for kind, row in LAYER_KINDS.items() if kind != "input"}, lambda: (),
        (
            Own("the number of its inputs, its fields and the optional ones in KINDS of src/clinch/checker/layers.py",
                lambda row: len(row) == 3, lambda row: row[:2]),
            Text("its case in _layer of src/clinch/checker/layers.py", "src/clinch/checker/layers.py",
                 r'^def {}\('),
            Text("an operator whose statement() gives it", "src/clinch/network/ops/*.py", r'"kind": "{}"'),
            Text("its row in docs/certificates.md", "docs/certificates.md", r"^\| `{}` \|.*$"),
            Text("tests in tests/certify", "tests/certify/*.py", r'"{}"'),
        ),
    ),
    "paper": Kind(
        lambda: _modules("clinch.papers", papers()), _bare_module,
        (
            documented(),
            Own("run(*, seed, quick, note), which returns a Reproduction", _returns, _forgets_to_return),
            Text("its row in docs/reproduce.md", "docs/reproduce.md", r"^\| `{}` \|.*$"),
            Text("a test in tests/papers", "tests/papers/*.py", r'"{}"|\b{-}\b'),
        ),
    ),
}  # fmt: skip


class _Without:
    """An object like another one but for an attribute."""

    def __init__(self, thing: Any, name: str) -> None:
        self._thing, self._name = thing, name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._thing, name)
