"""Identifiers planted in films, file names and tables are in nothing that gazelit prints, writes or logs.

Three kinds of files hold ids on purpose and are left out: the store's own tables, which hold the patient of each film
so that patients stay in one split; ``image_id`` of ``predictions.parquet``, which names the film of each prediction and
stays beside the data; and DICOM results, which belong to the patient.
"""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from pydicom import Dataset

from tests.data.film_writers import write
from tests.test_sweeps import logged
from tests.tiny import tiny

#: Prefix of every planted identifier: letters that no other word of the outputs has.
MARK = "QZXJ"
#: Thirty attributes of PS3.15's basic profile (table E.1-1), with values that their representation allows.
TAGS = {
    "PatientName": f"{MARK}name^Ada",
    "PatientID": f"{MARK}pid",
    "OtherPatientIDs": f"{MARK}otherpid",
    "OtherPatientNames": f"{MARK}other^Name",
    "PatientBirthName": f"{MARK}birth^Name",
    "IssuerOfPatientID": f"{MARK}issuer",
    "PatientMotherBirthName": f"{MARK}mother^Name",
    "PatientAddress": f"{MARK} Road 1",
    "PatientTelephoneNumbers": f"{MARK}555",
    "MilitaryRank": f"{MARK}rank",
    "Occupation": f"{MARK}job",
    "EthnicGroup": f"{MARK}group",
    "PatientComments": f"{MARK}comment",
    "AdditionalPatientHistory": f"{MARK}history",
    "AccessionNumber": f"{MARK}acc",
    "StudyID": f"{MARK}study",
    "StudyDescription": f"{MARK}studytext",
    "SeriesDescription": f"{MARK}seriestext",
    "InstitutionName": f"{MARK}hospital",
    "InstitutionAddress": f"{MARK}street",
    "InstitutionalDepartmentName": f"{MARK}ward",
    "StationName": f"{MARK}station",
    "ReferringPhysicianName": f"{MARK}ref^Dr",
    "PerformingPhysicianName": f"{MARK}perf^Dr",
    "OperatorsName": f"{MARK}op^Rt",
    "PhysiciansOfRecord": f"{MARK}rec^Dr",
    "DeviceSerialNumber": f"{MARK}serial",
    "ProtocolName": f"{MARK}protocol",
    "RequestingPhysician": f"{MARK}req^Dr",
    "ImageComments": f"{MARK}imagetext",
}
CLASSES = ("clear", "opaque", "odd")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Films and tables with planted identifiers, named so that a folder of outputs lies beside them."""
    root = tmp_path_factory.mktemp("private")
    (root / f"{MARK}films").mkdir()
    rng = np.random.default_rng(0)
    images, gaze = [], []
    rows, columns = np.mgrid[:96, :80]
    for number in range(18):
        label = CLASSES[number % 3]
        film = 1500 + 900 * np.sin(rows / (7 + number)) * np.cos(columns / 9) + rng.normal(0, 60, rows.shape)
        path = root / f"{MARK}films" / f"{MARK}film{number:02}.dcm"
        write(path, film.clip(0, 4095).astype(np.uint16), **TAGS, Modality="DX", BodyPartExamined="CHEST")
        image = {
            "image_id": f"{MARK}image{number:02}",
            "patient_id": f"{MARK}patient{number:02}",
            "study_id": f"{MARK}case{number:02}",
            "path": str(path.relative_to(root)),
            "view": "PA",
            "comment": f"{MARK}cell",
        }
        images.append(image | {name: int(name == label) for name in CLASSES})
        for number_of_fixation in range(12):
            x, y = rng.uniform(0.2, 0.8, 2)
            gaze.append(
                {
                    "image_id": image["image_id"],
                    "reading_id": f"{MARK}reading{number:02}",
                    "reader_id": f"{MARK}reader",
                    "t": number_of_fixation * 0.3,
                    "duration": 0.25,
                    "x": round(80 * x, 2),
                    "y": round(96 * y, 2),
                    "kind": "fixation",
                    "note": f"{MARK}note",
                }
            )
    pd.DataFrame(images).to_csv(root / "images.csv", index=False)
    pd.DataFrame(gaze).to_csv(root / "gaze.csv", index=False)
    return root


@pytest.fixture(scope="module")
def proxy():
    """A proxy that notes and refuses requests of other programs than Python to another machine."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_CONNECT(self):
            requests.append(self.path)
            self.send_error(403)

        do_GET = do_POST = do_PUT = do_HEAD = do_CONNECT  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def worked(cohort, proxy, tmp_path_factory):
    """Runs every command that reads films or tables; returns the folder of outputs and the printed text."""
    out = tmp_path_factory.mktemp("worked")
    environment = {key: value for key, value in os.environ.items() if "WANDB" not in key}
    environment |= {"WANDB_MODE": "offline", "HTTP_PROXY": proxy[0], "HTTPS_PROXY": proxy[0], "COLUMNS": "250"}
    environment |= {"NO_PROXY": "127.0.0.1,localhost", "HOME": str(out)}
    commands = []

    def gazelit(*arguments):
        commands.append([str(argument) for argument in arguments])

    tables = [
        "--source",
        "Manifest",
        f"--source.images={cohort / 'images.csv'}",
        f"--source.gaze={cohort / 'gaze.csv'}",
    ]
    data = ["--data.labels=[clear,opaque,odd]", "--data.gaze.sigma=4", "--data.gaze.sigma_unit=px"]
    data += ["--data.split.val_fraction=0.3", "--data.split.test_fraction=0.3"]
    gazelit("prepare", *tables, "--source.labels=[clear,opaque,odd]", "--size=[64,64]", "--out=store", "--workers=1")
    gazelit("inspect", "store")
    stage = {
        "name": "joint",
        "config": ["presets/quick/stage3.yaml", "loggers/wandb.yaml"],
        "overrides": [*tiny(3, out / "store"), *data, "--data.downscale=1", "--trainer.max_epochs=1"],
    }
    (out / "pipeline.yaml").write_text(yaml.safe_dump({"stages": [stage]}))
    gazelit("run", "pipeline.yaml", "--store=store", "--out=run")
    ckpt = "run/joint/checkpoints/best.ckpt"
    films = sorted((cohort / f"{MARK}films").glob("*.dcm"))[:3]
    gazelit("agreement", ckpt, "--out=agreement")
    gazelit("infer", *films, "--ckpt", ckpt, "--out=results")
    gazelit("export", ckpt, "--format=torch-export", "--out=export/model.pt2")
    gazelit("package", ckpt, "--out=package")
    gazelit("lineage", "package/model.safetensors")
    # Its name makes it gazelit's command, whose steps share their imports.
    (out / "gazelit").write_text(
        "import json, sys\nfrom gazelit.cli.main import main\n"
        "if __name__ == '__main__':\n"
        "    for command in json.load(sys.stdin):\n        assert main(command) == 0, command\n"
    )
    done = subprocess.run(
        [sys.executable, out / "gazelit"],
        input=json.dumps(commands),
        cwd=out,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout + done.stderr


def readable(path):
    """The contents of a file: its bytes, and those of its compressed parts."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        yield pd.read_parquet(path).to_csv().encode()
    elif path.suffix == ".wandb":
        yield logged(path.parent)
    elif path.suffix == ".png":
        with Image.open(io.BytesIO(content)) as picture:
            yield repr(picture.info).encode()
    elif path.suffix == ".gz":
        yield gzip.decompress(content)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def says_whose_film(path, folder):
    """Whether a file is one of the tables that hold the patient of each film."""
    is_store = path.relative_to(folder).parts[0] == "store" and path.suffix in (".parquet", ".csv")
    return is_store or path.name == "predictions.parquet"


def test_thirty_tags_are_planted_in_the_films(cohort):
    import pydicom

    assert len(TAGS) == 30
    film = pydicom.dcmread(next((cohort / f"{MARK}films").glob("*.dcm")), stop_before_pixels=True)
    assert sum(MARK in str(film[name].value) for name in TAGS) == 30
    assert isinstance(film, Dataset)


def test_nothing_written_holds_an_identifier(worked):
    folder = worked[0]
    files = [path for path in folder.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".ckpt", ".html", ".md", ".json", ".png", ".npy", ".wandb", ".safetensors", ".pt2", ".txt"} <= kinds
    named = [str(path.relative_to(folder)) for path in files if MARK in str(path.relative_to(folder))]
    holding = [
        str(path.relative_to(folder))
        for path in files
        if not says_whose_film(path, folder) and any(MARK.encode() in content for content in readable(path))
    ]
    assert (named, holding) == ([], [])


def test_tables_with_the_patient_of_each_film_hold_ids_and_nothing_else(worked):
    folder = worked[0]
    tables = [path for path in folder.rglob("*") if path.is_file() and says_whose_film(path, folder)]
    assert {"cases.parquet", "predictions.parquet"} <= {path.name for path in tables}
    predictions = pd.concat([pd.read_parquet(path) for path in tables if path.name == "predictions.parquet"])
    assert MARK not in predictions.drop(columns="image_id").to_csv()
    together = b"".join(content for path in tables for content in readable(path))
    assert f"{MARK}patient00".encode() in together
    for value in (*TAGS.values(), f"{MARK}cell", f"{MARK}note"):
        assert value.encode() not in together, value


def test_nothing_printed_holds_an_identifier(worked):
    assert MARK not in worked[1]
    # Every command has printed something.
    commands = ("store", "report", "agreement.md", "largest differences", "before you share", "fingerprint")
    for words in commands:
        assert words in worked[1], words


def test_no_program_tried_to_reach_another_machine(worked, proxy):
    assert proxy[1] == []
