"""An encoder, a stage, a loss, a metric and a dataset from a file outside the package, trained from YAML alone."""

import json
import sys

import pandas as pd
import pytest
import torch

from tests.tiny import tiny

# The files that docs/extending.md shows; the test reads them from the page.
PAGE = "docs/extending.md"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with the page's Python file and configuration."""
    import re
    from pathlib import Path

    folder = tmp_path_factory.mktemp("outside")
    text = (Path(__file__).resolve().parents[1] / PAGE).read_text()
    blocks = {kind: re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL).group(1) for kind in ("python", "yaml")}
    (folder / "mine.py").write_text(blocks["python"])
    (folder / "mine.yaml").write_text(blocks["yaml"])
    return folder


@pytest.fixture
def gazelit(outside, run_gazelit, monkeypatch):
    """Runs a command in that folder as if in a new process, in which nothing of the file is imported."""
    monkeypatch.chdir(outside)
    monkeypatch.syspath_prepend(outside)

    def run(*arguments):
        sys.modules.pop("mine", None)
        return run_gazelit(*map(str, arguments))

    yield run
    sys.modules.pop("mine", None)


def test_the_pages_dataset_encoder_loss_metric_and_stage_work_from_yaml_alone(outside, gazelit):
    films = outside / "films"
    films.mkdir()
    rows = ["film,patient,age,x,y"]
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        pixels = (torch.rand(96, 80, generator=generator) * 255).byte().numpy()
        Image.fromarray(pixels).save(films / f"{number}.png")
        rows.append(f"{number}.png,p{number},{30 + number * 4},{20 + number},{40 + number}")
    (films / "films.csv").write_text("\n".join(rows) + "\n")
    printed = gazelit("prepare", "--source=mine.FilmFolder", "--source.root=films", "--size=[64, 64]",
                      "--workers=1", "--out=store")  # fmt: skip
    assert "12 cases" in printed
    small = [
        *tiny(1, outside / "store", network=False),
        "--data.split.val_fraction=0.25",
        "--data.split.test_fraction=0.25",
    ]
    printed = gazelit("fit", "--config=mine.yaml", *small, "--trainer.max_epochs=2",
                      "--model.loss.quantile=0.5", "--checkpoint.dirpath=run/checkpoints")  # fmt: skip
    assert "stage 'bone_age'" in printed
    epochs = pd.read_csv(outside / "run" / "epochs.csv")
    assert epochs["train/loss"].notna().all()
    # The loss at the median is half of the mean error.
    assert (epochs["val/age_error"] / 2).tolist() == pytest.approx(epochs["val/loss"].tolist(), rel=1e-5)
    # Its encoder is handed over to one of gazelit's stages.
    printed = gazelit("fit", "--config=presets/quick/stage2.yaml", *tiny(2, outside / "store"),
                      "--data.gaze.sigma_unit=px", "--data.gaze.sigma=4",
                      "--data.split.val_fraction=0.25", "--data.split.test_fraction=0.25",
                      "--data.labels=[]", "--data.exclusive=false",
                      "--model.network.encoder={name: 'mine:Stripes', options: {width: 6}}",
                      "--trainer.max_epochs=1", "--ckpt_path=run/checkpoints/best.ckpt",
                      "--checkpoint.dirpath=next/checkpoints")  # fmt: skip
    assert "loaded encoder" in printed
    gazelit("lineage", "next/checkpoints/best.ckpt")
    # A run's saved configuration may name the user's classes once their module is trusted.
    gazelit("test", "--config=run/config.yaml", "--trust=mine", "--trainer.logger=false",
            "--trainer.default_root_dir=tested")  # fmt: skip
    metrics = json.loads((outside / "tested" / "metrics.json").read_text())
    predictions = pd.read_parquet(outside / "tested" / "predictions.parquet")
    errors = predictions["age_error"]
    assert len(errors) == 3
    assert metrics["test/age_error"] == pytest.approx(errors.mean())
    assert metrics["test/age_error"] / 2 == pytest.approx(metrics["test/loss"], rel=1e-5)
    assert predictions.attrs["metrics"] == {
        "age_error": {"label": "error of the age (years)", "higher_is_better": False}
    }
