"""All watchers of a run, from its start to its end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from rlvla3.config import Recipe
from rlvla3.observability.events import Watcher
from rlvla3.observability.formatting import run_result
from rlvla3.observability.metrics_file import JsonLines, MetricsFile
from rlvla3.observability.progress import PlainProgress
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.summary import Summary
from rlvla3.observability.tensorboard import TensorBoardWatcher
from rlvla3.observability.tracing import TraceFile


@contextmanager
def watched(run: RunDirectory, recipe: Recipe, title: str, version: int | None = None, as_json: bool = False) -> Iterator[Sequence[Watcher]]:
    """The watchers of a run. Whenever the run ends, they are closed, the terminal is given back, the summary is written and the result is printed.

    title: the name of the run. version: the update that a continued run starts from. None means a new run.
    as_json: whether stdout gets JSON lines, the summary as the last. Otherwise a terminal gets a table, and a pipe gets plain lines.
    """
    with ExitStack() as stack:
        summary = Summary(run, recipe)
        stack.callback(_print_result, summary, run, as_json)  # it runs after the watchers are closed, because a stack unwinds in reverse order
        files: list[Watcher] = [summary, MetricsFile(run), TensorBoardWatcher(run, version)]
        traces: list[Watcher] = [TraceFile(run)] if recipe.engine.trace else []
        watchers = [stack.enter_context(closing(watcher)) for watcher in (*files, *traces, _progress(run, title, as_json))]
        try:
            yield watchers
            summary.ended = "finished"
        except KeyboardInterrupt:
            summary.ended = "interrupted"
            raise
        except BaseException as error:
            summary.ended = f"failed: {error}"
            raise


def _progress(run: RunDirectory, title: str, as_json: bool) -> Watcher:
    if as_json:
        return JsonLines(sys.stdout)
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return PlainProgress(sys.stdout)
    from rich.console import Console

    from rlvla3.observability.live_table import LiveTable

    return LiveTable(Console(), title, str(run.path))


def _print_result(summary: Summary, run: RunDirectory, as_json: bool) -> None:
    content = summary.content()
    if as_json:
        print(json.dumps({"seconds": round(content["wall_seconds"], 3), "event": "summary", **content}), flush=True)
    elif not summary.ended.startswith("failed"):
        print(f"{summary.ended}: {run_result(content)}\nkept in {run.path}", flush=True)
        if summary.ended == "interrupted" and run.latest_checkpoint():
            print(f"continue with: rlvla3 train {run.path}", flush=True)
