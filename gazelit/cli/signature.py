"""A function's options without importing its module, so that a command's help does not wait for torch."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

#: What an annotation may consist of to be understood without the module.
_KNOWN = {**vars(builtins), "Path": Path, "Literal": Literal}


def load(target: str) -> Callable[..., Any]:
    """Imports a function.

    Args:
        target: ``module:function``.
    """
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def described(target: str) -> Callable[..., Any]:
    """A function with the parameters, annotations and docstring of another one, which it imports when it is called.

    They are read from the text of the module. Where they are written in names of the module's own, the module is
    imported and the function itself returned.

    Args:
        target: ``module:function``.
    """
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    tree = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))
    node = next(
        (statement for statement in tree.body if isinstance(statement, ast.FunctionDef) and statement.name == name),
        None,
    )
    if node is None:
        return load(target)

    def imported(*arguments: Any, **options: Any) -> Any:
        return load(target)(*arguments, **options)

    try:
        imported.__signature__ = _signature(node)  # type: ignore[attr-defined]
    except (NameError, ValueError):
        return load(target)
    imported.__annotations__ = {
        name: parameter.annotation for name, parameter in inspect.signature(imported).parameters.items()
    }
    imported.__name__ = imported.__qualname__ = name
    imported.__doc__ = ast.get_docstring(node)
    return imported


def _signature(node: ast.FunctionDef) -> inspect.Signature:
    """The signature of a function's definition.

    Raises:
        NameError: An annotation uses a name of the module.
        ValueError: A default does.
    """
    arguments = [*node.args.posonlyargs, *node.args.args]
    missing = len(arguments) - len(node.args.defaults)
    given = [inspect.Parameter.empty] * missing + [ast.literal_eval(value) for value in node.args.defaults]
    # Parts of gazelit's own code, evaluated in which nothing but types is known.
    hints = [
        eval(ast.unparse(argument.annotation), dict(_KNOWN)) if argument.annotation else Any for argument in arguments
    ]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(argument.arg, kind, default=default, annotation=hint)
            for argument, default, hint in zip(arguments, given, hints, strict=True)
        ]
    )
