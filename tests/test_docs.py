"""Checks of the documentation site without building it, and of the project's files for contributors."""

import ast
import doctest
import importlib
import json
import logging
import re
from pathlib import Path

import matplotlib
import pydicom
import pytest
import yaml

import gazelit

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
PROJECT_FILES = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def anchors(path):
    """The anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "", text)
    return {
        re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }


def identifier(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PAGES, *PROJECT_FILES, ROOT / "README.md"], ids=identifier)
def test_links_and_anchors_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if "://" in target:
            continue
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def test_every_page_is_in_the_table_of_contents_once():
    entries = [
        line.strip()
        for block in re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.S)
        for line in block.splitlines()
        if line.strip() and not line.startswith(":")
    ]
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in [*PAGES, *DOCS.glob("*.ipynb")]}
    assert sorted(entries) == sorted(pages - {"index"})


def test_files_that_pages_include_exist():
    for path in PAGES:
        for name in re.findall(r"```\{(?:literal)?include\} (\S+)", path.read_text()):
            assert (path.parent / name).is_file(), name


def test_the_reference_names_what_can_be_imported():
    text = (DOCS / "reference" / "api.md").read_text()
    modules = re.findall(r"automodule:: (\S+)", text)
    assert "gazelit.stages" in modules
    for name in modules:
        importlib.import_module(name)
    for path in re.findall(r"auto(?:class|function):: (\S+)", text):
        module, _, attribute = path.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), path


def notebook_cells(kind):
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_tutorial_runs(monkeypatch, tmp_path):
    backend, log = matplotlib.get_backend(), logging.getLogger("lightning.pytorch")
    level = log.level
    matplotlib.use("agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Lightning's seed_everything sets this variable for the processes that it starts.
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    namespace = {"__name__": "__main__"}
    try:
        for cell in notebook_cells("code"):
            exec(compile(cell, "tutorial.ipynb", "exec"), namespace)
    finally:
        importlib.import_module("matplotlib.pyplot").close("all")
        matplotlib.use(backend)
        log.setLevel(level)
    assert sum(namespace["reading"].probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert namespace["reading"].saliency.shape == pydicom.dcmread(namespace["film"]).pixel_array.shape
    assert float(namespace["density"].sum()) == pytest.approx(1, abs=1e-4)
    assert 0 <= namespace["scores"]["test/auroc_macro"] <= 1


def test_the_tutorial_has_no_outputs_in_git():
    # Outputs are computed when the site is built, so that they are never those of another version.
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    links = re.findall(r"\]\(([^)#]+)", "".join(notebook_cells("markdown")))
    assert links
    for link in links:
        assert (DOCS / link).is_file(), link


def test_every_step_of_the_workflows_is_a_make_target():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        for name, job in jobs.items():
            commands = [step["run"] for step in job["steps"] if "run" in step]
            assert commands, name
            for command in commands:
                assert re.fullmatch(r"make ([a-z-]+)", command), command
                assert command.removeprefix("make ") in TARGETS, command


def test_forms_and_hooks_are_complete():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(form), path
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "mypy"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M).group(1)
    for tool in ("ruff check", "ruff format", "mypy"):
        assert f"$(BIN)/{tool}" in lint


def test_the_citation_is_complete_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    # Fields that version 1.2.0 of the format requires.
    assert {"authors", "cff-version", "message", "title"} <= set(citation)
    assert citation["version"] == gazelit.__version__
    paper = citation["references"][0]
    assert [author["family-names"] for author in paper["authors"]] == ["Qiu", "Rivaz", "Xiao"]
    assert paper["title"].lower() in " ".join((ROOT / "README.md").read_text().replace("> ", "").split()).lower()


@pytest.mark.parametrize("path", PROJECT_FILES, ids=identifier)
def test_files_that_the_project_pages_name_exist(path):
    for name in re.findall(r"`((?:gazelit|tests|docs|configs)/[\w/.-]*)`", path.read_text()):
        if "NAME" not in name:
            assert (ROOT / name).exists(), name
    for target in re.findall(r"`?make ([a-z-]+)", path.read_text()):
        assert target in TARGETS, target


def test_sphinx_reads_the_version_of_the_package():
    tree = ast.parse((DOCS / "conf.py").read_text())
    assert any(isinstance(node, ast.ImportFrom) and node.module == "gazelit" for node in ast.walk(tree))


EXAMPLES = [path for path in sorted((ROOT / "gazelit").rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", EXAMPLES, ids=identifier)
def test_examples_in_docstrings_give_what_they_say(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
