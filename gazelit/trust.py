"""Which code a name in a file may bring to run.

Checkpoints and configurations name classes. Importing a module runs its code, so a name from a file that may come from
a stranger (a checkpoint's stamp, the ``config.yaml`` beside it) is imported only if it is gazelit's own or the user
trusts its module: ``--trust my.module`` on the command line, or :func:`trust` in Python. A configuration that the user
writes and gives to a command that trains counts as naming; its modules are read, not run, before they are imported.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, TypeVar

from gazelit.errors import InputError

_T = TypeVar("_T")

#: What saved configurations name besides gazelit's own classes: optimisers, schedulers, callbacks, loggers, losses.
LIBRARIES = (
    "gazelit",
    "lightning.pytorch",
    "lightning.fabric.plugins",
    "timm.optim",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
#: ``module:Class``, and a dotted path.
_COLON = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.([A-Za-z_]\w*)", re.ASCII)

_UNDEFINED = "is not defined"

_trusted: set[str] = set()


def trust(module: str) -> None:
    """Lets checkpoints and saved configurations name classes of a module and of those below it.

    Args:
        module: Dotted name, such as ``my_project.networks``.

    Raises:
        InputError: It is no module's name, or a module of Python's own library.
    """
    if not _MODULE.fullmatch(module):
        raise InputError(f"--trust: '{module}' is no module's name; give one such as my_project.networks")
    if _is_standard(module):
        raise InputError(f"--trust: '{module}' belongs to Python's own library, which defines no part of a model")
    _trusted.add(module)


def is_trusted(module: str) -> bool:
    """Whether a module is one of :data:`LIBRARIES`, was trusted, or lies below one of these."""
    return any(module == known or module.startswith(f"{known}.") for known in (*LIBRARIES, *_trusted))


def trusted() -> tuple[str, ...]:
    """The modules the user trusts, sorted."""
    return tuple(sorted(_trusted))


@contextmanager
def trust_until_end() -> Iterator[None]:
    """Forgets at the end of the block what was trusted within it, so that one command does not widen the next."""
    before = set(_trusted)
    try:
        yield
    finally:
        _trusted.clear()
        _trusted.update(before)


def check_names(content: Any, origin: str) -> None:
    """Checks that a stranger's file names no class outside gazelit's own, the known libraries and trusted modules.

    Args:
        content: Nested mappings, sequences and primitives.
        origin: Begins the message: the file.

    Raises:
        InputError: A string in it names something that could be imported and is not trusted.
    """
    for name, _ in names_in(content):
        module = _split(name)[0]
        if not is_trusted(module):
            raise InputError(
                f"{origin}: names {name}, which is not gazelit's own; nothing was imported. If you know and trust that "
                f"code, add --trust {module}"
            )


def trust_names(content: Any, origin: str) -> None:
    """Trusts the modules that a user's own configuration names, after reading, not running, their files.

    Args:
        content: Nested mappings, sequences and primitives.
        origin: Begins the message: the file, or ``the command line``.

    Raises:
        InputError: A class is named that its module's file does not define, or that cannot be of any expected kind.
    """
    for name, is_class in names_in(content):
        module, attribute = _split(name)
        if is_trusted(module):
            continue
        if is_class:
            check_definition(module, attribute, f"{origin}: {name}")
        if not _is_standard(module):
            _trusted.add(module.partition(".")[0])


def names_in(content: Any) -> Iterator[tuple[str, bool]]:
    """The strings that name something importable, and whether it must be a class.

    Classes are the values of ``class_path`` and what is written ``module:Class``; other dotted strings count if there
    is a module that may define what they name, because a function can be given by its path.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key == "class_path" and isinstance(value, str):
                # A class may be named alone; what it then means is decided among classes that are imported already.
                if "." in value or ":" in value:
                    yield value, True
            else:
                yield from names_in(value)
    elif isinstance(content, str):
        if _COLON.fullmatch(content):
            yield content, True
        elif _DOTTED.fullmatch(content) and _defines_something(content):
            yield content, False
    elif isinstance(content, Sequence):
        for value in content:
            yield from names_in(value)


