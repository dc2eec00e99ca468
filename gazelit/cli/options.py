"""Short forms of options: ``--size 640,512`` for ``--size '[640, 512]'``, ``--strict`` for ``--strict=true``."""

from __future__ import annotations

import inspect
import keyword
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from argparse import ArgumentParser

#: Values of a flag.
_FLAG_VALUES = ("true", "false", "yes", "no")


def spelled(parameter: str) -> str:
    """The option of a parameter: ``from`` for ``from_``, because ``from`` is a keyword of Python."""
    word = parameter.removesuffix("_")
    return word if keyword.iskeyword(word) else parameter


def spell_options(parser: ArgumentParser) -> None:
    """Makes a parser's options, help and messages use ``--from`` for the parameter ``from_``."""
    for action in parser._actions:
        word = spelled(action.dest)
        if action.option_strings and word != action.dest:
            action.option_strings, action.metavar = [f"--{word}"], word.upper()
            parser._option_string_actions[f"--{word}"] = parser._option_string_actions.pop(f"--{action.dest}")


def bracket_lists(arguments: Sequence[str], function: Callable[..., Any], module: types.ModuleType | None) -> list[str]:
    """Puts missing brackets around the values of options that are lists: values with commas, and single ones.

    Args:
        arguments: Of the command line.
        function: Its parameters are options.
        module: Module of classes whose parameters are nested options, such as ``source.labels``.
    """
    callables = [function]
    if module is not None:
        callables += [value for _, value in inspect.getmembers(module, inspect.isclass)]
    names = {name: only_list for target in callables for name, only_list in _lists_of(target).items()}
    changed = []
    expected: str | None = None
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if argument.startswith("--"):
            option = name[2:].replace("-", "_").rpartition(".")[2]
            is_list = option in names
            expected = option if is_list and not separator else None
            changed.append(f"{name}={_bracketed(value, names[option])}" if is_list and separator else argument)
        else:
            changed.append(argument if expected is None else _bracketed(argument, names[expected]))
            expected = None
    return changed


def _lists_of(function: Callable[..., Any]) -> dict[str, bool]:
    """Names of the parameters that may be lists or tuples, and whether they can only be a list or None."""
    target = function.__init__ if inspect.isclass(function) else function
    try:
        hints = get_type_hints(target)
    except (NameError, TypeError):
        return {}
    return {name: _is_only_list(hint) for name, hint in hints.items() if name != "return" and _is_list(hint)}


def _is_list(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(_is_list, get_args(hint)))
    return get_origin(hint) in (list, tuple, Sequence) or hint in (list, tuple)


def _is_only_list(hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return all(get_origin(kind) is list or kind in (list, type(None)) for kind in kinds)


def _bracketed(value: str, only_list: bool) -> str:
    is_bare = bool(value) and value[:1] not in ("[", "{", "(", "'", '"') and value != "null"
    return f"[{value}]" if is_bare and ("," in value or only_list) else value


def nulls_in_groups(arguments: Sequence[str]) -> list[str]:
    """Writes ``--data.split.file=null`` as ``--data.split={file: null}``, for the groups of the data module's options.

    jsonargparse 4.53 reads the null of an option within a group within a class as the word None.

    Args:
        arguments: Of the command line.
    """
    changed: list[str] = []
    following = iter([*arguments[1:], ""])
    skip = False
    for argument in arguments:
        value_after = next(following)
        if skip:
            skip = False
            continue
        flag, separator, value = argument.partition("=")
        parts = flag.replace(".init_args.", ".").split(".")
        is_null = (value if separator else value_after) in ("null", "None", "~")
        if parts[0] == "--data" and len(parts) == 3 and is_null:
            changed.append(f"--data.{parts[1]}={{{parts[2]}: null}}")
            skip = not separator
        else:
            changed.append(argument)
    return changed


def complete_flags(arguments: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """Gives switches without a value the value true.

    A switch that may also be a list of known words (``--dicom sr,sc``) has a value only if the next argument is one of
    these; otherwise it may be a file.

    Args:
        arguments: Of the command line.
        function: Its parameters are options.
    """
    hints = get_type_hints(function)
    completed: list[str] = []
    following = [*arguments, "--"][1:]
    expected: set[str] | None = None
    for argument, after in zip(arguments, following, strict=True):
        if expected is not None:
            completed.append(f"[{argument}]" if expected and argument.lower() not in _FLAG_VALUES else argument)
            expected = None
            continue
        name, separator, value = argument.partition("=")
        items = _flag_items(hints.get(name[2:].replace("-", "_"))) if argument.startswith("--") else None
        if items is None:
            completed.append(argument)
        elif separator:
            is_list = items and value.lower() not in _FLAG_VALUES and not value.startswith("[")
            completed.append(f"{name}=[{value}]" if is_list else argument)
        elif after.lower() in _FLAG_VALUES or (items and set(after.split(",")) <= items):
            completed.append(argument)
            expected = items
        else:
            completed.append(f"{argument}=true")
    return completed


def _flag_items(hint: Any) -> set[str] | None:
    """The words that a flag may have instead of true or false, perhaps none; None for an option that is no flag."""
    if hint is bool:
        return set()
    if bool not in get_args(hint):
        return None
    lists = [kind for kind in get_args(hint) if get_origin(kind) is list]
    return {word for kind in lists for literal in get_args(kind) for word in get_args(literal)}


def option_values(arguments: Sequence[str], option: str) -> list[str]:
    """The values that an option has on the command line, in order."""
    values = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, separator, value = argument.partition("=")
        if flag == option:
            values.append(value if separator else following)
    return values
