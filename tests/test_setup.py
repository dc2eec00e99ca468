"""Set-up, and the README's promises."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from gazelit.cli import COMMANDS, TRAINER_COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_make_help_lists_the_targets():
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"setup", "test", "lint", "reproduce"} <= {line.split()[0] for line in text.splitlines()}
    assert subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout == text


def test_reproduce_wants_both_folders_or_none():
    command = ["make", "-o", ".venv/.ready", "reproduce", "DATA=somewhere"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "give both DATA" in result.stderr


def test_ci_runs_the_readmes_test_command():
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_constraints_are_versions_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)


def test_every_dependency_is_constrained_and_its_bound_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    constrained = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()
    }
    for requirement in project["dependencies"]:
        name = re.match(r"[A-Za-z0-9-]+", requirement).group()
        assert name.lower() in constrained, name
        assert re.search(r"[<>=]", requirement), f"{name} has no bound"
    block = text.split("dependencies = [")[1].split("\n]")[0].strip().splitlines()
    previous = ""
    for line in block:
        if line.strip().startswith('"') and not previous.strip().startswith('"'):
            assert previous.strip().startswith("#"), f"no reason above {line.strip()}"
        previous = line


def test_the_commands_of_the_readme_exist_with_their_options(run_gazelit):
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("gazelit ")]
    assert len(commands) >= 5
    for _, name, *arguments in commands:
        assert name in {**COMMANDS, **TRAINER_COMMANDS}
        for argument in arguments:
            if argument.endswith(".yaml") and "/" not in argument:
                assert (ROOT / "configs" / argument).is_file()
    for target in re.findall(r"(?:`|^)make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name
)
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target
