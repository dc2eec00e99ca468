"""Teachers in a training: refusals, records, and that only the student is trained and saved."""

import shutil

import pytest
import torch

from gazelit.checkpoints import split_guard, stamps
from gazelit.checkpoints.ancestry import print_lineage
from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.checkpoints.teachers import take_teachers
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import LoaderOptions, SplitOptions
from gazelit.errors import InputError
from gazelit.files import sha256_file
from gazelit.losses import Distillation
from gazelit.models import ClassificationNetwork, ContrastiveNetwork, DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning, SupervisedFinetuning
from tests.stages.test_checkpointing import Ends, fit
from tests.tiny import save_untrained, tiny

SMALL = EncoderSpec("res-se", options={"widths": [4, 4, 8], "reduction": 4})
GAZE = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})
DATA = {
    "source": "egd-cxr", "split_sha256": "aaaa", "split_seed": 0, "size": [32, 32],
    "class_names": ["Normal", "CHF", "pneumonia"], "exclusive": True,
}  # fmt: skip


def dual(**options):
    return DualEncoderUNet(SMALL, GAZE, [8, 4], **options)


def image_only():
    return ClassificationNetwork(SMALL, 3)


def save(path, network, data=DATA, **changes):
    return save_untrained(path, network, data, **changes)


@pytest.fixture
def teacher(store, tmp_path):
    """A teacher of the store's own data, whose classifier pools by gaze."""
    torch.manual_seed(11)
    data = GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0))
    return save(tmp_path / "teacher.ckpt", dual(classifier_pooling="gaze"), data.provenance)


