"""Reads a function's options without importing its module, so that a command's help does not wait for torch."""

from __future__ import annotations

import ast
import atexit
import builtins
import gc
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

#: Names in annotations and defaults that are understood without the module.
_KNOWN = {**vars(builtins), "Path": Path, "Literal": Literal}


def load(target: str) -> Callable[..., Any]:
    """Imports a function or a class.

    The garbage collector is off meanwhile. It would repeatedly go through hundreds of thousands of objects of torch and
    Lightning that stay until the process ends. Without it a short training takes 4.5 CPU seconds instead of 7.8.

    Args:
        target: ``module:name``.
    """
    module, _, name = target.partition(":")
    if module in sys.modules:
        return cast(Callable[..., Any], getattr(sys.modules[module], name))
    collects = gc.isenabled()
    gc.disable()
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    finally:
        # Once a process: if several commands run in one process, objects of an earlier command are still collected.
        if not gc.get_freeze_count():
            gc.freeze()
            # Libraries that count the remaining objects at the end of the process would report leaks.
            atexit.register(gc.unfreeze)
        if collects:
            gc.enable()
    return found


def described(target: str) -> Callable[..., Any]:
    """A function with the signature and docstring of another one, which it imports when it is called.

    They are read from the source of the module, and of the modules from which it imports constants and literal types.
    If they need a class of gazelit's own, the module is imported and the function itself is returned.

    Args:
        target: ``module:function``.
    """
    module, _, name = target.partition(":")
    definitions = _Definitions(module)
    node = next(
        (
            statement
            for statement in definitions.body
            if isinstance(statement, ast.FunctionDef) and statement.name == name
        ),
        None,
    )
    if node is None:
        return load(target)

    def imported(*arguments: Any, **options: Any) -> Any:
        return load(target)(*arguments, **options)

    try:
        imported.__signature__ = _signature(node, definitions)  # type: ignore[attr-defined]
    except NameError:
        return load(target)
    imported.__annotations__ = {
        name: parameter.annotation for name, parameter in inspect.signature(imported).parameters.items()
    }
    imported.__name__ = imported.__qualname__ = name
    imported.__doc__ = ast.get_docstring(node)
    return imported


class _Definitions:
    """The values of names in a module's source that are assigned there, or in a module from which they are imported."""

    def __init__(self, module: str) -> None:
        spec = importlib.util.find_spec(module)
        self.body = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8")).body

    def __getitem__(self, name: str) -> Any:
        if name in _KNOWN:
            return _KNOWN[name]
        for statement in self.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=assigned)], value=value) if assigned == name:
                    return self.value(value)
                case ast.ImportFrom(module=str(origin), names=names) if origin.startswith("gazelit."):
                    for alias in names:
                        if name == (alias.asname or alias.name):
                            return _Definitions(origin)[alias.name]
        raise KeyError(name)

    def value(self, node: ast.expr) -> Any:
        """The value of an expression.

        Raises:
            NameError: It uses a name that is not assigned.
        """
        # Expressions of gazelit's own code; only types and constants are available to them.
        return eval(ast.unparse(node), {"__builtins__": {}}, self)  # type: ignore[arg-type]


def _signature(node: ast.FunctionDef, definitions: _Definitions) -> inspect.Signature:
    """The signature of a function's definition.

    Raises:
        NameError: An annotation or a default uses what is no constant and no literal type.
    """
    arguments = [*node.args.posonlyargs, *node.args.args]
    missing = len(arguments) - len(node.args.defaults)
    defaults = [inspect.Parameter.empty] * missing + [definitions.value(value) for value in node.args.defaults]
    hints = [definitions.value(argument.annotation) if argument.annotation else Any for argument in arguments]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(argument.arg, kind, default=default, annotation=hint)
            for argument, default, hint in zip(arguments, defaults, hints, strict=True)
        ]
    )
