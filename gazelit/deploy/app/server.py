"""The answers to the page's script, as a Starlette application."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gazelit import __version__
from gazelit.deploy.app.library import SORTS, Library, Query
from gazelit.deploy.app.pictures import colours, most_opaque
from gazelit.deploy.app.reading_room import ReadingRoom
from gazelit.deploy.app.reports import Reports
from gazelit.deploy.app.security import REPORT_POLICY, Keys, PageHeaders, read_body
from gazelit.errors import InputError

#: Films of 4,000 × 4,000 pixels with 16 bits fit twice.
MAX_UPLOAD = 64 * 2**20
_STATIC = Path(__file__).parent / "static"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: Host names of the page. Otherwise a foreign name that resolves to this machine's address could make a
            browser send requests to it.
        port: Port of the server; it is part of the cookie's name.
        secure: Whether it speaks TLS.
        key: The key in the address.
        token: The token that the page's script sends with requests that write.
    """

    hosts: Sequence[str]
    port: int
    secure: bool = False
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))


def make_server(
    access: Access, room: ReadingRoom | None = None, library: Library | None = None, reports: Reports | None = None
) -> Starlette:
    """Makes the application.

    Args:
        access: Who may ask.
        room: Reads films, if there is a model.
        library: The store, if there is one.
        reports: Reports, if runs were named.
    """
    pages = _Pages(access, room, library, reports)
    routes = [
        Route("/", pages.page),
        Route("/api/about", pages.about),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    if room is not None:
        routes += [
            Route("/api/readings", pages.read, methods=["POST"]),
            Route("/api/examples/{number:int}", pages.read_example, methods=["POST"]),
            Route("/api/readings/{name}/overlay.png", pages.overlay),
            Route("/api/readings/{name}/{kind}.dcm", pages.dicom_object),
        ]
    if library is not None:
        routes += [
            Route("/api/cases", pages.cases),
            Route("/api/cases/{row:int}", pages.case),
            Route("/api/survey", pages.survey),
            Route("/api/survey", pages.start_survey, methods=["POST"]),
            Route("/api/survey", pages.stop_survey, methods=["DELETE"]),
        ]
    if reports is not None:
        routes += [Route("/api/reports", pages.reports), Route("/reports/{name:path}", pages.report)]
    cookie = f"gazelit-{access.port}"
    guard = [
        Middleware(PageHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(access.hosts), www_redirect=False),
        Middleware(Keys, key=access.key, token=access.token, cookie=cookie, secure=access.secure),
    ]
    handlers = {InputError: _input_error, HTTPException: _http_error}
    return Starlette(routes=routes, middleware=guard, exception_handlers=handlers)  # type: ignore[arg-type]


class _Pages:
    """The answers."""

    def __init__(
        self, access: Access, room: ReadingRoom | None, library: Library | None, reports: Reports | None
    ) -> None:
        self._access, self._room, self._library, self._reports = access, room, library, reports
        # Only one film at a time is in memory, however many are sent.
        self._one_film = asyncio.Lock()

    async def page(self, request: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    async def about(self, request: Request) -> Response:
        return JSONResponse(
            {
                "version": __version__,
                "token": self._access.token,
                "max_upload": MAX_UPLOAD,
                "colours": colours(),
                "opacity": most_opaque(),
                "model": self._room.about() if self._room else None,
                "examples": self._room.example_names if self._room else [],
                "store": self._library.about() if self._library else None,
                "reports": self._reports is not None,
            }
        )

    async def read(self, request: Request) -> Response:
        assert self._room is not None
        async with self._one_film:
            content = await read_body(request, MAX_UPLOAD)
            if content is None:
                raise HTTPException(413, f"the film is larger than {MAX_UPLOAD // 2**20} MB")
            return JSONResponse(await run_in_threadpool(self._room.read, content))

    async def read_example(self, request: Request) -> Response:
        assert self._room is not None
        number = request.path_params["number"]
        if number >= len(self._room.example_names):
            raise HTTPException(404, "there is no such example")
        async with self._one_film:
            return JSONResponse(await run_in_threadpool(self._room.read_example, number))

    async def overlay(self, request: Request) -> Response:
        assert self._room is not None
        picture = await run_in_threadpool(self._room.overlay, request.path_params["name"])
        if picture is None:
            raise HTTPException(404, "the film is no longer in memory; drop it again")
        return Response(picture, media_type="image/png", headers={"content-disposition": _attached("overlay.png")})

    async def dicom_object(self, request: Request) -> Response:
        assert self._room is not None
        name, kind = request.path_params["name"], request.path_params["kind"]
        is_deidentified = request.query_params.get("deidentified") == "1"
        file = await run_in_threadpool(self._room.dicom_object, name, kind, is_deidentified)
        if file is None:
            raise HTTPException(404, "the film is no longer in memory, or there is no such result of it")
        headers = {"content-disposition": _attached(f"{kind}.dcm")}
        return Response(file, media_type="application/dicom", headers=headers)

    async def cases(self, request: Request) -> Response:
        assert self._library is not None
        return JSONResponse(await run_in_threadpool(self._library.find, _query(request.query_params)))

    async def case(self, request: Request) -> Response:
        assert self._library is not None
        text = request.query_params.get("reading")
        reading = None if text is None else _number("reading", text, int, 0, 10_000)
        return JSONResponse(await run_in_threadpool(self._library.case, request.path_params["row"], reading))

    async def survey(self, request: Request) -> Response:
        assert self._library is not None
        return JSONResponse(self._library.survey())

    async def start_survey(self, request: Request) -> Response:
        assert self._library is not None
        self._library.start_survey()
        return JSONResponse(self._library.survey())

    async def stop_survey(self, request: Request) -> Response:
        assert self._library is not None
        await run_in_threadpool(self._library.stop_survey)
        return JSONResponse(self._library.survey())

    async def reports(self, request: Request) -> Response:
        assert self._reports is not None
        return JSONResponse(await run_in_threadpool(self._reports.listed))

    async def report(self, request: Request) -> Response:
        assert self._reports is not None
        text = await run_in_threadpool(self._reports.read, request.path_params["name"])
        if text is None:
            raise HTTPException(404, "there is no report of this name")
        return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})


def _attached(name: str) -> str:
    return f'attachment; filename="{name}"'


def _query(given: Mapping[str, str]) -> Query:
    """The query in an address; missing values are the defaults."""
    return Query(
        label=given.get("label", ""),
        split=given.get("split", ""),
        class_name=given.get("class", ""),
        low=_number("low", given.get("low", "0"), float, 0, 1),
        high=_number("high", given.get("high", "1"), float, 0, 1),
        distance=_number("distance", given.get("distance", "0"), float, 0, 1),
        cc=_number("cc", given.get("cc", "1"), float, -1, 1),
        sort=given.get("sort", next(iter(SORTS))),
        page=_number("page", given.get("page", "0"), int, 0, 10_000_000),
    )


def _number(name: str, text: str, kind: Callable[[str], _T], low: float, high: float) -> _T:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:  # type: ignore[operator]
        raise HTTPException(400, f"{name}: must be a number of {low:g} to {high:g}")
    return value


async def _input_error(request: Request, error: InputError) -> Response:
    # A file that is no film is a fault of the content; all other faults are in the address.
    return JSONResponse({"error": str(error)}, 422 if request.method == "POST" else 400)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))
