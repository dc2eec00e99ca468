"""W&B answers when a training begins, and then no more: the training ends, and the kept data can be sent later."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from tests.test_sweeps import logged
from tests.tiny import tiny


class Service(BaseHTTPRequestHandler):
    """The part of W&B's service that ``wandb.init``, an upload and ``wandb sync`` use."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self):
        """Answers requests until the service is away."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("file_stream") and not self.server.away.is_set() and not self.server.back.is_set():
            self.server.away.set()
        if self.server.away.is_set():
            # Uploads get no answer; other requests are cut off.
            if self.path.endswith("file_stream"):
                self.server.back.wait()
            self.close_connection = True
            return
        self.server.received.append(body)
        content = json.dumps(self._answer(json.loads(body)) if self.path == "/graphql" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    # The names are those of http.server.
    do_GET = do_PUT = do_POST  # noqa: N815

    def _answer(self, asked):
        given = asked.get("variables") or {}
        entity = {"id": "e", "name": "lab"}
        if "upsertBucket" in asked["query"]:
            run = {"id": "r", "name": given["name"], "displayName": "run", "config": "{}", "historyLineCount": 0}
            run["project"] = {"id": "p", "name": "gazelit", "entity": entity}
            return {"data": {"upsertBucket": {"bucket": run, "inserted": True}}}
        if "createRunFiles" in asked["query"]:
            address = f"http://{self.headers['Host']}/file"
            files = [{"name": name, "uploadUrl": address} for name in given["files"]]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        viewer = {"id": "v", "entity": "lab", "username": "reader", "flags": "{}", "teams": {"edges": []}}
        model = {"id": "p", "name": "gazelit", "entity": entity, "bucket": None}
        features = {"cliVersionInfo": {"max_cli_version": "99"}, "features": []}
        return {"data": {"viewer": viewer, "serverInfo": features, "model": model}}

    def log_message(self, *_):
        """Writes no log."""


class Server(ThreadingHTTPServer):
    """The service, which goes away when a training's first values come."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Service)
        self.received = []
        self.away, self.back = threading.Event(), threading.Event()

    def handle_error(self, *_):
        """Ignores a client that ends while it waits for an answer."""


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.back.set()
    server.shutdown()
    server.server_close()


def test_a_training_ends_in_time_and_names_the_kept_data_if_wandb_goes_away(server, store, tmp_path):
    environment = {key: value for key, value in os.environ.items() if "WANDB" not in key}
    environment |= {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "0" * 40}
    command = [
        sys.executable, "-m", "gazelit", "fit", "--config=presets/quick/stage2.yaml", *tiny(2, store),
        "--config=loggers/wandb.yaml", "--trainer.max_epochs=2", "--checkpoint.dirpath=run/checkpoints",
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=tmp_path, env={**environment, "WANDB_FINISH_TIMEOUT": "2"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert server.away.is_set()
    assert not any(b"best/epoch" in body for body in server.received)
    assert result.returncode == 0, result.stderr
    assert pd.read_csv(tmp_path / "run" / "epochs.csv").epoch.tolist() == [0, 1]
    (said,) = re.findall(r"W&B did not take all of this run within 2 s: it is whole in (\S+), and", result.stderr)
    assert f"and `wandb sync --include-online {said}` sends it" in result.stderr
    assert b"best/epoch" in logged(tmp_path / "runs" / "wandb")
    # The action that the line recommends works once W&B is back.
    server.back.set()
    server.away.clear()
    sync = [sys.executable, "-m", "wandb", "sync", "--include-online", said]
    subprocess.run(sync, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert any(b"best/epoch" in body for body in server.received)
