"""Every option is read, on an object of its own class, and described.

Read means: some code takes the attribute from an expression that is known, from annotations and assignments alone, to
hold the option's class (or one it derives from, or that derives from it). An equal name elsewhere does not count.
"""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import pairsight
from pairsight.config import BaseConfig

SOURCES = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))


@dataclass
class Module:
    """What a module says of types: (name, words of its annotation), (targets, value) of assignments, attributes read.

    `shared` are names that other modules see too: functions by what they return, fields of classes by their type.
    """

    local: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    shared: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    assigned: list[tuple[set[str], list[str]]] = field(default_factory=list)
    reads: set[tuple[str, str]] = field(default_factory=set)
    own_reads: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: ast.Module) -> "Module":
        found = cls()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
                found.shared += [(chain(one.target)[-1], words(one.annotation)) for one in fields]
                found.own_reads[node.name] = {name for owner, name in attributes(node) if owner == "self"}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                found.local += [(one.arg, words(one.annotation)) for one in given]
                found.shared.append((node.name, words(node.returns)))
            elif isinstance(node, ast.AnnAssign):
                found.local.append((chain(node.target)[-1], words(node.annotation)))
            elif isinstance(node, ast.Assign):
                found.assigned.append(({chain(one)[-1] for one in node.targets} - {""}, chain(node.value)[-2:]))
        found.reads = set(attributes(tree))
        return found


def words(annotation: ast.expr | None) -> frozenset[str]:
    return frozenset() if annotation is None else frozenset(re.findall(r"\w+", ast.unparse(annotation)))


def chain(expression: ast.expr) -> list[str]:
    """The names of `a.b(…).c` as ["a", "b", "c"]; [""] for anything else."""
    if isinstance(expression, ast.Call):
        return chain(expression.func)
    if isinstance(expression, ast.Subscript):
        return chain(expression.value)
    if isinstance(expression, ast.Attribute):
        return [*chain(expression.value), expression.attr]
    return [expression.id if isinstance(expression, ast.Name) else ""]


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(last name of the expression before the dot, name) of every attribute that is read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield chain(node.value)[-1], node.attr


def options_read(classes: set[str], modules: list[Module]) -> set[str]:
    """The attributes that are read from objects of any of `classes`."""
    shared = {name for module in modules for name, said in module.shared if said & classes}
    found: set[str] = set()
    for module in modules:
        known = shared | classes | {name for name, said in module.local if said & classes}
        for _ in range(3):  # an object may be passed on from name to name
            for targets, value in module.assigned:
                if value[-1] in known or (len(value) == 2 and value[0] in classes):  # x = options; x = Options.parse()
                    known |= targets
        found |= {name for owner, name in module.reads if owner in known}
        for name in module.own_reads.keys() & classes:
            found |= module.own_reads[name]
    return found


def config_classes() -> list[type[BaseConfig]]:
    for module in pkgutil.walk_packages(pairsight.__path__, "pairsight."):
        if not module.name.startswith("pairsight.tiny.weights"):
            importlib.import_module(module.name)
    found: list[type[BaseConfig]] = []
    waiting = [BaseConfig]
    while waiting:
        for sub in waiting.pop().__subclasses__():
            if sub.__module__.startswith("pairsight.") and sub not in found:
                found.append(sub)
                waiting.append(sub)
    return found


def test_every_option_is_read_somewhere_and_described() -> None:
    modules = [Module.of(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]
    unread, undescribed = set(), []
    classes = config_classes()
    assert len(classes) > 30
    for cls in classes:
        relatives = {other.__name__ for other in classes if issubclass(cls, other) or issubclass(other, cls)}
        read = options_read(relatives, modules)
        unread |= {f"{cls.__name__}.{name}" for name in cls.model_fields if name not in read}
        undescribed += [f"{cls.__name__}.{name}" for name, one in cls.model_fields.items() if not one.description]
    assert unread == set()
    assert undescribed == []


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("def f(a: Options): return a.beta", {"beta"}),
        ("def f(a: 'Options | None'): b = a; c = b; return c.beta", {"beta"}),
        ("class T:\n    o: Options\ndef f(t): return t.o.beta", {"beta"}),
        ("def f(t): return Options.parse(t).beta", {"parse"}),
        ("def f(t):\n    o = Options.parse(t)\n    return o.beta", {"parse", "beta"}),
        ("def made() -> Options: ...\nmade().beta", {"beta"}),
        ("class Options:\n    def f(self): return self.beta", {"beta"}),
        ("class Other:\n    def f(self): return self.beta", set()),
        ("def f(a: Other): return a.beta", set()),
        ("def f(a: Options): a.beta = 1", set()),
    ],
)
def test_an_equal_name_of_another_class_is_not_a_read(source: str, read: set[str]) -> None:
    assert options_read({"Options"}, [Module.of(ast.parse(source))]) == read
