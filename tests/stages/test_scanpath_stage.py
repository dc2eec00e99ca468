"""The stage of scanpaths learns, takes over an encoder, and is tested in bits."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.store.store import Store
from gazelit.deploy.inference import load_model
from gazelit.models import DualEncoderUNet
from tests.stages.test_stages import PARTS
from tests.tiny import TINY_ENCODER, save_untrained, sharded, tiny

SMALL = [
    f"--model.network.encoder={TINY_ENCODER}",
    "--model.network.width=16",
    "--model.network.map_stride=8",
    "--model.network.readers=[a,b,c,d]",
    "--data.downscale=1",
]


def options(store):
    return [*tiny(1, store, network=False), *SMALL]


def test_a_training_lowers_the_loss_and_its_test_reports_bits(read_twice, run_gazelit, tmp_path):
    stage3 = save_untrained(
        tmp_path / "stage3.ckpt", DualEncoderUNet(**PARTS), GazeDataModule(str(read_twice)).provenance
    )
    fit = ["--trainer.max_epochs=4", "--checkpoint.dirpath=run/checkpoints", "--model.optimizer.lr=1e-2"]
    printed = run_gazelit(
        "fit", "--config=presets/quick/scanpath.yaml", *options(read_twice), *fit, f"--ckpt_path={stage3}"
    )
    new = "neck, regions, inhibition, revisits, offset, history, timing"
    assert f"loaded encoder; new {new}; left behind saliency_" in printed
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert epochs["train/scanpath_loss"].iloc[-1] < epochs["train/scanpath_loss"].iloc[0] - 0.3
    whole = epochs[["train/place_loss", "train/duration_loss", "train/stop_loss"]].sum(axis=1)
    assert np.allclose(whole, epochs["train/scanpath_loss"], rtol=1e-4)
    assert np.allclose(epochs["val/selection"], epochs["val/scanpath_loss"])

    run_gazelit("test", "--config=run/config.yaml", "--trainer.default_root_dir=tested", "--model.draws=2")
    found = next(path.parent for path in (tmp_path / "tested").rglob("metrics.json"))
    metrics = json.loads((found / "metrics.json").read_text())
    table = pd.read_parquet(found / "predictions.parquet")
    gaze = Store.open(read_twice).gaze("fixation")
    counts = gaze[gaze["row"].isin(table["index"])].groupby("row").size()
    assert table.set_index("index")["fixations"].to_dict() == counts.to_dict()
    for name in ("bits", "cnss", "cauc", "bits_over_uniform"):
        assert metrics[f"test/scanpath_{name}"] == pytest.approx(table[f"scanpath_{name}"].mean(), rel=1e-4)
    # The likelihood of the training and the bits of the test are the same quantity, a mean over fixations or films.
    over_uniform = -metrics["test/place_loss"] / np.log(2) + np.log2(64 * 64)
    bits = np.average(table["scanpath_bits_over_uniform"], weights=table["fixations"])
    assert bits == pytest.approx(over_uniform, abs=1e-4)
    assert table["scanpath_scanmatch"].between(0, 1).all()

    drawn = pd.read_parquet(found / "scanpaths.parquet")
    assert set(drawn["image_id"]) == set(table["image_id"])
    assert drawn.groupby(["index", "reading"])["draw"].nunique().eq(2).all()
    sizes = Store.open(read_twice).cases.loc[drawn["index"], ["width", "height"]].to_numpy()
    # Films are letterboxed, so a path may end beside the film, but not far from it.
    assert (drawn[["x", "y"]].to_numpy() < 1.5 * sizes).all()
    assert set(drawn["reader_id"]) <= {"", "a", "b", "c", "d"}

    # The report puts the model beside the yardsticks on the same films.
    run_gazelit("report", str(found))
    report = (found / "report" / "report.md").read_text()
    values = json.loads((found / "report" / "metrics.json").read_text())
    section = report.partition("## Scanpaths")[2].partition("\n## ")[0]
    for row in (
        "uniform", "centre bias, kernel density", "density of the step", "centre bias, near the last fixation",
        "static map of the model (IID saliency)", "static map with inhibition of return", "oracle, reader known",
        "medoid of the training readings", "drawn from the centre bias", "same film's other reader",
    ):  # fmt: skip
        assert f"| {row} |" in section
    # An independent computation of the static map's bits, by the metric of saliency maps.
    static = values["baseline/static map of the model (IID saliency)/scanpath_bits"]
    assert static == pytest.approx(table["ig"].mean(), abs=1e-3)
    gains = {name: values[f"baseline/{name}/scanpath_bits"] for name in ("oracle, reader known", "uniform")}
    assert gains["oracle, reader known"] > max(0.5, table["scanpath_bits"].mean())
    assert gains["uniform"] < 0
    assert "Share of the oracle's bits" in section

    # A new reader is learned from two films; nothing else changes.
    data = GazeDataModule(str(read_twice))
    read = {
        split: pd.Series(
            [data.reader_names[scanpath.reader] for scanpath in data.cohort.scanpaths(split)]
        ).value_counts()
        for split in ("train", "test")
    }
    name = next(name for name in "efgh" if read["train"].get(name, 0) > 1 and read["test"].get(name, 0))
    printed = run_gazelit(
        "adapt-reader", "run/checkpoints/best.ckpt", f"--reader={name}", "--k=2", "--out=adapted.ckpt"
    )
    assert f"learned from 2 films; on {read['test'][name]} test films " in printed
    before, after = (load_model(path).network for path in ("run/checkpoints/best.ckpt", "adapted.ckpt"))
    assert after.readers == ("a", "b", "c", "d", name)
    changed = {key for key, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[key])}
    assert changed == {"history.reader.weight", "offset.mean.weight"}
    for table in changed:
        rows = after.state_dict()[table]
        assert torch.equal(rows[:5], before.state_dict()[table])
        assert not torch.equal(rows[5], rows[0])
    # What the training did with its gaze does not change what the reader is learned from.
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["data"]["init_args"]["gaze"] |= {"control": "none", "cases": 2}
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(config))
    run_gazelit(
        "adapt-reader", "run/checkpoints/best.ckpt", f"--reader={name}", "--k=2", "--stage_config=none.yaml",
        "--out=same.ckpt",
    )  # fmt: skip
    same = load_model("same.ckpt").network.state_dict()
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in same.items())
    printed = run_gazelit("adapt-reader", "adapted.ckpt", f"--reader={name}", "--out=again.ckpt", code=2)
    assert f"{name} is known to the model already" in printed


def test_samples_of_gaze_are_refused_in_a_line(read_twice, run_gazelit):
    printed = run_gazelit(
        "fit", "--config=presets/quick/scanpath.yaml", *options(read_twice), "--data.gaze.kind=sample",
        "--trainer.fast_dev_run=true", code=2,
    )  # fmt: skip
    assert "scanpaths are of fixations, and this is raw samples; set --data.gaze.kind=fixation" in printed


def test_a_sharded_training_of_a_step_ends_with_the_weights_of_a_plain_one(read_twice, run_gazelit, tmp_path):
    step = [
        "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.augmentation.enabled=false",
        "--trainer.deterministic=false", "--model.network.regions=4",
        "--model.network.dropout=0", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01",
    ]  # fmt: skip
    states = []
    for folder, strategy in (("plain", []), ("sharded", sharded())):
        run_gazelit(
            "fit", "--config=presets/quick/scanpath.yaml", *options(read_twice), *step, *strategy,
            f"--checkpoint.dirpath={folder}/checkpoints",
        )  # fmt: skip
        states.append(load_model(tmp_path / folder / "checkpoints" / "last.ckpt").network.state_dict())
    printed = run_gazelit("test", "--config=sharded/config.yaml", *sharded(), code=2)
    assert "a test of scanpaths needs whole weights; leave out --trainer.strategy" in printed
    # Lightning keeps the group until the process ends; the other tests are of one process.
    torch.distributed.destroy_process_group()
    for key, value in states[0].items():
        assert torch.allclose(value.float(), states[1][key].float(), rtol=1e-5, atol=1e-6), key
