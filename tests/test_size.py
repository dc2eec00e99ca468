"""Files and signatures stay small; a file that grows too large holds a second idea."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "gazelit"
LINES, PARAMETERS = 400, 8
#: Text that begins the reason in a docstring, of the function or, for ``__init__``, of the class.
REASON = "Many arguments, because"
FILES = sorted(PACKAGE.rglob("*.py"))


def decorators(function):
    nodes = (node for decorator in function.decorator_list for node in ast.walk(decorator))
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def signatures(tree, path, within=()):
    """Qualified names of functions with too many parameters and no reason."""
    for node in ast.iter_child_nodes(tree):
        # Functions that numba compiles take plain arrays and numbers.
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and "compiled" not in decorators(node):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len(arguments) - (bool(arguments) and arguments[0].arg in ("self", "cls"))
            described = tree if node.name == "__init__" else node
            if count > PARAMETERS and REASON not in " ".join((ast.get_docstring(described) or "").split()):
                yield f"{path}:{'.'.join([*within, node.name])}"
        yield from signatures(node, path, [*within, node.name] if hasattr(node, "name") else within)


def test_files_are_short():
    long = {str(path.relative_to(PACKAGE)) for path in FILES if len(path.read_text().splitlines()) > LINES}
    assert not long, f"split by meaning: {', '.join(sorted(long))}"


def test_signatures_are_short_or_say_why_not():
    found = {name for path in FILES for name in signatures(ast.parse(path.read_text()), path.relative_to(PACKAGE))}
    assert not found, f"group the parameters, or write '{REASON} …' into the docstring: {', '.join(sorted(found))}"


@pytest.mark.parametrize("reason", ["", "Many arguments,\n    because each is an option."])
def test_a_long_signature_is_found_unless_it_says_why(reason):
    parameters = ", ".join(f"p{number}" for number in range(PARAMETERS + 1))
    text = f'class A:\n    """B. {reason}"""\n\n    def __init__(self, {parameters}):\n        ...\n'
    assert list(signatures(ast.parse(text), "a.py")) == ([] if reason else ["a.py:A.__init__"])
