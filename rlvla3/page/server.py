"""The server of the page: what the browser asks for, and who may ask.

Invariants:
- a run is only read, by this process, which is not the run's: training never waits for a page;
- answers take a small share of the machine, however much there is to read (pace.py);
- nobody is answered without the token, where there is one. Without one, only names of this machine are answered: a web page of somebody else that a browser
  shows cannot read a run through it;
- files come from the package and from the folders of videos of the runs that are shown, and from nowhere else;
- the page loads nothing from another machine.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from rlvla3.errors import ExplainedError, described
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.page.episodes import film_file
from rlvla3.page.pace import Pace
from rlvla3.page.runs_on_show import RunsOnShow
from rlvla3.page.shown import json_text

STATIC = Path(__file__).parent / "static"
COOKIE = "rlvla3_token"
"""The beginning of a cookie's name. A browser sends a cookie to every port of a host, so each token has a cookie of its own."""

TAB = "Browser-Tab"
"""A header of what a browser asks: which tab it is."""

AGAIN = "Ask-Again-Ms"
"""A header of the list of runs: how long a browser that follows a run waits before it asks again."""

POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self'; frame-ancestors 'none'"
"""The browser refuses whatever would come from elsewhere. Styles are set by the plotting library."""


def application(folder: Path, hosts: frozenset[str] | None, token: str | None) -> Starlette:
    """hosts: the names that the page may be asked under, without a port; None for any. token: what whoever asks must know, or None."""
    runs, pace = RunsOnShow(folder), Pace()
    of_run: dict[str, Callable[[Request, str, Path], Response]] = {
        "run": lambda request, name, path: _told(request, runs.run(name, path)),
        "explanation": lambda request, name, path: _told(request, runs.explanation(name, path)),
        "timeline": lambda request, name, path: _told(request, runs.timeline(name, path, _number(request, "seconds"), _number(request, "end"))),
        "films": lambda request, name, path: _told(request, runs.films(name, path)),
        "film": lambda request, name, path: _film(request, path),
    }
    routes = [
        Route("/", lambda request: FileResponse(STATIC / "index.html")),
        Route("/plotly.js", lambda request: FileResponse(plotly_file(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})),
        Route("/api/runs", _answered(lambda request: _told(request, runs.listed(), {AGAIN: str(round(1000 * pace.again_s(request.headers.get(TAB, ""))))}))),
        *(Route(f"/api/{what}", _answered(_of_run(runs, answer))) for what, answer in of_run.items()),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts, token=token), Middleware(GZipMiddleware, minimum_size=2000, compresslevel=1)])


def plotly_file() -> Path:
    """The plotting library, from the package that ships it."""
    package = find_spec("plotly")
    assert package is not None and package.origin is not None, "commands.py asks for it first"
    return Path(package.origin).parent / "package_data" / "plotly.min.js"


def _answered(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """What cannot be read is answered in a sentence."""

    def asked(request: Request) -> Response:
        try:
            return answer(request)
        except ExplainedError as error:
            return PlainTextResponse(str(error), status_code=404)
        except OSError as error:
            return PlainTextResponse(f"it cannot be read: {described(error)}", status_code=503)

    return asked


def _of_run(runs: RunsOnShow, answer: Callable[[Request, str, Path], Response]) -> Callable[[Request], Response]:
    def asked(request: Request) -> Response:
        name = request.query_params.get("name", "")
        path = runs.path(name)
        return answer(request, name, path) if path is not None else PlainTextResponse(f"there is no run {name:.200} here", status_code=404)

    return asked


def _told(request: Request, content: Any, more: Mapping[str, str] = MappingProxyType({})) -> Response:
    """`content` as JSON; "not changed" where the browser has it already."""
    text = json_text(content).encode()
    tag = f'"{hashlib.blake2b(text, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", **more}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(text, media_type="application/json", headers=headers)


def _number(request: Request, name: str) -> float | None:
    try:
        number = float(request.query_params[name])
    except (KeyError, ValueError):
        return None
    return number if abs(number) < 1e12 else None


def _film(request: Request, path: Path) -> Response:
    film = film_file(RunDirectory(path).videos, request.query_params.get("film", ""))
    return FileResponse(film, media_type="video/mp4") if film is not None else PlainTextResponse("there is no such film", status_code=404)


class Guard:
    """Lets in whoever knows the token, or whoever asks under a name of this machine. The token comes once in the address, and then as a cookie."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token
        self._cookie = f"{COOKIE}_{hashlib.blake2b((token or '').encode(), digest_size=8).hexdigest()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refused(request)
        answer: Callable[[Scope, Receive, Send], Awaitable[None]] = refused or self._app

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *GUARDING]
            await send(message)

        await answer(scope, receive, send_guarded)

    def _refused(self, request: Request) -> Response | None:
        if self._token is None:
            known = self._hosts is None or (_host_of(request) in self._hosts)
            return None if known else PlainTextResponse("this page is for this machine: open it as http://127.0.0.1 with its port", status_code=403)
        given = request.query_params.get("token")
        if given is not None and self._is_token(given):
            answer = RedirectResponse(request.url.path, status_code=303)
            answer.set_cookie(self._cookie, given, httponly=True, samesite="strict")
            return answer
        if self._is_token(request.cookies.get(self._cookie, "")) or self._is_token(request.headers.get("authorization", "").removeprefix("Bearer ")):
            return None
        return PlainTextResponse("this page needs its token: open the address that `rlvla3 watch` has printed", status_code=401)

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())


def _host_of(request: Request) -> str:
    """The name in the Host header, without its port. Empty where there is none."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


GUARDING = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
