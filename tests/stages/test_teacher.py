"""Teacher forcing that gives way to the prediction."""

import pandas as pd
import pytest
import torch

from gazelit.errors import InputError
from gazelit.stages.teacher import TeacherForcing
from tests.tiny import tiny


def test_the_share_moves_in_a_straight_line_and_stays():
    schedule = TeacherForcing(start=1.0, end=0.2, epochs=5)
    assert [schedule.share(epoch) for epoch in range(7)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert [TeacherForcing().share(epoch) for epoch in (0, 9)] == [1, 1]


def test_films_that_are_not_drawn_have_no_density():
    heatmap = torch.rand(1000, 1, 2, 3)
    torch.manual_seed(0)
    given = TeacherForcing(start=0.3, end=0.3).attention(heatmap, 0)
    drawn = given.flatten(1).sum(1) > 0
    assert torch.equal(given[drawn], heatmap[drawn])
    # 3.5 standard deviations of a share of 0.3 in 1,000 draws.
    assert drawn.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(TeacherForcing().attention(heatmap, 3), heatmap)
    assert not TeacherForcing(start=1, end=0, epochs=2).attention(heatmap, 1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": 1.5}, "within 0 and 1"), ({"end": -0.1}, "within 0 and 1"), ({"epochs": 0}, "at least 1")],
)
def test_impossible_schedules_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TeacherForcing(**options)


def test_a_joint_stage_follows_the_schedule_and_logs_it(store, run_gazelit, tmp_path):
    run_gazelit(
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.logger=false",
        "--model.network.classifier_pooling=[gaze, top]", "--model.network.classifier_strides=[1, 4]",
        "--model.teacher_forcing={start: 1.0, end: 0.0, epochs: 2}", "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    assert pd.read_csv(tmp_path / "run" / "epochs.csv")["train/teacher_forcing"].tolist() == [1.0, 0.0]
    run_gazelit("test", "--config=run/config.yaml", "--trainer.logger=false", "--trainer.default_root_dir=tested")
