"""Shell completion, run by bash itself."""

import subprocess

import pytest

from gazelit.cli.main import COMMANDS, TRAINER_COMMANDS, main

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$(complete -p gazelit | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    from contextlib import redirect_stdout

    path = tmp_path_factory.mktemp("completion") / "gazelit"
    with path.open("w") as file, redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["st"], ["status"]),
        (["fit", "--conf"], ["--config"]),
        (["fit", "--config", "stag"], ["stage1.yaml", "stage2.yaml", "stage3.yaml"]),
        (["fit", "--trainer.max"], ["--trainer.max_epochs"]),
        (["synth", "--difficulty", "h"], ["hard"]),
        (["run", "pipelines/ex"], ["pipelines/example.yaml"]),
        (["configs", "sh"], ["show"]),
        (["test", "--ckpt_path", "mo"], ["model.ckpt"]),
    ],
)
def test_bash_completes(typed, offered, script, tmp_path):
    (tmp_path / "model.ckpt").touch()
    result = subprocess.run(["bash", "-c", ASK, "ask", str(script), "gazelit", *typed], cwd=tmp_path,
                            capture_output=True, text=True, check=True)  # fmt: skip
    assert result.stdout.split() == offered


def test_every_command_is_offered(script, tmp_path):
    result = subprocess.run(["bash", "-c", ASK, "ask", str(script), "gazelit", ""], cwd=tmp_path,
                            capture_output=True, text=True, check=True)  # fmt: skip
    assert {*COMMANDS, *TRAINER_COMMANDS} <= set(result.stdout.split())


def test_zsh_has_a_script_and_other_shells_an_error(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef gazelit")
    assert main(["completion", "fish"]) == 2
    assert "'fish' is none of bash, zsh" in capsys.readouterr().err
