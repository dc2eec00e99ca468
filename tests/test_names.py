"""Identifiers name roles in the field's terms; words that fit anything are refused."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "gazelit"
WITHOUT_ROLE = {
    *("anything", "everything", "some", "something", "stuff", "thing", "things"),
    *("either", "one", "ones", "other", "others", "that", "this", "those"),
    *("mine", "ours", "their", "theirs", "them", "they", "yours"),
    *("here", "how", "place", "places", "there", "which", "who", "why"),
    *("asked", "said", "told", "want", "wanted"),
}
#: Where such a word is the field's own: a scanpath model predicts the place of a fixation, its duration and the end.
OWN_ROLES = {("losses/scanpath.py", "place")}


def names(tree):
    """(line, name) of everything that a module defines: variables, parameters, functions, classes and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name


def without_role(text, path=""):
    return [
        f"{line}: {name}"
        for line, name in names(ast.parse(text))
        if name.strip("_").lower() in WITHOUT_ROLE and (path, name) not in OWN_ROLES
    ]


def test_every_identifier_has_a_role():
    found = [
        f"{path.relative_to(PACKAGE)}:{name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in without_role(path.read_text(), path.relative_to(PACKAGE).as_posix())
    ]
    assert not found, f"name what it is in the field's terms: {', '.join(found)}"


@pytest.mark.parametrize(
    "text",
    [
        "one = 1",
        "for other in films: pass",
        "def predict(mine): pass",
        "def _theirs(): pass",
        "self.told = 1",
        "import numpy as thing",
        "[place for place in films]",
    ],
)
def test_an_identifier_without_a_role_is_found(text):
    assert without_role(text)


def test_names_of_other_modules_are_not_checked():
    assert not without_role("values = numpy.place(ones, torch.ones(3))")