def load_class(path: str, kind: type[_T], origin: str) -> type[_T]:
    """The class that a dotted path or ``module:Class`` names, checked before anything of it is called.

    Args:
        path: The name.
        kind: What it must be a subclass of.
        origin: Begins the message, such as the file that names it.

    Raises:
        InputError: It cannot be imported, or is no such class.
    """
    module, name = _split(path)
    check_definition(module, name, f"{origin}: {path}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{origin}: {path} cannot be imported ({error}); install what defines it") from error
    if not isinstance(found, type) or not issubclass(found, kind):
        raise InputError(f"{origin}: {path} is no subclass of {kind.__module__}.{kind.__qualname__}; it was not called")
    return found


def check_definition(module: str, name: str, origin: str) -> None:
    """Checks by the text of a module's file, without running it, that it can define a class of a model's kind.

    Where the text does not tell (compiled modules, star imports, computed names) nothing is said here; the class is
    checked again once it is imported.

    Raises:
        InputError: The module belongs to Python's own library or is not found, or its file defines no such class.
    """
    if _is_standard(module):
        raise InputError(f"{origin} belongs to Python's own library, which defines no part of a model")
    if is_trusted(module) and module.partition(".")[0] != "gazelit":
        return
    spec = _find(module)
    if spec is None:
        raise InputError(f"{origin} cannot be imported: there is no module {module}; install what defines it")
    if spec.origin is None or not spec.origin.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{origin} cannot be imported: {spec.origin} is no readable Python file") from error
    problem = _problem(tree, name)
    if problem:
        raise InputError(f"{origin} {problem} in {spec.origin}; nothing was imported")


def _problem(tree: ast.Module, name: str) -> str | None:
    bound: ast.stmt | None = None
    for statement in _top_level(tree.body):
        if isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names):
            return None
        if isinstance(statement, ast.FunctionDef) and statement.name == "__getattr__":
            return None
        if name in _bound_names(statement):
            bound = statement
    if bound is None:
        return _UNDEFINED
    if isinstance(bound, (ast.FunctionDef, ast.AsyncFunctionDef)) and bound.returns is None:
        return "is a function that does not say what it returns, no class,"
    if isinstance(bound, ast.ClassDef) and not bound.decorator_list and not bound.keywords:
        plain = {kind for kind, value in vars(builtins).items() if isinstance(value, type)}
        if all(isinstance(base, ast.Name) and base.id in plain for base in bound.bases):
            return "extends no class that a model, loss, metric or dataset is made from"
    return None


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                yield from _top_level(getattr(statement, field, []))


def _bound_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []


def _split(path: str) -> tuple[str, str]:
    """Module and attribute of ``module:Class`` or of a dotted path (``module.Class``)."""
    separator = ":" if ":" in path else "."
    module, _, name = path.rpartition(separator)
    if not _MODULE.fullmatch(module) or not name.isidentifier():
        raise InputError(f"'{path}' names no class; write package.module.Class")
    return module, name


def _is_standard(module: str) -> bool:
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top in sys.builtin_module_names


def _defines_something(path: str) -> bool:
    """Whether a dotted string may name something in a module: most such strings are names of files."""
    parts = path.split(".")
    module = next((name for name in _prefixes(parts) if _find(name) is not None), None)
    if module is None:
        return False
    spec = _find(module)
    rest = path.removeprefix(module).removeprefix(".")
    if spec is None or spec.origin is None:
        # A folder without __init__.py defines nothing itself.
        return False
    if not rest or not spec.origin.endswith(".py"):
        return not rest or module not in sys.modules or hasattr(sys.modules[module], rest.partition(".")[0])
    try:
        return _problem(ast.parse(Path(spec.origin).read_bytes()), rest.partition(".")[0]) != _UNDEFINED
    except (OSError, SyntaxError, ValueError):
        return True


def _prefixes(parts: Sequence[str]) -> Iterator[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])


def _find(module: str) -> ModuleSpec | None:
    """Finds a module without importing the packages it lies in, as ``importlib.util.find_spec`` would."""
    locations = None
    spec = None
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        spec = _find_part(".".join(parts[:length]), locations)
        if spec is None or (spec.submodule_search_locations is None and length < len(parts)):
            return None
        locations = spec.submodule_search_locations
    return spec


def _find_part(name: str, locations: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, locations) if find is not None else None
        if spec is not None:
            return spec
    return None
