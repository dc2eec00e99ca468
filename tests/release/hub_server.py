"""A hub on loopback that stores uploads and serves them, with the requests that `huggingface_hub` makes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class Hub:
    """The state of the server.

    Attributes:
        files: By repository and path, the bytes.
        settings: Settings by repository.
        events: Requests in order.
        refuse: Status code of every answer; 0 for proper answers.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.settings: dict[str, dict[str, object]] = {}
        self.events: list[str] = []
        self.refuse = 0
        self.error_code = ""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None: ...

        def answer(self, content: object = None, code: int = 200, headers: dict[str, str] | None = None) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def serve(self) -> None:
            path, sent = unquote(urlparse(self.path).path), self.body()
            host = f"http://{self.headers['Host']}"
            hub.events.append(f"{self.command} {path}")
            if hub.refuse:
                return self.answer({"error": "no"}, hub.refuse, {"X-Error-Code": hub.error_code})
            if path == "/api/repos/create":
                request = json.loads(sent)
                name = f"{request['organization']}/{request['name']}"
                known = name in hub.files
                hub.files.setdefault(name, {})
                private = request.get("private", request.get("visibility") == "private")
                if not known:
                    hub.settings[name] = {"private": private, "gated": False}
                return self.answer({"url": f"{host}/{name}", "id": name}, 409 if known else 200)
            if path == "/api/whoami-v2":
                return self.answer({"name": "me", "type": "user", "orgs": []})
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            name = "/".join((path.removeprefix("/api/models") if path.startswith("/api/") else path).split("/")[1:3])
            if name not in hub.files:
                return self.answer({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})
            files = hub.files[name]
            if path.endswith("/settings"):
                request = json.loads(sent)
                if "visibility" in request:
                    request["private"] = request.pop("visibility") == "private"
                hub.settings[name] |= request
                return self.answer({})
            if "/preupload/" in path:
                names = [file["path"] for file in json.loads(sent)["files"]]
                wanted = [{"path": file_name, "uploadMode": "regular", "shouldIgnore": False} for file_name in names]
                return self.answer({"files": wanted})
            if "/commit/" in path:
                hub.events[-1] += f" {hub.settings[name]}"
                for line in sent.splitlines():
                    operation = json.loads(line)
                    if operation["key"] == "file":
                        value = operation["value"]
                        files[value["path"]] = base64.b64decode(value["content"])
                return self.answer({"commitOid": "a" * 40, "commitUrl": f"{host}/{name}/commit/{'a' * 40}"})
            if "/tree/" in path:
                return self.answer(
                    [
                        {"type": "file", "path": file_name, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                        for file_name, value in files.items()
                    ]
                )
            if path.startswith("/api/models/"):
                if path.rpartition("/revision/")[2] == "absent":
                    return self.answer({"error": "no"}, 404, {"X-Error-Code": "RevisionNotFound"})
                siblings = [{"rfilename": file_name} for file_name in files]
                return self.answer({"id": name, "sha": "a" * 40, "siblings": siblings, "tags": [], "private": False})
            file = files[path.split("/", 5)[-1]]
            etag = hashlib.sha1(file).hexdigest()
            return self.answer(file, headers={"ETag": f'"{etag}"', "X-Repo-Commit": "a" * 40})

        do_GET = do_POST = do_PUT = do_HEAD = serve  # noqa: N815

    return Handler


@contextmanager
def local_hub() -> Iterator[tuple[str, Hub]]:
    """Runs the server; yields its address and its state."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
