"""One line for a mistake on the command line or in a configuration, with a suggestion.

jsonargparse reports a mistake as the usage and a tree of all types that it tried for a value. The important parts are
the option, the value and the values that would be accepted.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from gazelit.cli.options import spelled
from gazelit.configs import config_chain, config_files
from gazelit.errors import InputError

_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'")
_GROUP = re.compile(r"Group '([^']+)' does not accept option '([^']+)'")
_UNRECOGNISED = re.compile(r"unrecognized arguments: (\S+)")
_NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_NO_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_NO_VALUE = re.compile(r"argument (\S+): expected (?:one|at least one) argument")
_MISSING = re.compile(r"the following arguments are required: (.*)|Key \"([^\"]+)\" is required")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$")
#: Lines of a report without information.
_STRUCTURE = re.compile(r"[\s-]*(Does not validate|Subtypes:|Errors:|Given value type:|Expected a path)")
_GIVEN = re.compile(r"Given value: (.*)")
_CLASSES = re.compile(r"(?:<class '|\[)([\w.]+\.\w+)(?='>|\])")
_CUT = re.compile(r"Unable to load config '([^']*)")
#: Names of types in messages.
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}


class ExplainingParser(ArgumentParser):
    """A parser whose errors are one line, an :class:`gazelit.errors.InputError`.

    Attributes:
        arguments: The parsed arguments; they show whether an option is on the command line or in a file.
    """

    arguments: Sequence[str] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        # An abbreviation may not stay unique, and hides a misspelt option.
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the explained error; nested parsers report to it."""
        if not self.exit_on_error:
            super().error(message, ex)
        cause: BaseException | None = ex
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            # An error of gazelit's own code, in one line already.
            raise InputError(str(cause)) from ex
        raise InputError(explain(message, getattr(ex, "subcommand_parser", None) or self, self.arguments)) from ex


def explain(message: str, parser: ArgumentParser, arguments: Sequence[str]) -> str:
    """Explains a mistake, and what to do, in one line.

    Args:
        message: As jsonargparse reports it.
        parser: Parser with whose options an unknown one is compared.
        arguments: Arguments after the command's name.
    """
    report = _Report(message)
    if report.unknown is not None:
        return _unknown_option(report, parser, arguments)
    if report.missing:
        return _missing(report.missing, parser)
    if report.without_value:
        return _without_value(report.without_value, arguments)
    where = _where(report.path, arguments)
    if report.value is not None and report.value[:1] in ("{", "[") and report.value[-1:] not in ("}", "]"):
        return f"{where}: '{report.value}' is cut at a space; put quotes around the whole value: '{{name: value}}'"
    if report.class_name is not None:
        return f"{where}: {_unknown_class(report, parser)}"
    if report.reason and not set(report.expected) - {"<class 'NoneType'>"}:
        return f"{where}: {report.reason}"
    if report.expected:
        return f"{where}: {_wrong_value(report, where)}"
    return " ".join(message.split())[:400]


class _Report:
    """The parts of jsonargparse's report.

    Attributes:
        path: Keys that lead to the mistake.
        owner: Dotted path of the class whose parameter is wrong.
        unknown: The option that does not exist.
        class_name: The class that does not exist.
        bases: Dotted paths of classes of which the class has to extend one.
        expected: Types that the value was tried for.
        value: The value.
        reason: Error message of a class about its arguments.
        missing: Names of required options.
        without_value: The option without a value.
    """

    def __init__(self, message: str) -> None:
        self.owner: str | None = None
        self.unknown: str | None = None
        self.class_name: str | None = None
        self.bases: list[str] = []
        self.expected: list[str] = []
        self.value: str | None = None
        self.reason = ""
        self.missing: list[str] = []
        self.without_value = ""
        keys: list[tuple[int, str]] = []
        self.path: list[str] = []
        for line in message.splitlines():
            indent = len(line) - len(line.lstrip(" -"))
            if found := _KEY.search(line):
                keys = [(level, key) for level, key in keys if level < indent] + [(indent, found[1])]
                self.path = [part for _, key in keys for part in key.split(".")]
                # Earlier lines are alternatives that were tried on the way.
                self.expected, self.value = [], None
            self._read(line)
        if self.path[:1] and self.unknown is not None and self.unknown.startswith("--"):
            self.unknown = self.unknown.lstrip("-")

    def _read(self, line: str) -> None:
        if found := _CLASS.search(line):
            self.owner = found[1]
        if found := _GROUP.search(line):
            self.unknown = self.unknown or f"{found[1]}.{found[2]}"
        elif found := _UNKNOWN.search(line) or _UNRECOGNISED.search(line):
            self.unknown = self.unknown or next(part for part in found.groups() if part)
            named = re.search(r"class_path='([^']+)'", line)
            self.owner = named[1] if named else self.owner
        elif found := _NO_ATTRIBUTE.search(line):
            self.class_name = self.class_name or f"{found[1]}.{found[2]}"
        elif found := _NO_CLASS.search(line):
            self.class_name = self.class_name or found[1]
            self.value = self.value or found[1]
        elif found := _NO_VALUE.search(line):
            self.without_value = found[1]
        elif found := _MISSING.search(line):
            self.missing = (found[1] or found[2]).replace(" ", "").split(",")
        elif found := _CUT.search(line):
            self.value = found[1]
        elif found := _GIVEN.search(line):
            self.value = self.value or (None if found[1].startswith("NestedArg(") else found[1])
        elif (found := _EXPECTED.search(line)) and not found[1].startswith("path"):
            self.expected.append(found[1])
            self.value = found[2] or self.value
        elif line.strip() and not _STRUCTURE.match(line) and not _KEY.search(line) and not _CLASS.search(line):
            self.reason = self.reason or line.strip(" -")
        if line.lstrip().startswith("Subtypes:"):
            self.bases = _CLASSES.findall(line)


