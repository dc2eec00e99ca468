"""Set-up, and the README's promises."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gazelit.cli.main import COMMANDS, TRAINER_COMMANDS
from tests.tiny import tiny

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


def readme_commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def test_every_command_the_readme_names_exists():
    for _, name, *_ in (command for command in readme_commands() if command[0] == "gazelit"):
        assert name in {**COMMANDS, **TRAINER_COMMANDS}
    for target in re.findall(r"(?:`|^)make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_the_readmes_steps_run_one_after_another(cohort, run_gazelit, tmp_path):
    commands = [command[1:] for command in readme_commands() if command[0] == "gazelit"]
    assert [command[0] for command in commands] == ["prepare", "inspect", "fit", "fit", "fit", "test"]
    stage = 0
    for name, *arguments in commands:
        paths = {"path/to/egd-cxr/1.0.0": cohort / "egd-cxr", "path/to/mimic-cxr/2.0.0": cohort / "mimic-cxr"}
        arguments = [str(paths.get(argument, argument)) for argument in arguments]
        small = []
        if name == "prepare":
            small = ["--size=[64, 64]", "--workers=1"]
        elif name == "fit":
            stage += 1
            small = [*tiny(stage, "stores/egd-cxr"), "--data.downscale=1", "--trainer.max_epochs=1"]
        run_gazelit(name, *arguments, *small)
    assert (tmp_path / "runs" / "egd" / "stage3" / "test" / "predictions.parquet").is_file()


def test_make_reproduce_ends_in_a_report(tmp_path):
    command = [
        *("make", "-o", ".venv/.ready", "reproduce", f"BIN={Path(sys.executable).parent}", f"OUT={tmp_path}"),
        *("CASES=24", "OPTIONS=--overrides=[--trainer.max_epochs=1]"),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "run" / "report.md").read_text()
    assert "SYNTHETIC" in text
    for line in ("cooperative", "paper", "diagnosis_alone", "saliency_alone", "oracle", "centre bias"):
        assert re.search(rf"^\| {line} ", text, re.M), line
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("done before, skipped") == 13


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name
)
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target
