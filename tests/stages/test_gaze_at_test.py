"""A classifier that is tested a second time, given the reader's gaze."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.dataset import collate
from gazelit.data.options import GazeOptions, LoaderOptions
from gazelit.deploy.inference import load_model
from gazelit.errors import InputError
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning
from tests.tiny import tiny

CLASSES = ["Normal", "CHF", "pneumonia"]


def test_both_predictions_are_those_of_the_network_and_neither_moves_the_other(store, run_gazelit, tmp_path):
    fit = [
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1", "--trainer.logger=false", "--checkpoint.dirpath=run/checkpoints",
        "--model.network.classifier_pooling=gaze", "--model.teacher_forcing={start: 0.5, end: 0.5}",
        "--model.gaze_at_test=true", "--checkpoint.monitor=val/with_gaze/brier",
    ]  # fmt: skip
    run_gazelit(*fit)
    row = pd.read_csv(tmp_path / "run" / "epochs.csv").iloc[0]
    assert row["val/with_gaze/brier"] != row["val/brier"]
    assert row["val/with_gaze/gaze_given"] == 1
    test = ["test", "--config=run/config.yaml", "--trainer.logger=false"]
    run_gazelit(*test, "--trainer.default_root_dir=both")
    run_gazelit(*test, "--trainer.default_root_dir=plain", "--model.gaze_at_test=false")
    both, plain = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("both", "plain"))
    # Without gaze, the predictions equal those of a test without the option.
    pd.testing.assert_frame_equal(both[plain.columns], plain, check_exact=True)
    added = {"gaze_given", *(f"with_gaze_{kind}_{name}" for kind in ("p", "logit") for name in CLASSES)}
    assert set(both.columns) - set(plain.columns) == added
    metrics, alone = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("both", "plain"))
    assert {key: value for key, value in metrics.items() if "with_gaze/" not in key} == alone

    model = load_model(tmp_path / "run" / "checkpoints" / "best.ckpt")
    data = GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0), gaze=GazeOptions(sigma=1.0))
    data.setup()
    dataset = data.dataset("test")
    batch = data.render(collate([dataset[0, place] for place in range(len(dataset.rows))]))
    with torch.no_grad():
        given = model.network(batch["image"], batch["heatmap"])["logits"]
        blind = model.network(batch["image"])["logits"]
    table = both.set_index("index").loc[batch["index"].tolist()]
    for kind, logits in (("with_gaze_logit", given), ("logit", blind)):
        assert np.allclose(table[[f"{kind}_{name}" for name in CLASSES]], logits, atol=1e-5), kind
    assert not torch.allclose(given, blind, atol=1e-5)
    expected = np.mean(
        [roc_auc_score(both["label"] == number, both[f"with_gaze_p_{name}"]) for number, name in enumerate(CLASSES)]
    )
    assert metrics["test/with_gaze/auroc_macro"] == pytest.approx(expected)
    run_gazelit("predict", "--config=run/config.yaml", "--trainer.logger=false", "--trainer.default_root_dir=read")
    read = pd.read_parquet(tmp_path / "read" / "predictions.parquet")
    assert np.allclose(read["with_gaze_p_CHF"], both["with_gaze_p_CHF"], atol=1e-6)


def stage(**options):
    torch.manual_seed(0)
    parts = [EncoderSpec("res-se", options={"widths": widths, "reduction": 2}) for widths in ([4, 4], [4])]
    network = DualEncoderUNet(*parts, [4], **options)
    return JointFinetuning(network, gaze_at_test=True).eval()


def test_films_without_gaze_keep_their_prediction():
    module = stage(classifier_pooling=["gaze", "top"])
    module._exclusive = True
    heatmap = torch.zeros(3, 1, 32, 32)
    heatmap[0, 0, 4:6, 20:22] = 0.25
    batch = {"image": torch.rand(3, 1, 32, 32), "heatmap": heatmap, "has_gaze": heatmap.flatten(1).any(1)}
    with torch.no_grad():
        given = module._predictions_with_gaze(batch)
        plain = module._predictions(module(batch["image"]))
    same = [torch.equal(*pair) for pair in zip(given["with_gaze_logits"], plain["logits"], strict=True)]
    assert same == [False, True, True]
    assert given["gaze_given"].tolist() == [True, False, False]


def test_a_network_that_does_not_pool_by_gaze_is_refused():
    with pytest.raises(InputError, match=r"^gaze_at_test: the classifier does not pool by gaze"):
        stage(classifier_pooling=["mean", "top"])
