"""The server of the page: what the browser asks for, and who may ask.

Invariants:
- a run is only read, by this process, which is not the run's: training never waits for a page;
- nobody is answered without the token, where there is one. Without one, only names of this machine are answered: a web page of somebody else that a browser
  shows cannot read a run through it;
- files come from the package and from the folders of videos of the runs that are shown, and from nowhere else;
- the page loads nothing from another machine.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
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
from rlvla3.page.episodes import FILM, films
from rlvla3.page.explaining import Sentence, advice_of, explain
from rlvla3.page.folder import FoundRun, find_runs
from rlvla3.page.run_facts import facts_of, machine_use
from rlvla3.page.run_reader import RunReader
from rlvla3.page.shown import film_json, glossary, machine_json, run_json, timeline_json
from rlvla3.page.timeline import Timeline

STATIC = Path(__file__).parent / "static"
COOKIE = "rlvla3_token"
MOST_OPEN = 16
"""Runs that are kept in memory. The one that was asked for longest ago is forgotten first."""

SHOWN_S, SHORTEST_S, LONGEST_S = 60.0, 1e-3, 3600.0
"""Of a timeline."""

ADVISED_EVERY_S = 600.0
"""Advice rests on rehearsals, which take seconds of a core. A run that goes on needs its cores."""

MACHINE_BYTES = 64 << 10

POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self'; frame-ancestors 'none'"
"""The browser refuses whatever would come from elsewhere. Styles are set by the plotting library."""


@dataclass
class _Open:
    """A run that is shown. lock: one answer at a time reads it. advice: the newest, and when it was made. said: the explanation of what was
    `known` then."""

    reader: RunReader
    timeline: Timeline
    lock: threading.Lock = field(default_factory=threading.Lock)
    advised_at: float | None = None
    advice: Sequence[Sentence] = ()
    known: object = None
    said: list[dict[str, Any]] = field(default_factory=list)


class RunsOnShow:
    """The runs of a folder, each with its reader."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def found(self) -> list[FoundRun]:
        return find_runs(self._folder)

    def path(self, name: str) -> Path | None:
        return next((run.path for run in self.found() if run.name == name), None)

    def listed(self) -> list[dict[str, Any]]:
        return [{"name": run.name, "written": run.written, **RunReader(run.path).brief()} for run in self.found()]

    def run(self, name: str, path: Path) -> dict[str, Any]:
        opened = self._opened(name, path)
        with opened.lock:
            opened.reader.refresh()
            shown = run_json(opened.reader)
        machine = machine_json(machine_use(path, MACHINE_BYTES))
        return {"name": name, "place": str(path), **shown, "machine": machine, "glossary": glossary(shown["curves"])}

    def explanation(self, name: str, path: Path) -> list[dict[str, Any]]:
        opened = self._opened(name, path)
        with opened.lock:
            opened.reader.refresh()
            facts = facts_of(opened.reader)
            known = facts.metrics.seconds, facts.ended, facts.state, facts.settings
            if known == opened.known:
                return opened.said
            said = explain(facts)
            if opened.advised_at is None or (facts.state == "running" and time.monotonic() - opened.advised_at > ADVISED_EVERY_S):
                opened.advised_at, opened.advice = time.monotonic(), [sentence for sentence in explain(facts, advice_of(facts)) if sentence not in said]
            opened.known, opened.said = known, [asdict(sentence) for sentence in (*said, *opened.advice)]
            return opened.said

    def timeline(self, name: str, path: Path, seconds: float | None, end: float | None) -> dict[str, Any]:
        opened = self._opened(name, path)
        with opened.lock:
            lanes = opened.timeline.lanes()
        return timeline_json(lanes, min(max(seconds or SHOWN_S, SHORTEST_S), LONGEST_S), end)

    def _opened(self, name: str, path: Path) -> _Open:
        with self._lock:
            if name not in self._open:
                self._open[name] = _Open(RunReader(path), Timeline(RunDirectory(path)))
            self._open.move_to_end(name)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return self._open[name]


def application(folder: Path, hosts: frozenset[str] | None, token: str | None) -> Starlette:
    """hosts: the names that the page may be asked under, without a port; None for any. token: what whoever asks must know, or None."""
    runs = RunsOnShow(folder)
    of_run: dict[str, Callable[[Request, str, Path], Response]] = {
        "run": lambda request, name, path: _told(request, runs.run(name, path)),
        "explanation": lambda request, name, path: _told(request, runs.explanation(name, path)),
        "timeline": lambda request, name, path: _told(request, runs.timeline(name, path, _number(request, "seconds"), _number(request, "end"))),
        "films": lambda request, name, path: _told(request, [film_json(film) for film in films(path / "videos")]),
        "film": lambda request, name, path: _film(request, path),
    }
    routes = [
        Route("/", lambda request: FileResponse(STATIC / "index.html")),
        Route("/plotly.js", lambda request: FileResponse(plotly_file(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})),
        Route("/api/runs", _answered(lambda request: _told(request, runs.listed()))),
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


def _told(request: Request, content: Any) -> Response:
    """`content` as JSON; "not changed" where the browser has it already."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    tag = f'"{hashlib.blake2b(text, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
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
    film = request.query_params.get("film", "")
    file = path / "videos" / film
    if not FILM.fullmatch(film) or "/" in film or not file.is_file():
        return PlainTextResponse("there is no such film", status_code=404)
    return FileResponse(file, media_type="video/mp4")


class Guard:
    """Lets in whoever knows the token, or whoever asks under a name of this machine. The token comes once in the address, and then as a cookie."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token

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
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict")
            return answer
        if self._is_token(request.cookies.get(COOKIE, "")) or self._is_token(request.headers.get("authorization", "").removeprefix("Bearer ")):
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
