"""docs/from-maps-to-scanpaths.md: its commands and its Python run one after another, on fewer and smaller films."""

import json
import re
import shlex
from pathlib import Path

import pytest

from gazelit.cli.main import main
from tests.tiny import TINY_ENCODER, TINY_SALIENCY_ENCODER

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "from-maps-to-scanpaths.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
#: Options that make a command of the page small.
SMALLER = {"--cases 400": "--cases 40", "--size 96,64": "--size 64,64"}
TINY = [
    "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.enable_progress_bar=false",
    "--data.loader.num_workers=0", f"--model.network.encoder={TINY_ENCODER}",
]  # fmt: skip
MAPS = [f"--model.network.saliency_encoder={TINY_SALIENCY_ENCODER}", "--model.network.decoder_widths=[8, 8, 8, 4, 4]"]
PATHS = ["--model.network.width=8", "--model.network.heads=2", "--model.network.longest=12", "--model.draws=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("from_maps")


def test_every_command_of_the_page_runs_in_its_order(folder, monkeypatch, lightning_imported, capsys):
    monkeypatch.chdir(folder)
    for command in COMMANDS:
        for plain, smaller in SMALLER.items():
            command = command.replace(plain, smaller)
        program, *arguments = shlex.split(command)
        assert program == "gazelit"
        if arguments[0] == "fit":
            arguments += [*TINY, *(PATHS if "scanpath.yaml" in command else MAPS)]
        if arguments[0] == "infer":
            # Only the first film by name.
            arguments[1] = str(min(Path(arguments[1]).iterdir()))
        monkeypatch.setattr("sys.argv", ["gazelit"])
        assert main(arguments) == 0, command + capsys.readouterr().err
    (result,) = [json.loads(path.read_text()) for path in Path("read").glob("*.json") if path.name != "run.json"]
    assert [path["reader"] for path in result["scanpaths"]] == [None, *"abcdefgh"]
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    capsys.readouterr()
    exec(compile(block.replace("96, 64", "64, 64"), "from-maps-to-scanpaths.md", "exec"), {})
    assert capsys.readouterr().out.startswith("3 3 10")
