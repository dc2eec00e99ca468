"""`gazelit app` from the command line: input that it refuses, and serving until it is interrupted."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from gazelit.cli import app as command
from gazelit.models import DualEncoderUNet, EncoderSpec
from tests.tiny import save_untrained


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, store, datamodule):
    """A run folder with the layout of `gazelit run` and an untrained network."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    folder.mkdir()
    network = DualEncoderUNet(
        encoder=EncoderSpec("densenet-small"),
        saliency_encoder=EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}),
        decoder_widths=[8, 8, 8, 4, 4],
        classes=3,
    )
    save_untrained(folder / "model.ckpt", network, datamodule.provenance)
    trained = {"arm": "a", "seed": 0, "fold": None, "stages": [], "checkpoint": "model.ckpt", "test": "", "seconds": 1}
    (folder / "run.json").write_text(json.dumps({"store": str(store), "commands": [], "trained": [trained]}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "app: has nothing to show; give --ckpt, --store, --runs or several of them"),
        (["--runs", "nowhere"], "runs: there is no folder nowhere"),
        (["--runs", "."], "runs: . holds no finished run (run.json is missing)"),
        (["--store", "nowhere"], "no prepared store at nowhere"),
        (["--ckpt", "nowhere.ckpt", "--port", "0"], "nowhere.ckpt: "),
        (["--store", "s", "--port", "70000"], "port: must be 0 to 65535, not 70000"),
        (["--store", "s", "--host", "0.0.0.0"], "host: 0.0.0.0 is every address of this machine; give the page"),
        (["--store", "s", "--host", "192.0.2.1"], "host: 192.0.2.1 is reached from other machines; give --tls_cert"),
        (["--store", "s", "--host", "no.such.host.invalid"], "host: no.such.host.invalid is reached from other machin"),
        (["--store", "s", "--tls_key", "k"], "tls_key: goes with --tls_certificate; give both"),
        (["--store", "s", "--tls_key", "k", "--tls_certificate", "c"], "tls: a certificate or key cannot be used"),
    ],
)
def test_input_that_cannot_be_served_gives_one_line(run_gazelit, arguments, words):
    lines = run_gazelit("app", *arguments, code=2).strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"gazelit: error: {words}")


def test_a_busy_port_is_reported_before_a_model_is_read(run_gazelit):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        line = run_gazelit("app", "--ckpt", "no.ckpt", f"--port={port}", code=2)
    assert line.startswith(f"gazelit: error: port: {port} is in use; give another --port, or 0")


def test_a_run_brings_its_model_and_its_store(run_folder, store, tmp_path):
    assert command._of_run([run_folder], [], None) == ([run_folder / "model.ckpt"], store)
    # A folder of runs; options that are given override it.
    assert command._of_run([run_folder.parent], [], tmp_path) == ([run_folder / "model.ckpt"], tmp_path)


def test_help_needs_no_server(run_gazelit):
    code = "import sys; from gazelit.cli.main import main; main(['--help']); print('starlette' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("False")
    assert "serve a local page" in printed


def test_without_the_extra_it_says_what_to_install(run_gazelit, monkeypatch):
    present = command.importlib.util.find_spec
    missing = {"starlette", "uvicorn"}
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name in missing else present(name))
    assert "pip install 'gazelit[app]'" in run_gazelit("app", "--store", "s", code=2)


def test_it_serves_until_it_is_interrupted(run_folder, tmp_path):
    started = subprocess.Popen(
        [sys.executable, "-m", "gazelit", "app", "--runs", str(run_folder), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        lines = [started.stderr.readline() for _ in range(2)]
        address = re.search(r"open (http://127\.0\.0\.1:\d+)/\?key=(\S+)", lines[1])
        assert "SYNTHETIC" in lines[0]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(f"{address[1]}/", timeout=30)
        assert "<title>gazelit</title>" in opener.open(f"{address[1]}/?key={address[2]}", timeout=30).read().decode()
        answer = opener.open(f"{address[1]}/api/cases/0", timeout=60)
        assert '"probabilities"' in answer.read().decode()
        assert "server" not in answer.headers
        started.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert started.returncode == 0
        assert started.stderr.read() == ""
    finally:
        started.kill()
        started.wait()
    assert not list(tmp_path.iterdir())
