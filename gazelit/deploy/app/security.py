"""Checks before every answer of the page: who may send requests, and what a browser may do with the answer."""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Only the page's own files: no other server, no script in the page, no frame except for its reports.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: A report is one file with its style and pictures inside. A run's folder may be foreign: its scripts must not run.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)
TOKEN_HEADER = "x-gazelit-token"
#: No part of a film stays in a browser's cache, and other pages cannot find that there is one.
_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_READS = ("GET", "HEAD")


class PageHeaders:
    """Adds :data:`PAGE_POLICY` and its like to every answer that has none of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Keys:
    """Accepts requests with the key; those that write also need the token.

    Other users of the machine can reach its loopback, too. Therefore each start has its own key, in the address that
    the command prints. The key becomes a cookie, which other sites cannot make a browser send. Requests that write also
    need the token, which only the page's own script can read.

    Args:
        app: The protected application.
        key: In ``?key=`` and the cookie.
        token: In the header of requests that write.
        cookie: Name of the cookie; two apps on two ports must not take each other's.
        secure: Whether the cookie is sent only over TLS.
    """

    def __init__(self, app: ASGIApp, key: str, token: str, cookie: str, secure: bool) -> None:
        self.app, self.key, self.token, self.cookie, self.secure = app, key, token, cookie, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        answer = self._answer(scope) if scope["type"] == "http" else None
        await (answer or self.app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """None for a request that may pass."""
        headers = Headers(scope=scope)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0]
        if scope["path"] == "/" and scope["method"] in _READS and _same(given, self.key):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(self.cookie, self.key, httponly=True, samesite="strict", secure=self.secure)
            return answer
        if not _same(_cookie(headers.get("cookie", ""), self.cookie), self.key):
            return PlainTextResponse("open the address that `gazelit app` printed: it holds the key\n", 403)
        if scope["method"] not in _READS and not _same(headers.get(TOKEN_HEADER, ""), self.token):
            return JSONResponse({"error": "the page is of an earlier start of gazelit app; load it anew"}, 403)
        return None


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode(), expected.encode())


def _cookie(header: str, name: str) -> str:
    try:
        cookie = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body of a request, kept in memory; None as soon as it is longer than ``limit`` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)
