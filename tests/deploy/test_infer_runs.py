"""`gazelit infer` over many films: films are found and named, and a resumed run ends in the same bytes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydicom.fileset import FileSet

from gazelit import InputError
from gazelit.data.images.geometry import Letterbox
from gazelit.deploy import infer as command
from gazelit.deploy.film_list import film_files
from gazelit.deploy.infer import infer
from gazelit.deploy.passes import Pass, spread_of
from tests.deploy.sources import PATIENT, chest, model, save

SQUARE = (20, 60, 20, 50)


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    monkeypatch.setattr(command, "load_together", lambda *_: model())


@pytest.fixture
def films(tmp_path):
    """A tree of films, two of them broken, a picture, and files that are not films."""
    folder = tmp_path / "films"
    for number in range(5):
        save(folder / "sub" / f"{number}.dcm", chest((96 + number, 80), SQUARE))
    grey = (chest((90, 70), SQUARE).pixel_array >> 4).astype(np.uint8)
    Image.fromarray(grey).save(folder / "Mrs Doe.png")
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    content = (folder / "sub" / "0.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(content[: len(content) // 2])
    (folder / "notes.txt").write_text("no film")
    (folder / ".hidden.png").write_bytes(b"no film")
    return folder


def run(films, out, **options):
    with pytest.raises(InputError, match=r"2 of 8 files could not be read: .*broken\.dcm: .*; .*cut\.dcm: ") as caught:
        infer([str(films)], Path("x.ckpt"), out, batch_size=2, **options)
    return str(caught.value)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def test_folders_patterns_and_dicomdirs_are_found(films, tmp_path):
    names = [Path(path).name for path in film_files([str(films)])]
    assert names == ["Mrs Doe.png", "broken.dcm", "cut.dcm", *(f"{number}.dcm" for number in range(5))]
    assert len(film_files([str(films / "sub" / "[0-2].dcm"), str(films / "sub" / "1.dcm")])) == 3
    assert film_files([str(films / "**" / "*.png")]) == [str(films / "Mrs Doe.png")]
    fileset = FileSet()
    for number in range(3):
        fileset.add(films / "sub" / f"{number}.dcm")
    fileset.write(tmp_path / "disc")
    listed = film_files([str(tmp_path / "disc" / "DICOMDIR")])
    assert len(listed) == 3
    assert sorted(listed) == sorted(film_files([str(tmp_path / "disc")]))
    for nothing in (tmp_path / "empty", films / "*.tif"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="holds no DICOM, PNG or JPEG file"):
            film_files([str(nothing)])
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\xff" * 30)
    with pytest.raises(InputError, match="not a readable DICOMDIR"):
        film_files([str(tmp_path / "DICOMDIR")])


def test_every_result_is_in_the_table_and_no_name_in_any(films, tmp_path, caplog):
    out = tmp_path / "out"
    run(films, out, dicom=True)
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["position"]) for row in rows] == [1, 4, 5, 6, 7, 8]
    for row in rows:
        result = json.loads((out / f"{row['film']}.json").read_text())
        assert float(row["CHF"]) == result["probabilities"]["CHF"]
        assert result["probabilities"]["CHF"] > 0.5
        map_, box = np.load(out / result["saliency"]), result["letterbox"]
        assert map_.shape == (128, 96)
        assert map_.sum(dtype=float) == pytest.approx(1, abs=1e-5)
        inside = map_[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
        assert inside.sum(dtype=float) == pytest.approx(1, abs=1e-5)
        assert box["height"] / box["width"] == pytest.approx(result["height"] / result["width"], abs=0.02)
        assert max(Image.open(out / result["overlay"]).size) >= 384
        assert sorted(result.get("dicom", {})) == ([] if row["position"] == "1" else ["sc", "sr"])
    with (out / "failed.csv").open() as file:
        assert [row["position"] for row in csv.DictReader(file)] == ["2", "3"]
    secrets = ("Doe", "broken", "cut.dcm", *list(PATIENT.values())[:3])
    for name, content in bytes_of(out).items():
        if not name.endswith(".dcm"):
            assert [secret for secret in secrets if secret.encode() in name.encode() + content] == [], name
    assert [secret for secret in ("Mrs Doe", "4711") if secret in caplog.text] == []
    run(films, tmp_path / "named", names="file", table="parquet", saliency="full", overlay=False)
    table = pd.read_parquet(tmp_path / "named" / "predictions.parquet")
    assert table["file"].tolist() == ["Mrs Doe.png", *(f"{number}.dcm" for number in range(5))]
    assert table["film"].tolist() == ["Mrs Doe", *"01234"]
    assert np.allclose(table["CHF"], [float(row["CHF"]) for row in rows])
    assert np.load(tmp_path / "named" / "2_saliency.npy").shape == (98, 80)
    assert not list((tmp_path / "named").glob("*.png"))


def test_results_are_not_read_again_and_a_film_twice_has_two_names(films, tmp_path):
    out = tmp_path / "out"
    film = films / "sub" / "0.dcm"
    (films / "copy.dcm").write_bytes(film.read_bytes())
    infer([str(film), str(films / "copy.dcm")], Path("x.ckpt"), out, dicom=["sc", "sr"])
    results = sorted(path.stem for path in out.glob("*.json") if path.name != "run.json")
    assert results[1] == f"{results[0]}_2"
    (capture,) = out.glob(f"{results[0]}_sc.dcm")
    with pytest.raises(InputError, match="is a result of gazelit's own, not a film"):
        infer([str(capture)], Path("x.ckpt"), tmp_path / "again")


#: Reads films slowly in a process of its own, which the test kills.
SLOW = """
import sys, time
from pathlib import Path
from tests.deploy.sources import model
from gazelit.deploy import infer as command
from gazelit.deploy.result_files import ResultFolder
command.load_together = lambda *_: model()
write = ResultFolder.write
ResultFolder.write = lambda *arguments: (write(*arguments), print("done", flush=True), time.sleep(0.3))
command.infer([sys.argv[1]], Path("x.ckpt"), Path(sys.argv[2]), batch_size=2)
"""


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(films, tmp_path):
    run(films, tmp_path / "whole")
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(films), str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == b"done\n"
        process.send_signal(signal.SIGKILL)
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert 3 <= len(done) < 7
    assert not (out / "predictions.csv").exists()
    time.sleep(0.01)
    run(films, out)
    whole, resumed = bytes_of(tmp_path / "whole"), bytes_of(out)
    # The hidden temporary file of the killed process is not used.
    resumed = {name: content for name, content in resumed.items() if not name.startswith(".")}
    assert resumed == whole
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done


def test_a_full_disk_ends_the_run_and_written_files_are_whole(films, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device", str(target))

    infer([str(films / "sub" / "0.dcm")], Path("x.ckpt"), tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        infer([str(films / "sub")], Path("x.ckpt"), tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before


def test_several_networks_give_their_mean_and_their_spread(films, tmp_path, monkeypatch):
    class Other(type(model().network)):
        def forward(self, x):
            outputs = super().forward(x)
            return {
                "logits": outputs["logits"] + torch.tensor([1.0, 0.0]),
                "saliency_logits": outputs["saliency_logits"],
            }

    both = model(members=((Other(), torch.ones(2)),))
    monkeypatch.setattr(command, "load_together", lambda *_: both)
    film = films / "sub" / "1.dcm"
    infer([str(film)], Path("x.ckpt"), tmp_path / "out", dicom=True)
    (row,) = csv.DictReader((tmp_path / "out" / "predictions.csv").open())
    result = json.loads((tmp_path / "out" / f"{row['film']}.json").read_text())
    single = [model().predict(film).probabilities["CHF"], model(network=Other()).predict(film).probabilities["CHF"]]
    assert result["probabilities"]["CHF"] == pytest.approx(np.mean(single), abs=2e-6)
    assert float(row["CHF SD"]) == pytest.approx(np.std(single, ddof=1), abs=2e-6)
    assert result["spread"]["map_correlation"] == 1
    entropy = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (np.mean(single), *single)]
    assert result["spread"]["mutual_information"] == pytest.approx(entropy[0] - np.mean(entropy[1:]), abs=2e-6)


def test_spread_of_maps_is_measured_only_on_the_film():
    box = Letterbox.fit(4, 2, (4, 4))
    maps = torch.rand(2, 4, 4)
    outside = ~torch.from_numpy(box.valid_mask())
    expected = []
    inside = maps[:, ~outside].double().numpy()
    expected = np.mean([np.corrcoef(density, inside.mean(0))[0, 1] for density in inside])
    maps[0, outside], maps[1, outside] = 9, -9
    found = spread_of([Pass(None, density.flatten()) for density in maps], [], True, box)
    assert found.map_correlation == pytest.approx(expected, abs=1e-6)
    assert found.mutual_information is None


def test_dropout_gives_a_spread_and_the_same_one_again(films):
    class Dropping(type(model().network)):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x):
            outputs = super().forward(x)
            return {**outputs, "logits": self.drop(outputs["logits"] + 1)}

    dropping = model(network=Dropping().eval(), dropout_passes=16)
    film = films / "sub" / "1.dcm"
    readings = [dropping.predict(film) for _ in range(2)]
    assert readings[0].spread == readings[1].spread
    assert readings[0].spread.members == 16
    assert readings[0].spread.deviations["CHF"] > 0.01
    assert not dropping.network.drop.training
    with pytest.raises(InputError, match="mc_dropout: the network has no dropout"):
        model(dropout_passes=4).predict(film)