@pytest.mark.parametrize("kind", ["joint", "supervised"])
def test_the_teacher_is_neither_trained_nor_saved_and_without_weight_changes_nothing(kind, teacher, store, tmp_path):
    before = sha256_file(teacher)
    trained = {}
    for weight in (None, 0.0, 1.0):

        def make(weight=weight):
            options = {"outputs": ["diagnosis"], "sees_gaze": True}
            auxiliary = [] if weight is None else [Distillation(teacher, weight=weight, temperature=2.0, **options)]
            if kind == "supervised":
                return SupervisedFinetuning(image_only(), auxiliary=auxiliary)
            return JointFinetuning(dual(), auxiliary=auxiliary)

        stage = fit(store, tmp_path / str(weight), make, epochs=2)
        trained[weight] = torch.load(tmp_path / str(weight) / "checkpoints" / "last.ckpt", weights_only=True)
        assert not any(module.training for loss in stage.auxiliary for module in loss.teacher.network.modules())
    weights = {weight: checkpoint["state_dict"] for weight, checkpoint in trained.items()}
    assert weights[None].keys() == weights[0.0].keys() == weights[1.0].keys()
    assert all(torch.equal(value, weights[0.0][key]) for key, value in weights[None].items())
    assert not all(torch.equal(value, weights[1.0][key]) for key, value in weights[None].items())
    counts = {
        weight: sum(len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"])
        for weight, checkpoint in trained.items()
    }
    assert counts[None] == counts[1.0]
    assert sha256_file(teacher) == before
    assert trained[None][STAMP_KEY]["teachers"] == []
    (record,) = trained[1.0][STAMP_KEY]["teachers"]
    assert (record["sha256"], record["taught"], record["sees_gaze"]) == (before, ["diagnosis"], True)
    assert record["stage"] == "joint"
    assert str(tmp_path) not in str(trained[1.0][STAMP_KEY])


def test_a_killed_training_with_teachers_ends_in_the_same_bytes(teacher, store, tmp_path):
    def make():
        return JointFinetuning(dual(), auxiliary=[Distillation(teacher, outputs=["diagnosis", "saliency"])])

    fit(store, tmp_path / "run", make)
    shutil.move(tmp_path / "run", tmp_path / "undisturbed")
    with pytest.raises(RuntimeError, match="killed"):
        fit(store, tmp_path / "run", make, callbacks=[Ends(epoch=2)])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    kept = shutil.copy(last, tmp_path / "kept.ckpt")
    fit(store, tmp_path / "run", make, resume=last)
    for file in ("best.ckpt", "last.ckpt"):
        assert (tmp_path / "run" / "checkpoints" / file).read_bytes() == (
            tmp_path / "undisturbed" / "checkpoints" / file
        ).read_bytes(), file
    # The record of the weights' teachers stays when the resumed run has no teacher.
    fit(store, tmp_path / "on", lambda: JointFinetuning(dual()), resume=kept)
    stamp = stamps.read_checkpoint(tmp_path / "on" / "checkpoints" / "last.ckpt")[STAMP_KEY]
    assert [record["sha256"] for record in stamp["teachers"]] == [sha256_file(teacher)]


def take(path, data=DATA, measures=("diagnosis", "saliency"), allowed=False, **options):
    objective = Distillation(path, **options)
    (record,) = take_teachers([objective], data, measures, allowed)
    return objective, record


def test_a_teacher_has_the_weights_of_its_checkpoint_and_is_read_once(tmp_path):
    network = dual()
    path = save(tmp_path / "a.ckpt", network)
    torch.manual_seed(4)
    both = [Distillation(path, outputs=[output]) for output in ("diagnosis", "saliency")]
    records = take_teachers(both, DATA, ("diagnosis", "saliency"))
    assert [record["taught"] for record in records] == [["diagnosis"], ["saliency"]]
    assert both[0].teacher is both[1].teacher
    taught = both[0].teacher.network.state_dict()
    assert all(torch.equal(value, taught[key]) for key, value in network.state_dict().items())
    drawn = torch.rand(3)
    torch.manual_seed(4)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (dual, {"data": {**DATA, "class_names": ["CHF", "Normal", "pneumonia"]}}, "class_names .* in the same order"),
        (dual, {"data": {**DATA, "exclusive": False}}, "exclusive True, the data have False"),
        (dual, {"data": {**DATA, "size": [64, 32]}}, r"size \[32, 32\], the data have \[64, 32\]"),
        (dual, {"data": {**DATA, "split_sha256": "bbbb"}}, "may have seen patients of this test split"),
        (dual, {"outputs": ["saliency"], "measures": ("diagnosis",)}, "the stage that learns predicts diagnosis"),
        (image_only, {"outputs": ["saliency"]}, "shall teach saliency, but the teacher predicts none"),
        (lambda: dual(classes=None), {}, "shall teach diagnosis, but the teacher predicts none"),
        (lambda: ContrastiveNetwork(SMALL), {}, "shall teach diagnosis, but the teacher predicts none"),
        (dual, {"sees_gaze": True}, "classifier does not pool by gaze"),
        (image_only, {"sees_gaze": True}, "classifier does not pool by gaze"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_by_name(make, options, message, tmp_path):
    path = save(tmp_path / "a.ckpt", make())
    with pytest.raises(InputError, match=rf"^{path}: .*{message}") as caught:
        take(path, **options)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_another_split_can_be_allowed_and_is_then_recorded(tmp_path):
    path = save(tmp_path / "a.ckpt", dual())
    resplit = {**DATA, "split_sha256": "bbbb"}
    _, record = take(path, resplit, allowed=True)
    assert "this is allowed" in record["split_note"]
    # A training that goes on from the student is warned too, because the student has learned from that teacher.
    student = stamps.make_stamp(
        stage="supervised", network=image_only(), data=resplit, seed=1, parent=None, teachers=[record]
    )
    child = stamps.make_stamp(stage="joint", network=dual(), data=resplit, seed=1, parent={**student, "sha256": "0"})
    for stamp in (student, child):
        with pytest.raises(InputError, match="stage 'joint' was trained on another split"):
            split_guard.check_split("b.ckpt", stamp, resplit)
    assert [source["stage"] for source in stamps.sources(child)] == ["joint", "supervised", "joint"]


class Payload:
    def __reduce__(self):
        return (open, ("trace", "w"))


HOSTILE = {
    "code": lambda checkpoint: checkpoint.update(extra=Payload()),
    "no stamp": lambda checkpoint: checkpoint.pop(STAMP_KEY),
    "a stranger's class": lambda checkpoint: checkpoint[STAMP_KEY]["network"].update(class_path="os.system"),
    "no weights": lambda checkpoint: checkpoint.update(state_dict={}),
    "teachers of another type": lambda checkpoint: checkpoint[STAMP_KEY].update(teachers=[3]),
    "endless teachers": lambda checkpoint: checkpoint[STAMP_KEY].update(
        teachers=[{**checkpoint[STAMP_KEY], "sha256": "0"}] * 100
    ),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "cut", "missing"])
def test_a_damaged_or_hostile_teacher_is_one_line_and_runs_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.ckpt"
    save(path, dual())
    checkpoint = torch.load(path, weights_only=True)
    if kind in HOSTILE:
        HOSTILE[kind](checkpoint)
        torch.save(checkpoint, path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    with pytest.raises(InputError, match=rf"^{path}: ") as caught:
        take(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


def test_from_the_command_line_a_teacher_is_checked_recorded_and_not_needed_for_the_test(store, run_gazelit, tmp_path):
    data = GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0), split=SplitOptions(seed=1))
    save(tmp_path / "teacher.ckpt", image_only(), data.provenance, stage="supervised")
    command = [
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1", "--checkpoint.dirpath=run/checkpoints", "--trainer.logger=false",
        "--model.auxiliary+=gazelit.losses.Distillation", "--model.auxiliary.checkpoint=teacher.ckpt",
        "--model.auxiliary+=gazelit.losses.AttentionConsistencyLoss", "--model.auxiliary.weight=0.5",
    ]  # fmt: skip
    assert "teacher.ckpt: stage 'supervised' was trained on another split" in run_gazelit(*command, code=2)
    assert not (tmp_path / "run").exists()
    printed = run_gazelit(*command, "--allow_other_split=true")
    assert "teacher of diagnosis: stage 'supervised' (checkpoint " in printed
    assert "this is allowed" in printed
    header = (tmp_path / "run" / "epochs.csv").read_text().splitlines()[0].split(",")
    assert {"train/teacher_diagnosis_loss", "train/attention_loss"} <= set(header)
    assert not [name for name in header if name.startswith("val/") and "teacher" in name]
    digest = sha256_file(tmp_path / "teacher.ckpt")
    (tmp_path / "teacher.ckpt").unlink()
    tested = ["test", "--config=run/config.yaml", "--trainer.logger=false", "--trainer.default_root_dir=tested"]
    run_gazelit(*tested)
    stamp = stamps.read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")[STAMP_KEY]
    assert [teacher["sha256"] for teacher in stamp["teachers"]] == [digest]


def test_the_lineage_names_teachers_and_their_tasks(tmp_path, capsys):
    _, record = take(save(tmp_path / "a.ckpt", dual(classifier_pooling="gaze")), sees_gaze=True)
    save(tmp_path / "b.ckpt", image_only(), stage="supervised", teachers=[record])
    print_lineage([str(tmp_path / "b.ckpt")])
    printed = capsys.readouterr().out
    assert "joint (teacher)\n  teaches     diagnosis, seeing the image and the reader's gaze\n" in printed
    assert record["sha256"] in printed


def test_a_network_that_goes_on_from_its_own_teacher_has_a_stamp_of_bounded_length(tmp_path):
    path = save(tmp_path / "0.ckpt", dual())
    for generation in range(1, 8):
        stage = JointFinetuning(dual(), auxiliary=[Distillation(path)])
        stage.take_over(path)
        stage.take_teachers(DATA)
        path = save(tmp_path / f"{generation}.ckpt", stage.network, parent=stage.stamp()["parent"])
        checkpoint = torch.load(path, weights_only=True)
        checkpoint[STAMP_KEY] = {**checkpoint[STAMP_KEY], "teachers": stage.stamp()["teachers"]}
        torch.save(checkpoint, path)
    stamp = stamps.read_checkpoint(path)[STAMP_KEY]
    assert len(list(stamps.sources(stamp))) == 2 * 7 + 1
