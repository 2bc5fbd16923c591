"""`rlvla3 watch`: the page, served until a signal comes."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from rlvla3.errors import RecipeError
from rlvla3.listening import check_reach, listen, token_of
from rlvla3.observability.formatting import number_of
from rlvla3.page.folder import find_runs

NEEDED = ("starlette", "uvicorn", "plotly")
INSTALL = "pip install 'rlvla3[page]' brings what is missing"

PORT = 7860
TRIED = 20
"""Ports from PORT on that are tried where the user names none: somebody may watch another run."""

NICE = 5
"""The cores of a machine are for its runs first."""

GOODBYE_S = 1
"""How long answers that have begun may take when the server ends."""

OF_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def watch(place: Path | None, host: str, port: int | None, token: str | None, token_file: Path | None) -> None:
    """Serve the page of a run, or of the runs in a folder. Raises RecipeError where it cannot be served as asked.

    place: None is the folder runs here, or else this folder. port: None is the first free one from PORT on.
    """
    check_packages("rlvla3 watch")
    place = place or (Path("runs") if Path("runs").is_dir() else Path())
    found = len(find_runs(place))
    known = token_of(token, token_file)
    check_reach(host, known, "could see your runs")
    _say(f"{number_of(found, 'run')} in {place}")
    serve_page(place, host, port, known, "Ctrl-C ends the page, and no run", shows_token=token == "new")


def check_packages(who: str) -> None:
    """Raise RecipeError where a package is missing. who: what the user has asked for."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RecipeError(f"{who} needs the packages starlette, uvicorn and plotly, and {missing[0]} is not installed: {INSTALL}")


def serve_page(place: Path, host: str, port: int | None, token: str | None, ends: str, shows_token: bool = False, until: TextIO | None = None) -> None:
    """Serve until a signal comes. ends: what ends it, for the line that says where it is. until: a stream whose end ends it too. Raises RecipeError."""
    import uvicorn

    from rlvla3.page.server import application

    os.nice(NICE)
    sockets = _listen(host, port)
    app = application(place.absolute(), frozenset((*OF_THIS_MACHINE, host.lower())), token)
    config = uvicorn.Config(app, log_level="critical", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=GOODBYE_S)
    server = uvicorn.Server(config)
    if until is not None:
        threading.Thread(target=_end_with, args=(until, server), daemon=True).start()
    address = f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}/{f'?token={token}' if shows_token else ''}"
    _say(f"open {address}{f'   ({ends})' if ends else ''}")
    server.run(sockets=sockets)


def _end_with(stream: TextIO, server: Any) -> None:
    stream.read()
    server.should_exit = True


def _listen(host: str, port: int | None) -> list[socket.socket]:
    if port is not None:
        return listen(host, port)
    for tried in range(PORT, PORT + TRIED):
        with suppress(RecipeError):
            return listen(host, tried)
    return listen(host, 0)


def _say(line: str) -> None:
    """A line for the terminal. The page goes on where nobody can read it."""
    with suppress(OSError, ValueError):
        print(line, flush=True)
