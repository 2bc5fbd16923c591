"""What a page that is open costs the run that it shows (`bench watched`): the run of `bench interaction`, with a timeline.

Windows without and with the page alternate in one run, so that whatever else the machine does meets both. The benchmark asks what a browser asks, as often as
the page's own script does. What a browser needs to draw is not in the figures: it is at work where its user sits.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import psutil

from rlvla3.benchmarks.chaos.observed_run import ObservedRun
from rlvla3.benchmarks.interaction import ENDLESS, EPISODE_STEPS, SLOW_IMAGES
from rlvla3.benchmarks.vector import median_ratio
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.observability.formatting import number_of

AGAIN = "Ask-Again-Ms"
"""The header in which the page is told when to ask again."""

ASKED = ("run", "films", "timeline", "explanation")

START_S, END_S = 180.0, 60.0

SETTLE_S = 20.0
"""Before the first window, and after the page was opened. Opening it costs some seconds of a core once: all is read, and advice is made."""

PATIENCE_S = 60.0


def main(pairs: int, seconds: float, shards: int, figures: Path) -> bool:
    """Measure `pairs` pairs of windows of so many seconds each. Returns whether the run could be measured."""
    with tempfile.TemporaryDirectory(prefix="rlvla3-watched-", ignore_cleanup_errors=True) as folder:
        run = ObservedRun(Path(folder), f"watched-{os.getpid()}", watched_recipe(shards))
        try:
            if not run.begin(START_S, SETTLE_S):
                return False
            measured = [_pair(run, seconds, first_watched=bool(pair % 2)) for pair in range(pairs)]
            run.send(signal.SIGINT)
            run.wait(END_S)
        finally:
            run.kill_all()
    ratio = median_ratio([pair["ratio"] for pair in measured])
    print(f"median ratio {ratio['median']:.4f}, from {ratio['least']:.4f} to {ratio['greatest']:.4f}")
    write_figures({"ratio": ratio, "pairs": measured, "shards": shards, "cores": psutil.cpu_count()}, figures)
    return True


def watched_recipe(shards: int) -> dict[str, Any]:
    """The run of `bench interaction` as a user would start it to see its timeline."""
    return {
        "simulator": {"name": SLOW_IMAGES, "shards": shards, "max_steps": EPISODE_STEPS},
        "policy": {"name": "actor_critic", "chunk": 1},
        "training": {"updates": ENDLESS, "batch": shards, "steps": 1, "epochs": 1, "micro_batch": 128, "checkpoint_every": ENDLESS},
        "engine": {"mode": "full_async", "max_staleness": 2, "trace": True},
        "evaluation": {"before": False, "after": False},
    }


def _pair(run: ObservedRun, seconds: float, first_watched: bool) -> dict[str, Any]:
    sides = {side: _window(run, seconds, watched=side == "with") for side in (("with", "without") if first_watched else ("without", "with"))}
    ratio = sides["with"]["steps_per_second"] / sides["without"]["steps_per_second"]
    rates = f"without {sides['without']['steps_per_second']:.1f} steps/s, with {sides['with']['steps_per_second']:.1f}"
    served = f"the page took {100 * sides['with']['cores']:.1f} % of a core, and {sides['with']['opened_s']:.1f} s of one while it was opened"
    print(f"{rates}, ratio {ratio:.4f}; {served}", flush=True)
    return {**sides, "ratio": ratio}


def _window(run: ObservedRun, seconds: float, watched: bool) -> dict[str, float]:
    """Environment steps a second between the first and the last update of a window. With a page: how many cores it took then, and how many seconds of one
    before."""
    if not watched:
        return {"steps_per_second": _rate(run, seconds)}
    with page(run.path) as server:
        run.wait(SETTLE_S)
        opened_s, began = _worked(server), time.monotonic()
        rate = _rate(run, seconds)
        return {"steps_per_second": rate, "cores": (_worked(server) - opened_s) / (time.monotonic() - began), "opened_s": opened_s}


def _rate(run: ObservedRun, seconds: float) -> float:
    before = len(run.metrics("update"))
    run.wait(seconds)
    made = run.metrics("update")[before:]
    if len(made) < 2:
        raise RecipeError(f"{number_of(len(made), 'update')} in {seconds:g} s: a rate needs two, so give more seconds with --seconds, or fewer environments")
    first, last = made[0], made[-1]
    return float((last["environment_steps"] - first["environment_steps"]) / (last["wall_seconds"] - first["wall_seconds"]))


@contextmanager
def page(run: Path) -> Iterator[psutil.Process]:
    """The process of `rlvla3 watch` on a run, and somebody who looks at its page all the time."""
    command = [sys.executable, "-m", "rlvla3", "watch", str(run), "--port", "0"]
    over = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            browser = threading.Thread(target=_look, args=(address, over), daemon=True)
            browser.start()
            yield psutil.Process(server.pid)
            over.set()
            browser.join(PATIENCE_S)
        finally:
            server.terminate()


def _look(address: str, over: threading.Event) -> None:
    """Ask what page.js asks, until it is over."""
    tags: dict[str, str] = {}
    again_s = 0.0
    while not over.wait(again_s):
        (run, *_), again_s = _ask(address, "api/runs", {})
        for what in ASKED:
            _ask(address, f"api/{what}?name={quote(run['name'])}{'&seconds=60' if what == 'timeline' else ''}", tags)


def _ask(address: str, path: str, tags: dict[str, str]) -> tuple[Any, float]:
    """The answer, and after how many seconds it is to be asked for again. tags: of earlier answers; None is answered where nothing has changed."""
    request = Request(address + path, headers={"Accept-Encoding": "gzip", "If-None-Match": tags.get(path, "")})
    try:
        with urlopen(request, timeout=PATIENCE_S) as answer:
            tags[path] = answer.headers.get("ETag", "")
            content = answer.read()
            text = gzip.decompress(content) if answer.headers.get("Content-Encoding") == "gzip" else content
            return json.loads(text), float(answer.headers.get(AGAIN, 0)) / 1000
    except HTTPError as error:
        if error.code == HTTPStatus.NOT_MODIFIED:
            return None, 0.0
        raise


def _worked(server: psutil.Process) -> float:
    """Seconds of a core that the server and its processes have worked."""
    times = server.cpu_times()
    alive = sum(sum(child.cpu_times()[:2]) for child in server.children(recursive=True))
    return float(times.user + times.system + times.children_user + times.children_system + alive)
