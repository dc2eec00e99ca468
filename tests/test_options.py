"""Lists on the command line with and without brackets."""

from typing import Literal

import pytest

from gazelit.cli.main import main
from gazelit.cli.options import bracket_lists, complete_flags
from gazelit.data import sources
from gazelit.data.store.prepare import prepare


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--size", "64,32"], ["--size", "[64,32]"]),
        (["--size=64,32"], ["--size=[64,32]"]),
        (["--size", "[64, 32]"], ["--size", "[64, 32]"]),
        (["--source.labels", "a,b", "--out", "s"], ["--source.labels", "[a,b]", "--out", "s"]),
        (["--source.root", "a,b", "--out=c,d"], ["--source.root", "a,b", "--out=c,d"]),
        (["--size", "--strict=true", "64,32"], ["--size", "--strict=true", "64,32"]),
    ],
)
def test_finding_d13_lists_are_taken_without_brackets(given, expected):
    assert bracket_lists(given, prepare, sources) == expected


def test_finding_d13_a_size_with_a_comma_makes_a_store(manifest, run_gazelit, tmp_path):
    images = str(manifest / "images.csv")
    run_gazelit(
        *["prepare", "--source", "Manifest", "--source.images", images, "--source.labels", "Normal,CHF"],
        *["--size", "64,32", "--out", "s", "--workers", "1"],
    )
    assert (tmp_path / "s" / "store.json").is_file()


def test_a_flag_needs_no_value_and_takes_one():
    def command(films: bool = False, strict: bool = False, out: str = "") -> None: ...

    arguments = ["--films", "--strict", "false", "--out", "true", "run"]
    assert complete_flags(arguments, command) == ["--films=true", "--strict", "false", "--out", "true", "run"]
    assert complete_flags(["run", "--films"], command) == ["run", "--films=true"]
    assert complete_flags(["--films=false"], command) == ["--films=false"]


def test_a_flag_may_take_words_and_a_file_may_follow():
    def command(files: list[str], dicom: bool | list[Literal["sr", "sc"]] = False, out: str = "") -> None: ...

    for given, expected in (
        (["--dicom", "sr,sc", "film"], ["--dicom", "[sr,sc]", "film"]),
        (["--dicom", "sr"], ["--dicom", "[sr]"]),
        (["--dicom=sr"], ["--dicom=[sr]"]),
        (["--dicom=[sr,sc]"], ["--dicom=[sr,sc]"]),
        (["--dicom", "film.dcm"], ["--dicom=true", "film.dcm"]),
        (["--dicom", "true", "film"], ["--dicom", "true", "film"]),
        (["--dicom=false", "--out", "sr"], ["--dicom=false", "--out", "sr"]),
        (["film", "--dicom"], ["film", "--dicom=true"]),
    ):
        assert bracket_lists(complete_flags(given, command), command, None) == expected


def test_a_single_value_of_a_list_needs_no_brackets():
    def command(runs: list[str] | None = None, seeds: int | list[int] = 1) -> None: ...

    assert bracket_lists(["--runs", "a b", "--seeds", "3"], command, None) == ["--runs", "[a b]", "--seeds", "3"]
    assert bracket_lists(["--runs=a", "--seeds=3"], command, None) == ["--runs=[a]", "--seeds=3"]
    assert bracket_lists(["--runs", "null"], command, None) == ["--runs", "null"]


def test_no_options_at_all_are_none():
    def command(films: bool = False) -> None: ...

    assert complete_flags([], command) == []


def test_a_command_without_options_says_what_it_needs(run_gazelit):
    assert "has nothing to show; give --ckpt, --store, --runs" in run_gazelit("app", code=2)


def test_a_trailing_underscore_of_a_parameter_is_dropped_in_its_option(capsys):
    with pytest.raises(SystemExit):
        main(["infer", "--help"])
    shown = capsys.readouterr().out
    assert "--from FROM" in shown
    assert "from_" not in shown.lower()
    line = ["infer", "--ckpt=x", "--out=y", "--study=1"]
    mistakes = {
        ("--from",): "--from: has no value; write --from=VALUE",
        ("--from=ftp://x",): "--from: 'ftp://x' is no http or https address",
        ("--fron=x",): "--fron: there is no such option; did you mean --from?",
        ("--from_=x",): "--from_: there is no such option; did you mean --from?",
    }
    for option, message in mistakes.items():
        assert main([*line, *option]) == 2
        assert f"gazelit: error: {message}" in capsys.readouterr().err
