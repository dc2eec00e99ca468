"""Teachers in pipelines are the earlier stage of the same seed and fold; they are in the step's key and the report."""

import json

import pandas as pd
import pytest
import yaml

from gazelit.checkpoints import stamps
from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.configs import find_config
from gazelit.errors import InputError
from gazelit.files import sha256_file
from gazelit.runs import pipeline
from gazelit.runs.members import members_of
from gazelit.runs.pipeline import run
from gazelit.runs.stage_steps import StageStep
from gazelit.runs.step_key import step_key
from tests.tiny import tiny

QUICK = "pipelines/quick-teachers.yaml"


def stages_of(config):
    return [StageStep(**stage) for stage in yaml.safe_load(find_config(config).read_text())["stages"]]


@pytest.mark.usefixtures("steps_here")
def test_the_shipped_pipeline_trains_students_with_the_teachers_of_their_run(store, tmp_path):
    stages = stages_of(QUICK)
    numbers = {"image_only": 1, "student": 1, "saliency_alone": 2}
    for stage in stages:
        stage.overrides += tiny(numbers.get(stage.name, 3), store)
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.logger=false"]
    out = tmp_path / "run"
    arms = {"gaze_teacher": "gaze_teacher", "student": "student"}
    run(stages, store, out, arms, overrides=short)

    def stamp(name):
        return stamps.read_checkpoint(out / name / "checkpoints" / "best.ckpt")[STAMP_KEY]

    def taught(name):
        return {(teacher["sha256"], *teacher["taught"], teacher["sees_gaze"]) for teacher in stamp(name)["teachers"]}

    digest = {stage.name: sha256_file(out / stage.name / "checkpoints" / "best.ckpt") for stage in stages}
    assert taught("student") == {(digest["gaze_teacher"], "diagnosis", True)}
    assert taught("joint_taught") == {
        (digest["image_only"], "diagnosis", False), (digest["saliency_alone"], "saliency", False)
    }  # fmt: skip
    assert taught("joint_goes_on") == {(digest["joint"], "diagnosis", False)}
    assert stamp("joint_goes_on")["parent"]["sha256"] == digest["joint"]
    assert (
        "--model.auxiliary.checkpoint=gaze_teacher/checkpoints/best.ckpt"
        in (json.loads((out / "student" / "done.json").read_text())["command"])
    )

    trained = {record["arm"]: record for record in json.loads((out / "run.json").read_text())["trained"]}
    assert trained["student"]["stages"] == ["gaze_teacher", "student"]
    seconds = [json.loads((out / name / "done.json").read_text())["seconds"] for name in ("gaze_teacher", "student")]
    assert trained["student"]["seconds"] == pytest.approx(sum(seconds))
    text = (out / "report.md").read_text()
    assert "student was taught diagnosis by a model of stage joint that saw the readers' gaze" in text
    cases = len(pd.read_parquet(out / "test_gaze_teacher" / "predictions.parquet"))
    assert "| gaze_teacher, gaze in training only | none |" in text
    assert f"| gaze_teacher, gaze at test | {cases} of {cases} |" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["arms"]) == list(arms)
    assert list(metrics["gaze_at_test"]) == ["gaze_teacher"]
    assert "gaze at test" in set(pd.read_csv(out / "report.csv")["arm"].str.partition(", ")[2])


def written(stages, out, store, content):
    """Writes the checkpoints of all stages of all members of a run; returns (member, step) of the student."""
    found = []
    for member in members_of(out, 0, 2, 3):
        for stage in stages:
            path = member.folder / stage.name / "checkpoints" / "best.ckpt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{content} {path.relative_to(out)}".encode())
        configs = {stage.name: pipeline._configs(stage, "quick") for stage in stages}
        settings = pipeline._Pipeline(stages, configs, {}, store, {}, "best", [], out)
        steps = pipeline._steps(settings, member, [])
        found += [(member, step) for step in steps if step.folder.name == "student"]
    return found


def test_every_seed_and_fold_has_its_own_teacher_and_another_one_is_another_step(store, tmp_path):
    stages = stages_of(QUICK)[:3]
    before = written(stages, tmp_path, store, "first")
    assert len(before) == 6
    for member, step in before:
        teacher = member.folder / "gaze_teacher" / "checkpoints" / "best.ckpt"
        assert f"--model.auxiliary.checkpoint={teacher}" in step.arguments
        assert step.inputs["teacher gaze_teacher"] == sha256_file(teacher)
        options = [argument for argument in step.arguments if argument.startswith("--model.auxiliary")]
        assert options[2:] == [
            '--model.auxiliary.outputs=["diagnosis"]',
            "--model.auxiliary.sees_gaze=true",
            "--model.auxiliary.temperature=2.0",
        ]
    after = written(stages, tmp_path, store, "second")
    keys = [[step_key(step.arguments, step.inputs, tmp_path) for _, step in steps] for steps in (before, after)]
    assert len({*keys[0], *keys[1]}) == 12
    # The key does not depend on the path of the run folder.
    moved = written(stages, tmp_path / "elsewhere", store, "second")
    assert [step_key(step.arguments, step.inputs, tmp_path / "elsewhere") for _, step in moved] == keys[1]


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"later": {}}, "'student' is taught by 'later', which is no earlier stage"),
        ({"student": {}}, "'student' is taught by 'student', which is no earlier stage"),
        ({"first": {"checkpoint": "x.ckpt"}}, "'first' decides the checkpoint"),
    ],
)
def test_impossible_teachers_are_refused(teachers, message, store, tmp_path):
    stages = [
        StageStep("first", "stage3.yaml"), StageStep("student", "supervised.yaml", teachers=teachers),
        StageStep("later", "stage3.yaml"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=message):
        run(stages, store, tmp_path / "run")
