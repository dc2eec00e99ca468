"""From a checkpoint to results in Orthanc by the commands of docs/reading-room.md, without losing a film."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.deploy.sources import chest, save
from tests.deploy.test_guards import guarded  # noqa: F401 (a fixture)

PAGE = Path(__file__).parents[2] / "docs" / "reading-room.md"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SQUARE = (20, 60, 20, 50)
#: Number of films for the test that kills the node; `GAZELIT_ORTHANC_FILMS=200` is the long run of
#: docs/reading-room.md.
FILMS = int(os.environ.get("GAZELIT_ORTHANC_FILMS", "24"))
#: Seconds that a step of this test may take.
PATIENCE = 90 + 3 * FILMS


@contextmanager
def orthanc(folder, routes):
    """A real Orthanc with DICOMweb; its addresses, and ports for the node that it knows.

    Args:
        folder: Folder where Orthanc keeps its data.
        routes: Whether it sends films to the node by itself, with the page's script.
    """
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.is_file():
        pytest.skip("Orthanc with DICOMweb is not installed (Debian: orthanc, orthanc-dicomweb)")
    http, dicom, node, health = free_ports(4)
    (folder / "route.lua").write_text(re.search(r"```lua\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    configuration = {
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": http, "DicomPort": dicom, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomAlwaysAllowStore": False, "StableAge": 1,
        "DicomModalities": {"GAZELIT": ["GAZELIT", "127.0.0.1", node]}, "Plugins": [str(PLUGIN)],
        "LuaScripts": [str(folder / "route.lua")] if routes else [], "DicomWeb": {"Enable": True},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        rest = f"http://127.0.0.1:{http}"
        wait(lambda: answers(f"{rest}/system"))
        ports = {"DICOM_PORT": dicom, "NODE_PORT": node, "HEALTH_PORT": health}
        yield {"REST": rest, "ORTHANC": f"{rest}/dicom-web", **ports}
    finally:
        process.terminate()
        process.wait(20)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def wait(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)
    return found


def upload(rest, path):
    request = urllib.request.Request(f"{rest}/instances", data=path.read_bytes(), method="POST")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["ID"]


def held(rest):
    """Modalities of the instances that Orthanc holds."""
    instances = answers(f"{rest}/instances?expand") or []
    series = {entry["ID"]: entry["MainDicomTags"]["Modality"] for entry in answers(f"{rest}/series?expand") or []}
    return [series[instance["ParentSeries"]] for instance in instances if instance["ParentSeries"] in series]


def environment(**more):
    """The environment of a shell in which `gazelit` is that of this checkout."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{PAGE.parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
        **{name: str(value) for name, value in more.items()},
    }


def test_the_pages_lines_go_from_a_checkpoint_to_results_in_orthanc(guarded, tmp_path):  # noqa: F811
    folder = tmp_path / "work"
    shutil.copytree(guarded, folder / "run")
    films = [save(folder / "films" / f"{number}.dcm", chest((96 + number, 80), SQUARE)) for number in range(3)]
    (lines,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(lines.splitlines()) == 10
    # With a cohort of 24 films no more can be promised.
    few = "--out guarded.ckpt --split test --coverage 0.7 --false-alarms 0.3"
    lines = lines.replace("--out guarded.ckpt", few, 1)
    with orthanc(tmp_path, routes=False) as server:
        upload(server["REST"], films[0])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines], cwd=folder, capture_output=True, text=True, timeout=300,
            env=environment(STUDY=dcmread(films[0]).StudyInstanceUID, **server),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list((folder / "results").glob("*_sr.dcm"))) == 3
        # Results of the first film come by DICOMweb, those of the third by the node.
        assert sorted(held(server["REST"])) == ["CR", "CR", "OT", "OT", "SR", "SR"]


def test_a_node_that_is_killed_half_way_loses_nothing_of_what_orthanc_routes(guarded, tmp_path):  # noqa: F811
    with orthanc(tmp_path, routes=True) as server:
        rest, health = server["REST"], f"http://127.0.0.1:{server['HEALTH_PORT']}/health"
        command = [
            sys.executable, "-m", "gazelit", "serve-dicom", str(guarded / "guarded.ckpt"), "--allow=ORTHANC",
            f"--to=ORTHANC@127.0.0.1:{server['DICOM_PORT']}", f"--spool={tmp_path / 'spool'}",
            f"--port={server['NODE_PORT']}", f"--health-port={server['HEALTH_PORT']}",
        ]  # fmt: skip
        with (tmp_path / "node.log").open("wb") as log:
            node = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
            wait(lambda: answers(health))
            path = tmp_path / "film.dcm"
            for number in range(FILMS):
                film = chest((96, 80 + number % 7), SQUARE)
                upload(rest, save(path, film))
            wait(lambda: answers(health)["received"] == FILMS)
            node.kill()
            node.wait()
            before = held(rest).count("SR")
            node = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
            try:
                wait(lambda: held(rest).count("SR") == FILMS)
                wait(lambda: answers(health)["results_waiting"] == 0)
                time.sleep(1.5)
                state = answers(health)
            finally:
                node.terminate()
                node.wait(30)
        assert before < FILMS
        # No film is lost or read twice, and the results, which Orthanc also holds, were not routed back as films.
        assert sorted(set(held(rest))) == ["CR", "OT", "SR"]
        assert len(held(rest)) == 3 * FILMS
        assert state["refused"] == state["failed"] == 0
        assert node.returncode == 0
