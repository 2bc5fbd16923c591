"""All watchers of a run, from its start to its end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Literal

from rlvla3.config import Recipe
from rlvla3.observability.events import Watcher
from rlvla3.observability.formatting import run_result
from rlvla3.observability.metrics_file import JsonLines, MetricsFile
from rlvla3.observability.progress import PlainProgress
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.summary import Summary
from rlvla3.observability.tensorboard import TensorBoardWatcher
from rlvla3.observability.tracing import TraceFile

Show = Literal["progress", "json", "nothing"]
"""What stdout gets of a run.

progress: a table in a terminal or in a notebook, plain lines elsewhere. json: JSON lines, the last of which is the summary.
"""


@contextmanager
def watched(run: RunDirectory, recipe: Recipe, title: str, version: int | None = None, show: Show = "progress") -> Iterator[Sequence[Watcher]]:
    """The watchers of a run. Whenever the run ends, they are closed, the terminal is given back, the summary is written and the result is printed.

    title: the name of the run. version: the update that a continued run starts from. None means a new run. show: what stdout gets.
    """
    with ExitStack() as stack:
        summary = Summary(run, recipe)
        stack.callback(_print_result, summary, run, show)  # it runs after the watchers are closed, because a stack unwinds in reverse order
        files: list[Watcher] = [summary, MetricsFile(run), TensorBoardWatcher(run, version)]
        traces: list[Watcher] = [TraceFile(run)] if recipe.engine.trace else []
        watchers = [stack.enter_context(closing(watcher)) for watcher in (*files, *traces, *_on_stdout(run, title, show))]
        try:
            yield watchers
            summary.ended = "finished"
        except KeyboardInterrupt:
            summary.ended = "interrupted"
            raise
        except BaseException as error:
            summary.ended = f"failed: {error}"
            raise


def _on_stdout(run: RunDirectory, title: str, show: Show) -> list[Watcher]:
    if show == "nothing":
        return []
    if show == "json":
        return [JsonLines(sys.stdout)]
    if in_notebook():
        from rlvla3.observability.notebook import NotebookProgress

        return [NotebookProgress(title, str(run.path))]
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return [PlainProgress(sys.stdout)]
    from rich.console import Console

    from rlvla3.observability.live_table import LiveTable

    return [LiveTable(Console(), title, str(run.path))]


def in_notebook() -> bool:
    """Whether output goes into a Jupyter notebook. IPython is imported there; if it is not, nothing has to be imported to know."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def _print_result(summary: Summary, run: RunDirectory, show: Show) -> None:
    if show == "nothing":
        return
    content = summary.content()
    if show == "json":
        print(json.dumps({"seconds": round(content["wall_seconds"], 3), "event": "summary", **content}), flush=True)
    elif not summary.ended.startswith("failed"):
        print(f"{summary.ended}: {run_result(content)}\nkept in {run.path}", flush=True)
        if summary.ended == "interrupted" and run.latest_checkpoint():
            print(f"continue with: rlvla3 train {run.path}", flush=True)