def _unknown_option(report: _Report, parser: ArgumentParser, arguments: Sequence[str]) -> str:
    name = str(report.unknown).partition("=")[0]
    if not report.path and not name.startswith("-") and "=" in str(report.unknown):
        return f"{report.unknown}: options begin with two dashes: --{report.unknown}"
    if not report.path and not name.startswith("-") and name in arguments:
        return f"'{name}' belongs to no option; `{_help_of(parser)}` lists them"
    key = name.lstrip("-").removesuffix("+")
    owner = _load(report.owner) if report.owner else None
    prefix = [part for part in report.path if part]
    known = list(_parameters(owner)) if owner is not None else _options(parser)
    where = _where([*prefix, *key.split(".")], arguments)
    suggestion = _closest(key, known)
    shown = f"--{'.'.join([*prefix, suggestion])}" if where.startswith("--") else ".".join([*prefix, suggestion])
    if suggestion:
        return f"{where}: there is no such option; did you mean {shown}?"
    if owner is not None and known:
        return f"{where}: there is no such option; {report.owner} takes {', '.join(sorted(known))}"
    if owner is not None:
        return f"{where}: {report.owner} has no options; name another class with --{'.'.join(prefix)}=CLASS before"
    return f"{where}: there is no such option; `{_help_of(parser)}` lists them"


def _missing(names: Sequence[str], parser: ArgumentParser) -> str:
    # For a subcommand the name includes the command.
    if [name.rpartition(".")[2] for name in names] == ["model"]:
        return "--config is missing; name a stage's configuration, such as --config stage1.yaml (`gazelit configs`)"
    positional = {action.dest for action in parser._actions if not action.option_strings}
    shown = [name.upper() if name in positional else f"--{name}" for name in names]
    return f"{', '.join(shown)} {'is' if len(shown) == 1 else 'are'} missing; `{_help_of(parser)}` lists the options"


def _without_value(option: str, arguments: Sequence[str]) -> str:
    # For a nested option jsonargparse names the class's option.
    given = [
        argument
        for argument in arguments
        if argument == option or (argument.startswith(f"{option}.") and "=" not in argument)
    ]
    option = given[-1] if given else option
    return f"{option}: has no value; write {option}=VALUE, and of a switch {option}=true or {option}=false"


def _unknown_class(report: _Report, parser: ArgumentParser) -> str:
    name = str(report.class_name)
    # jsonargparse 4.53 reads a null for an object within an object as this name.
    if name == "None":
        return "null cannot be given on the command line; leave it out, or write `null` in a file for --config"
    module, _, last = name.rpartition(".")
    if module:
        suggestion = _closest(
            last, [attribute for attribute in dir(sys.modules.get(module)) if not attribute.startswith("_")]
        )
        found = f"did you mean {module}.{suggestion}?" if suggestion else "look for the name in the documentation"
        return f"{module} has no {last}; {found}"
    bases = [_load(path) for path in report.bases] or _bases(parser, report.path)
    names = sorted({name for base in bases if isinstance(base, type) for name in _subclasses(base)})
    suggestion = _closest(last, names)
    if suggestion:
        return f"there is no class {name}; did you mean {suggestion}?"
    listed = f": {', '.join(names)}" if 0 < len(names) <= 12 else "; write package.module.Class"
    return f"there is no class {name}{listed}"


