"""Best epochs and regrets against curves worked out by hand, and malformed curves."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.errors import InputError
from gazelit.evaluation.asynchrony import read_curve, trainings
from gazelit.reporting.sections.training import asynchrony_blocks
from tests.evaluation.test_compare import lines_of, result
from tests.evaluation.test_reports import two_arms, written

HEADER = "epoch,step,val/diagnosis_loss,val/saliency_loss,val/selection,val/auroc_macro,val/cc,train/sigma_diagnosis"
#: Diagnosis is best at epoch 1 by its loss (0.7) and at 3 by its AUC, saliency at 3 by loss (0.2) and CC; the sum of
#: the losses at 2 (0.8 + 0.3 = 1.1).
ROWS = [
    "0,9,1.1,0.9,2.0,0.50,0.40,1.00",
    "1,18,0.7,0.6,1.3,0.80,0.55,0.95",
    "2,27,0.8,0.3,1.1,0.75,0.70,0.90",
    "3,36,1.0,0.2,1.2,0.85,0.75,0.88",
]


def write_curve(folder, rows=ROWS, header=HEADER):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "epochs.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "epochs.csv"


def model(run, arm="joint", seed=0, stages=("joint",), epoch=2):
    best = run / stages[-1] / "checkpoints" / "best.ckpt"
    return replace(result(arm, seed), run=run, stages=list(stages), epoch=epoch, checkpoint=best)


def found(run, rows=ROWS, header=HEADER, **options):
    write_curve(run / "joint", rows, header)
    return trainings([model(run, **options)])


def test_best_epochs_and_regrets_by_hand(tmp_path):
    (joint,) = found(tmp_path)
    assert (joint.stage, joint.epochs, joint.kept, joint.apart) == ("joint", 4, 2, 2)
    diagnosis, saliency = joint.tasks["diagnosis"], joint.tasks["saliency"]
    assert (diagnosis.best_epoch, diagnosis.best_epoch_by_metric) == (1, 3)
    assert diagnosis.loss_regret == pytest.approx(0.8 - 0.7)
    assert diagnosis.metric_regret == pytest.approx(0.85 - 0.75)
    assert (saliency.best_epoch, saliency.best_epoch_by_metric) == (3, 3)
    assert saliency.loss_regret == pytest.approx(0.3 - 0.2)
    assert saliency.metric_regret == pytest.approx(0.75 - 0.70)
    assert joint.learned == {"sigma_diagnosis": (1.0, 0.9, 0.88)}


def test_over_seeds_the_report_has_mean_and_spread(tmp_path):
    write_curve(tmp_path / "seed-0" / "joint")
    # With the second seed diagnosis is best where saliency is, and the kept checkpoint loses 0.3 of it.
    write_curve(tmp_path / "seed-1" / "joint", [*ROWS[:3], "3,36,0.5,0.2,1.2,0.85,0.75,0.88"])
    joint = trainings([model(tmp_path, seed=seed, stages=[f"seed-{seed}/joint"]) for seed in (0, 1)])
    text = "\n".join(lines_of(asynchrony_blocks(joint, tmp_path / "figures")))
    # Losses 0.1 and 0.3; best epochs 2 and 4 counted from 1; the AUC's regret is 0.1 in both.
    mean, spread = 0.2, np.std([0.1, 0.3], ddof=1)
    row = f"| joint | diagnosis | 2 | 4 | 3.0 (2 to 4) | 4 | 3 | {mean:.3f} ± {spread:.3f} | 0.100 ± 0.000 macro AUC |"
    assert row in text
    assert "| joint | saliency | 2 | 4 | 4 | 4 | 3 | 0.100 ± 0.000 | 0.050 ± 0.000 CC |" in text
    assert "- joint: the tasks' best epochs (by loss) are 1.0 (from 0 to 2) epochs apart, of 4." in text
    assert "Qiu, Rivaz and Xiao (2025)" in text


def test_a_report_of_a_joint_arm_and_others_has_rows_of_the_joint_one_alone(tmp_path):
    write_curve(tmp_path / "run" / "joint")
    write_curve(tmp_path / "run" / "alone", ["0,9,1.0,0.5", "1,18,0.9,0.6"], "epoch,step,val/loss,val/auroc_macro")
    results = [model(tmp_path / "run"), model(tmp_path / "run", "alone", stages=["alone"])]
    joint = trainings(results)
    assert [arm_found.arms for arm_found in joint] == [("joint",)]
    text = written(tmp_path, two_arms(2), joint=joint)
    assert "| joint | diagnosis | 1 | 4 | 2 | 4 | 3 | 0.100 | 0.100 macro AUC |" in text
    assert (tmp_path / "figures" / "asynchrony.png").stat().st_size > 5000
    about = json.loads((tmp_path / "metrics.json").read_text())["asynchrony"]
    assert [(each["arms"], each["stage"], each["kept_epoch"]) for each in about] == [(["joint"], "joint", 2)]
    assert about[0]["tasks"]["diagnosis"]["auroc_macro_regret"] == pytest.approx(0.1)
    table = pd.read_csv(tmp_path / "report.csv").set_index("metric")
    assert table.loc["asynchrony/joint/diagnosis/loss_regret", "value"] == pytest.approx(0.1)
    assert table.loc["asynchrony/joint/epochs_apart", "value"] == 2
    without = written(tmp_path / "without", two_arms(2))
    assert "Asynchrony" not in without
    assert json.loads((tmp_path / "without" / "metrics.json").read_text())["asynchrony"] == []


def test_a_stage_that_arms_share_stands_once_with_the_epoch_that_was_handed_over(tmp_path):
    write_curve(tmp_path / "first")
    write_curve(tmp_path / "second")
    handed = tmp_path / "first" / "checkpoints" / "best.ckpt"
    handed.parent.mkdir()
    stamp = {**STAMP, "stage": "joint"}
    torch.save({"epoch": 1, "state_dict": {}, STAMP_KEY: stamp}, handed)
    early, late = model(tmp_path, "early", stages=["first", "second"]), model(tmp_path, "late", stages=["first", "x"])
    first, second = trainings([early, late])
    assert (first.arms, first.kept) == (("early", "late"), 1)
    assert (second.arms, second.kept) == (("early",), 2)
    assert first.tasks["diagnosis"].loss_regret == 0
    assert first.tasks["saliency"].loss_regret == pytest.approx(0.6 - 0.2)
    # The checkpoint of a tested model records its epoch.
    first, _ = trainings([early, replace(late, stages=["first"], epoch=3)])
    assert first.kept == 3


STAMP = {
    "stage": "joint", "network": {"class_path": "a.B", "init_args": {}}, "components": {}, "version": "0", "seed": 0,
    "versions": {"torch": "2", "lightning": "2"}, "data": {}, "parent": None,
}  # fmt: skip


def test_one_epoch_is_best_and_kept(tmp_path):
    (joint,) = found(tmp_path, ROWS[:1], epoch=0)
    assert joint.apart == 0
    assert [task.loss_regret for task in joint.tasks.values()] == [0, 0]
    text = written(tmp_path / "report", two_arms(1), joint=[joint])
    assert "| joint | diagnosis | 1 | 1 | 1 | 1 | 1 | 0.000 | 0.000 macro AUC |" in text
    assert (tmp_path / "report" / "figures" / "asynchrony.png").is_file()


def test_nan_values_are_skipped_and_an_unknown_regret_is_a_dash(tmp_path):
    rows = ["0,9,nan,0.9,2.0,,0.40,", "1,18,0.7,,1.3,,0.55,0.95", "2,27,inf,0.3,1.1,,0.70,0.90", "3,36,1.0,0.2,1.2,,,"]
    (joint,) = found(tmp_path, rows)
    diagnosis, saliency = joint.tasks["diagnosis"], joint.tasks["saliency"]
    assert diagnosis.best_epoch == 1
    assert diagnosis.best_epoch_by_metric is None
    assert not np.isfinite(diagnosis.loss_regret)
    assert (saliency.best_epoch_by_metric, saliency.metric_regret) == (2, 0)
    assert joint.learned["sigma_diagnosis"] == (0.95, 0.9, 0.9)
    text = written(tmp_path / "report", two_arms(1), joint=[joint])
    assert "| joint | diagnosis | 1 | 4 | 2 | – | 3 | – | – |" in text
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["asynchrony"][0]["tasks"]["diagnosis"] == {
        "best_epoch": 1, "loss_regret": None, "best_epoch_by_auroc_macro": None, "auroc_macro_regret": None
    }  # fmt: skip


def test_a_curve_without_metrics_or_with_a_checkpoint_of_unknown_epoch(tmp_path):
    (joint,) = found(tmp_path, [row.rsplit(",", 3)[0] for row in ROWS], HEADER.rsplit(",", 3)[0], epoch=None)
    assert joint.kept is None
    assert joint.learned == {}
    assert joint.tasks["diagnosis"].best_epoch == 1
    text = "\n".join(lines_of(asynchrony_blocks([joint], tmp_path / "figures")))
    assert "| joint | diagnosis | 1 | 4 | 2 | – | – | – | – |" in text
    assert "What the weighting" not in text
    # A stage with the loss of a single task, or without a curve, is not a joint training.
    assert found(tmp_path, ["0,1,0.5"], "epoch,val/selection,val/saliency_loss") == []
    assert trainings([model(tmp_path / "nothing")]) == []


def test_a_resumed_run_whose_curve_repeats_epochs_counts_the_last_of_each(tmp_path):
    repeated = [*ROWS[:3], "1,18,0.6,0.6,1.2,0.81,0.55,0.95", "2,27,0.9,0.3,1.2,0.75,0.70,0.90"]
    curve = read_curve(write_curve(tmp_path / "joint", repeated))
    assert curve["epoch"].tolist() == [0, 1, 2]
    (joint,) = found(tmp_path, repeated)
    assert joint.tasks["diagnosis"].loss_regret == pytest.approx(0.9 - 0.6)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (HEADER.replace("epoch,", "when,"), ROWS, "has no column epoch"),
        (HEADER, [], "has no epochs"),
        (HEADER, [ROWS[0], ROWS[1].replace("0.7", "much")], r"row 2, column val/diagnosis_loss: is no number"),
        (HEADER, [ROWS[0].replace("0,9", "0.5,9", 1)], "column epoch: must be whole numbers"),
        (HEADER, [ROWS[0].replace("0,9", ",9", 1)], "column epoch: must be whole numbers"),
        ("", [], "cannot be read as a table"),
        ("a,b", ["1,2", "1,2,3,4"], "cannot be read as a table"),
    ],
)
def test_a_malformed_curve_is_one_error(header, rows, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        found(tmp_path, rows, header)
    assert str(tmp_path / "joint" / "epochs.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_record_of_one_model_has_the_section(tmp_path):
    written(tmp_path / "out", [result("joint", 0)], joint=found(tmp_path))
    assert "## Asynchrony of the tasks" in (tmp_path / "out" / "report.md").read_text()
    assert 'alt="Validation losses of the tasks' in (tmp_path / "out" / "report.html").read_text()
    table = pd.read_csv(tmp_path / "out" / "report.csv").set_index("metric")
    assert table.loc["asynchrony/joint/saliency/cc_regret", "value"] == pytest.approx(0.05)
