"""A model whose map is a bright square of the film, and the page over it."""

import io
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import LoaderOptions
from gazelit.data.store.store import Store
from gazelit.deploy.inference import LoadedModel
from gazelit.models import EncoderSpec, ScanpathNetwork

KEY, TOKEN = "key-of-the-tests", "token-of-the-tests"
#: Address that a stranger's report requests from another server (reserved for documentation, RFC 5737).
REPORTS_PICTURE = "http://192.0.2.1/x.png"
#: The square's rows and columns in :func:`film`.
SQUARE = slice(120, 180), slice(260, 320)


class BrightPlaces(nn.Module):
    """A network whose map is high where a film is bright; its classes follow the mean."""

    classes = 3

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return {"logits": torch.stack([8 * mean, 4 - 8 * mean, mean], 1), "saliency_logits": 8 * x}


def film(height=400, width=500):
    """A dim film (H, W) uint8 with a bright square; shown pixel for pixel, because its longer side is 384 to 1024."""
    rows, columns = np.mgrid[:height, :width]
    pixels = (40 + 30 * np.sin(rows / 40) * np.cos(columns / 55)).astype(np.uint8)
    pixels[SQUARE] = 250
    return pixels


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def datamodule(store):
    module = GazeDataModule(str(store), loader=LoaderOptions(batch_size=4, num_workers=0))
    module.setup()
    return module


@pytest.fixture(scope="session")
def model(datamodule):
    return LoadedModel(
        BrightPlaces().eval(), {"stage": "joint", "data": datamodule.provenance}, "ab" * 32, torch.ones(3)
    )


@pytest.fixture(scope="session")
def scanpath_model(datamodule):
    """An untrained model of scanpaths that has vectors for a reader of the store and for a reader not in the store."""
    torch.manual_seed(0)
    (known,) = datamodule.reader_names
    options = {"map_stride": 8, "width": 16, "layers": 1, "heads": 2, "longest": 6, "readers": ["Dr Elsewhere", known]}
    network = ScanpathNetwork(EncoderSpec("densenet-small"), **options).eval()
    with torch.no_grad():
        network.history.reader.weight.mul_(200)
        network.regions.query.weight.mul_(30)
    return LoadedModel(network, {"stage": "scanpath", "data": datamodule.provenance}, "cd" * 32, torch.ones(0))


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory):
    """A run folder with a report that tries to run a script and to send a request to another server."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    folder.mkdir()
    (folder / "report.html").write_text(
        "<!doctype html><html lang='en'><title>r</title><h1>A report</h1>"
        f"<script>document.title = 'ran'</script><img src='{REPORTS_PICTURE}' alt=''></html>"
    )
    return folder


@pytest.fixture(scope="session")
def make_page(model, store, report_folder):
    """A function that makes the application with any of model, store and reports."""
    from gazelit.deploy.app.library import Library
    from gazelit.deploy.app.reading_room import ReadingRoom
    from gazelit.deploy.app.reports import Reports
    from gazelit.deploy.app.server import Access, make_server

    def make(port=8750, with_model=True, with_store=True, reads_with=model):
        access = Access(["127.0.0.1", "testserver"], port, key=KEY, token=TOKEN)
        room = ReadingRoom(reads_with) if with_model else None
        library = Library(Store.open(store), room) if with_store else None
        return make_server(access, room, library, Reports([report_folder.parent]))

    return make


@pytest.fixture(scope="session")
def client(make_page):
    """A test client, without a network, that sends the key and the token."""
    from starlette.testclient import TestClient

    with TestClient(make_page(), raise_server_exceptions=True) as client:
        client.cookies.set("gazelit-8750", KEY)
        client.headers["x-gazelit-token"] = TOKEN
        yield client


@contextmanager
def served(make_page, **options):
    """The address of a server on loopback for a browser."""
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(make_page(port, **options), access_log=False, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def address(make_page):
    """The address of the page with all its parts."""
    with served(make_page) as address:
        yield address