def _wrong_value(report: _Report, where: str) -> str:
    choices = [value for kind in report.expected for value in _literals(kind)]
    kinds = [_type_name(kind) for kind in report.expected if not _literals(kind)]
    # An option that is left out is null as well.
    plain = [kind for kind in dict.fromkeys(kinds) if kind != "null"] or ([] if choices else kinds)
    if plain == ["true or false"] and not choices:
        return f"'{report.value}' is neither true nor false; write {where}=true or {where}=false"
    suggestion = _closest(str(report.value), choices)
    listed = [*dict.fromkeys(choices), *plain]
    text = f"'{report.value}' is not " + ("one of " if len(listed) > 1 else "") + ", ".join(listed)
    return text + (f"; did you mean {suggestion}?" if suggestion else "")


def _bases(parser: ArgumentParser, path: Sequence[str]) -> list[Any]:
    """The classes of an option's value, by its annotation."""
    actions = [action for action in parser._actions if action.dest == ".".join(path)]
    hints = [getattr(action, "_typehint", None) for action in actions]
    return [kind for hint in hints for kind in (hint, *get_args(hint)) if isinstance(kind, type)]


def _literals(kind: str) -> list[str]:
    if not kind.startswith("typing.Literal["):
        return []
    try:
        return [str(value) for value in ast.literal_eval(kind.removeprefix("typing.Literal"))]
    except (SyntaxError, ValueError):
        return []


def _type_name(kind: str) -> str:
    found = re.fullmatch(r"<class '([\w.]+)'>", kind)
    name = found[1] if found else kind.replace("typing.", "")
    if name.lower().startswith(("list", "sequence", "collections.abc.sequence", "tuple")):
        return "a list, such as [a, b]"
    return _TYPES.get(name, name.rpartition(".")[2] if found else name)


def _closest(name: str, known: Iterable[str]) -> str:
    """The most similar known name, also one of a level below (``sigma`` for ``gaze.sigma``); empty if none."""
    known = list(known)
    first, _, rest = name.partition(".")
    if rest and name not in known and "." not in "".join(known):
        owner = _closest(first, known)
        return f"{owner}.{rest}" if owner else ""
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.65):
        return close[0]
    lower = {text.lower(): text for text in known}
    if close := difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.65):
        return lower[close[0]]
    last = {text.rpartition(".")[2]: text for text in known}
    close = difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.8)
    return last[close[0]] if close else ""


def _where(path: Sequence[str], arguments: Sequence[str]) -> str:
    """An option as on the command line, or the file and key that hold it."""
    option = "--" + ".".join(path)
    given = {argument.partition("=")[0].removesuffix("+") for argument in arguments}
    if option in given or option.replace("_", "-") in given:
        return option
    option = "--" + ".".join(map(spelled, path))
    above = ["--" + ".".join(path[:length]) for length in range(len(path) - 1, 0, -1)]
    files = [part for file in config_files(arguments) for part in config_chain(file)]
    for file in reversed(files):
        if _holds(file, path):
            return f"{file}: {'.'.join(path)}"
    containing = next((option for option in above if option in given), None)
    return option if containing is None else f"{containing}: {path[-1]}"


def _holds(file: Path, path: Sequence[str]) -> bool:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    for key in path:
        if isinstance(content, dict) and key not in content:
            content = content.get("init_args", content)
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


def _options(parser: ArgumentParser) -> list[str]:
    """Names of a parser's options and of their nested options."""
    names = [option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")]
    return [name for name in names if name not in ("help", "print_config")]


def _parameters(owner: Any, prefix: str = "") -> Iterator[str]:
    """Names of the parameters of a class or function, with those of options that are dataclasses."""
    seen: set[str] = set()
    for target in inspect.getmro(owner) if inspect.isclass(owner) else (owner,):
        function = vars(target).get("__init__") if inspect.isclass(target) else target
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        try:
            hints = get_type_hints(function)
        except (NameError, TypeError):
            hints = {}
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name in {"self", *seen}:
                continue
            seen.add(parameter.name)
            yield prefix + parameter.name
            nested = hints.get(parameter.name)
            if dataclasses.is_dataclass(nested) and not prefix:
                yield from _parameters(nested, f"{parameter.name}.")
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            return


def _subclasses(base: type[Any]) -> Iterator[str]:
    found: list[type[Any]] = base.__subclasses__()
    for kind in found:
        if not kind.__name__.startswith("_"):
            yield kind.__name__
        yield from _subclasses(kind)


def _load(path: str) -> Any:
    """The object of a dotted path, if its module is imported already: nothing is imported for a message."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _help_of(parser: ArgumentParser) -> str:
    return f"{parser.prog.replace(' [options]', '')} --help"
