"""The key of a step of a pipeline, by which it counts as done."""

import io
import json

import pytest
from rich.console import Console

from gazelit.errors import InputError
from gazelit.files import read_json, write_json
from gazelit.runs import step_key, steps
from gazelit.runs.members import members_of
from gazelit.runs.parallel import Share


@pytest.fixture
def step(tmp_path, monkeypatch):
    """Runs a step whose process does nothing; returns what was printed."""

    class Done:
        cpu_seconds = 0.0
        poll = staticmethod(lambda: 0)

    started = []
    monkeypatch.setattr(steps, "OwnProcess", lambda arguments, *_: started.append(arguments) or Done())

    def run(*arguments, accept_versions=False):
        console = Console(file=io.StringIO(), width=500)
        (tmp_path / "run" / "stage").mkdir(parents=True, exist_ok=True)
        with (tmp_path / "lock").open("w") as lock:
            single = steps.Step(tmp_path / "run" / "stage", ["fit", *arguments], {})
            steps.run_step(single, "[1/1]", steps.Conduct(tmp_path / "run", console, lock, accept_versions), Share())
        return console.file.getvalue()

    run.started = started
    return run


@pytest.mark.parametrize("where", ["option", "nested option", "configuration"])
def test_finding_c7_a_changed_file_of_an_option_is_another_setting(where, step, tmp_path):
    split, config = tmp_path / "split.json", tmp_path / "config.yaml"
    split.write_text("{}")
    config.write_text(json.dumps({"data": {"split_file": str(split) if where == "configuration" else None}}))
    arguments = [f"--config={config}"]
    arguments += {
        "option": [f"--data.split.file={split}"],
        "nested option": [f"--model.network.encoder={{name: densenet121, weights: {split}}}"],
        "configuration": [],
    }[where]
    step(*arguments)
    assert "done before, skipped" in step(*arguments)
    split.write_text('{"edited": "in place"}')
    with pytest.raises(InputError, match="made with other settings"):
        step(*arguments)
    assert len(step.started) == 1


def test_finding_c7_other_versions_are_named_and_refused_unless_accepted(step, tmp_path):
    step("--a=1")
    done = tmp_path / "run" / "stage" / "done.json"
    record = read_json(done)
    assert record["versions"] == step_key.versions()
    write_json(done, {**record, "versions": {**record["versions"], "torch": "1.0.0"}})
    with pytest.raises(InputError, match=r"made with torch 1\.0\.0, now .*--accept_versions=true"):
        step("--a=1")
    assert "torch 1.0.0, now" in step("--a=1", accept_versions=True)
    # Folders of before versions were recorded.
    write_json(done, {key: value for key, value in record.items() if key != "versions"})
    assert "done before, skipped" in step("--a=1")


@pytest.mark.parametrize("folds", [None, 3])
def test_finding_c17_a_seed_stays_where_it_was_trained(folds, tmp_path):
    def trained(seed, seeds):
        members = members_of(tmp_path, seed, seeds, folds)
        for member in members:
            write_json(member.folder / "joint" / "started.json", {"command": " ".join(["gazelit", *member.options])})
        return {(member.seed, member.fold): member.folder for member in members}

    alone = trained(0, 1)
    several = trained(0, 5)
    assert {key: several[key] for key in alone} == alone
    assert len(set(several.values())) == 5 * (folds or 1)
    assert trained(3, 1).items() <= several.items()
    assert trained(0, 5) == several
