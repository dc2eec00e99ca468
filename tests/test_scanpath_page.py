"""docs/scanpaths.md: its commands and its Python run as they are printed there."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from gazelit.cli.main import main
from tests.gazesearch_files import records, write

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scanpaths.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(mimic, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scanpaths")
    (folder / "mimic-cxr-jpg").symlink_to(mimic / "mimic-cxr-jpg")
    (folder / "store").symlink_to(store)
    films = pd.read_csv(mimic / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)["dicom_id"]
    shared = records(films[:9])
    trained = [row | {"split": "train"} for row in records(films[9:18], seed=1)]
    write(folder / "gazesearch.json", shared + trained)
    model = [{key: row[key] for key in ("name", "task", "X", "Y", "T")} for row in shared if row["split"] == "test"]
    write(folder / "model.json", model)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(command)
    assert program == "gazelit"
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    if "--insist" in command:
        assert "model  " in printed
        assert printed.index("Split without shared films") < printed.index("Official split")
    if "--out again" in command:
        assert json.loads((folder / "again" / "store.json").read_text())["source"] == "pysaliency"


def test_the_pages_python_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(block, "scanpaths.md", "exec"), {})
    assert "ScanMatch (16 × 12, 50 ms, gap 0, threshold 3.5, over the longer" in capsys.readouterr().out


def test_the_grid_decides_as_the_page_says():
    import gazelit.metrics.scanpath as scanpath

    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    namespace = {}
    exec(compile(block, "scanpaths.md", "exec"), namespace)
    reader, model = namespace["reader"], namespace["model"]
    scores = [scanpath.scanmatch(model, reader, size=(224, 224), bins=bins) for bins in ((8, 6), (32, 24))]
    said = re.search(r"The same two paths score ([\d.]+) at 8 × 6 and ([\d.]+) at 32 × 24", PAGE).groups()
    assert [f"{score:.2f}" for score in scores] == list(said)


def test_every_function_of_the_library_is_on_the_page():
    import gazelit.metrics.scanpath as scanpath

    for name in scanpath.__all__:
        if name[0].islower() and name not in ("every_pair", "load_clusters"):
            assert f"`{name}`" in PAGE or f"`{name}(" in PAGE or name == "conditional_scores", name
